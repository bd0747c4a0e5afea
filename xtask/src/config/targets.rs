//! The targets of a scrape config, and everything that is wrong with them.

use crate::config::{ArchiveRoot, Object, Source};
use crate::text::printable;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// What a scrape works on.
pub(crate) struct ScrapeConfig {
    /// In the file's order.
    pub(crate) targets: Vec<Target>,
    /// What the scraper would refuse, a sentence each.
    pub(crate) problems: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// A target. Its texts are foreign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The name, or `(target N)` when it has none.
    pub(crate) name: String,
    pub(crate) output_dir: Option<OutputDir>,
    pub(crate) is_enabled: bool,
    pub(crate) channel_ids: Vec<String>,
    pub(crate) disabled_reason: Option<String>,
}

/// A target's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputDir {
    /// As written in the config.
    pub(crate) written: String,
    /// Absolute.
    pub(crate) path: PathBuf,
}

/// Unknown keys are allowed: other tools use the file too.
#[derive(Deserialize)]
struct Written {
    targets: Option<Vec<Object<WrittenTarget>>>,
}

#[derive(Deserialize)]
struct WrittenTarget {
    name: Option<String>,
    kind: Option<String>,
    output_dir: Option<String>,
    enabled: Option<bool>,
    channel_ids: Option<Vec<Id>>,
    disabled_reason: Option<String>,
}

/// A Discord id: text, or a number with all its digits.
struct Id(String);

impl ScrapeConfig {
    /// Parses the targets of a config whose archive root is known.
    pub(crate) fn read(source: &Source, archive_root: Option<&ArchiveRoot>) -> anyhow::Result<ScrapeConfig> {
        let written: Written = source.parse()?;
        let mut problems = Vec::new();
        let mut notes = Vec::new();
        if archive_root.is_none() {
            problems.push("config is missing archive_root".to_owned());
        }
        notes.extend(archive_root.and_then(ArchiveRoot::notes));
        let written = written.targets.unwrap_or_default();
        if written.is_empty() {
            problems.push("config has no targets".to_owned());
        } else if written.iter().all(|Object(target)| target.enabled == Some(false)) {
            problems.push("config has no enabled target".to_owned());
        }
        let mut targets = Vec::with_capacity(written.len());
        for (index, Object(target)) in written.into_iter().enumerate() {
            let name = target.name.clone().filter(|name| !name.is_empty());
            let (is_named, kind) = (name.is_some(), target.kind.clone());
            let target = Target {
                name: name.unwrap_or_else(|| format!("(target {})", index + 1)),
                output_dir: output_dir(&target, source),
                is_enabled: target.enabled.unwrap_or(true),
                channel_ids: target.channel_ids.unwrap_or_default().into_iter().map(|Id(id)| id).collect(),
                disabled_reason: target.disabled_reason,
            };
            if !is_named {
                problems.push(format!("target {} has no name", quoted(&target.name)));
            }
            problems.extend(target.problems(kind.as_deref(), archive_root));
            notes.extend(target.note());
            targets.push(target);
        }
        problems.extend(duplicates(&targets));
        Ok(ScrapeConfig { targets, problems, notes })
    }

    pub(crate) fn enabled(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.is_enabled)
    }
}

impl Target {
    fn problems(&self, kind: Option<&str>, archive_root: Option<&ArchiveRoot>) -> Vec<String> {
        let shown = quoted(&self.name);
        let mut problems = Vec::new();
        if let Some(kind) = kind.filter(|kind| !matches!(*kind, "guild" | "dms")) {
            problems.push(format!("target {shown} has the unknown kind {} (it is `guild` or `dms`)", quoted(kind)));
        }
        let Some(OutputDir { written, path }) = &self.output_dir else {
            problems.push(format!("target {shown} has no output_dir"));
            return problems;
        };
        if path.components().any(|component| component == Component::ParentDir) {
            problems.push(format!("target {shown} has `..` in its output_dir {}", quoted(written)));
        } else if let Some(root) = archive_root
            && (!path.starts_with(&root.path) || path == &root.path)
        {
            let root = crate::text::path(&root.path);
            problems
                .push(format!("target {shown} has its output_dir {} not under archive_root `{root}`", quoted(written)));
        }
        problems
    }

    fn note(&self) -> Option<String> {
        let has_tilde = self.output_dir.as_ref()?.written.starts_with('~');
        let shown = quoted(&self.name);
        has_tilde.then(|| {
            format!("output_dir of target {shown} starts with `~`, which is not expanded: it names a folder called `~`")
        })
    }
}

fn output_dir(target: &WrittenTarget, source: &Source) -> Option<OutputDir> {
    let written = target.output_dir.clone().filter(|written| !written.is_empty() && !written.contains('\0'))?;
    Some(OutputDir { path: source.resolve(&written).unwrap_or_else(|| PathBuf::from(&written)), written })
}

/// Names and folders that several targets share.
fn duplicates(targets: &[Target]) -> Vec<String> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    // Paths compare by their components: `a//b/` is `a/b`.
    let mut folders: HashMap<&Path, &str> = HashMap::new();
    let mut problems = Vec::new();
    for target in targets {
        let seen = names.entry(&target.name).or_default();
        *seen += 1;
        if *seen == 2 {
            problems.push(format!("more than one target is called {}", quoted(&target.name)));
        }
        let Some(folder) = &target.output_dir else { continue };
        if let Some(first) = folders.insert(&folder.path, &target.name) {
            let (first, second) = (quoted(first), quoted(&target.name));
            problems.push(format!("targets {first} and {second} have the same output_dir {}", quoted(&folder.written)));
        }
    }
    problems
}

/// Foreign text, made safe to print.
fn quoted(text: &str) -> String {
    format!("`{}`", printable(text.as_bytes()))
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an id, as text or as a whole number of at most 64 bits")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<Id, E> {
                Ok(Id(id.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Id, E> {
                Ok(Id(id.to_string()))
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id.to_string()))
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LockConfig;

    fn try_read(name: &str, text: &str) -> anyhow::Result<ScrapeConfig> {
        let source = Source::new(Path::new(name), "/etc/dce", text);
        let root = source.parse::<LockConfig>()?.archive_root(&source)?;
        ScrapeConfig::read(&source, root.as_ref())
    }

    fn read(name: &str, text: &str) -> ScrapeConfig {
        try_read(name, text).unwrap()
    }

    #[test]
    fn ids_keep_every_digit_as_text_and_as_numbers() {
        let json = r#"{ "archive_root": "/a", "targets": [ { "name": "x", "output_dir": "/a/x",
            "channel_ids": ["123456789012345678", 1234567890123456789, 18446744073709551615] } ] }"#;
        let ids = ["123456789012345678", "1234567890123456789", "18446744073709551615"];
        assert_eq!(read("c.json", json).targets[0].channel_ids, ids);
        let toml =
            "archive_root = '/a'\n[[targets]]\nname = 'x'\noutput_dir = '/a/x'\nchannel_ids = [1234567890123456789]";
        assert_eq!(read("c.toml", toml).targets[0].channel_ids, ["1234567890123456789"]);
        let lossy = r#"{ "targets": [ { "channel_ids": [1234567890123456789012] } ] }"#;
        let error = format!("{:#}", try_read("c.json", lossy).err().unwrap());
        assert!(error.contains("line 1, column") && error.contains("at most 64 bits"), "{error}");
    }

    #[test]
    fn a_sound_config_has_no_problems() {
        let config = read(
            "c.json",
            r#"{ "archive_root": "root", "more": 1, "targets": [
                { "name": "a", "kind": "dms", "output_dir": "root/a/", "enabled": false, "x": [] },
                { "name": "b", "output_dir": "/etc/dce/root/b", "channel_ids": null } ] }"#,
        );
        assert_eq!(config.problems, [""; 0]);
        assert_eq!(config.enabled().map(|target| &target.name[..]).collect::<Vec<_>>(), ["b"]);
        assert_eq!(config.targets[0].output_dir.as_ref().unwrap().path, Path::new("/etc/dce/root/a"));
    }

    #[test]
    fn every_problem_is_reported() {
        let config = read(
            "c.json",
            r#"{ "archive_root": "/a", "targets": [
                { "output_dir": "/a/1" }, { "name": "x" }, { "name": "x", "output_dir": "/a/1/", "kind": "dm" },
                { "name": "y", "output_dir": "/b" }, { "name": "z", "output_dir": "/a/../b" },
                { "name": "t", "output_dir": "~/a" }, { "name": "r", "output_dir": "/a" }, { "name": "p", "output_dir": "/ab" } ] }"#,
        );
        assert_eq!(
            config.problems,
            [
                "target `(target 1)` has no name",
                "target `x` has no output_dir",
                "target `x` has the unknown kind `dm` (it is `guild` or `dms`)",
                "target `y` has its output_dir `/b` not under archive_root `/a`",
                "target `z` has `..` in its output_dir `/a/../b`",
                "target `t` has its output_dir `~/a` not under archive_root `/a`",
                "target `r` has its output_dir `/a` not under archive_root `/a`",
                "target `p` has its output_dir `/ab` not under archive_root `/a`",
                "more than one target is called `x`",
                "targets `(target 1)` and `x` have the same output_dir `/a/1/`",
            ]
        );
        assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
        let disabled =
            r#"{ "archive_root": "/a", "targets": [{ "name": "a", "output_dir": "/a/a", "enabled": false }] }"#;
        assert_eq!(read("c.json", disabled).problems, ["config has no enabled target"]);
        let listed = r#"{ "targets": [["a", null, "/a/a", true, null, null]] }"#;
        assert!(format!("{:#}", try_read("c.json", listed).err().unwrap()).contains("invalid type: sequence"));
        assert_eq!(read("c.json", "{}").problems, ["config is missing archive_root", "config has no targets"]);
    }
}
