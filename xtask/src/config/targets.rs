//! The targets of a scrape config, and everything that is wrong with them.

use crate::config::{ArchiveRoot, Source, tilde_note};
use crate::text::printable;
use serde_json::{Map, Value};
use std::collections::HashMap;
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

impl ScrapeConfig {
    /// Reads the targets of a config. Unknown keys are allowed: other tools use the file too.
    pub(crate) fn new(source: &Source, archive_root: Option<&ArchiveRoot>) -> ScrapeConfig {
        let mut problems = Vec::new();
        let mut notes: Vec<String> = archive_root.and_then(ArchiveRoot::note).into_iter().collect();
        if archive_root.is_none() {
            problems.push("config is missing archive_root".to_owned());
        }
        let written = match source.config.get("targets") {
            Some(Value::Array(targets)) => &targets[..],
            None | Some(Value::Null) => &[],
            Some(other) => {
                problems.push(format!("config has the targets {}, which is not a list", quoted(&other.to_string())));
                &[]
            }
        };
        let mut targets = Vec::with_capacity(written.len());
        for (index, written) in written.iter().enumerate() {
            let mut reader = Reader { object: written.as_object(), problems: Vec::new() };
            let target = reader.target(index, source);
            let shown = quoted(&target.name);
            problems.extend(reader.problems.into_iter().map(|problem| format!("target {shown} {problem}")));
            problems.extend(target.output_dir.as_ref().and_then(|folder| folder.problem(&shown, archive_root)));
            let written = target.output_dir.as_ref().map(|folder| &folder.written[..]).unwrap_or_default();
            notes.extend(tilde_note(&format!("output_dir of target {shown}"), written));
            targets.push(target);
        }
        if written.is_empty() {
            problems.push("config has no targets".to_owned());
        } else if targets.iter().all(|target| !target.is_enabled) {
            problems.push("config has no enabled target".to_owned());
        }
        problems.extend(duplicates(&targets));
        ScrapeConfig { targets, problems, notes }
    }

    pub(crate) fn enabled(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.is_enabled)
    }
}

/// Reads one target, and collects what is wrong with it.
struct Reader<'a> {
    object: Option<&'a Map<String, Value>>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    fn target(&mut self, index: usize, source: &Source) -> Target {
        if self.object.is_none() {
            self.problems.push("is not an object".to_owned());
        }
        let name = self.text("name").filter(|name| !name.is_empty());
        if name.is_none() {
            self.problems.push("has no name".to_owned());
        }
        if let Some(kind) = self.text("kind").filter(|kind| !matches!(*kind, "guild" | "dms")) {
            self.problems.push(format!("has the unknown kind {} (it is `guild` or `dms`)", quoted(kind)));
        }
        let written = self.text("output_dir").filter(|written| !written.is_empty() && !written.contains('\0'));
        if written.is_none() {
            self.problems.push("has no output_dir".to_owned());
        }
        let path = |written: &str| source.resolve(written).unwrap_or_else(|| written.into());
        Target {
            name: name.map_or_else(|| format!("(target {})", index + 1), str::to_owned),
            output_dir: written.map(|written| OutputDir { written: written.to_owned(), path: path(written) }),
            is_enabled: self.value("enabled", "true or false", Value::as_bool).unwrap_or(true),
            channel_ids: self.value("channel_ids", "a list of ids", ids).unwrap_or_default(),
            disabled_reason: self.text("disabled_reason").map(str::to_owned),
        }
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        self.value(key, "a string", Value::as_str)
    }

    fn value<T>(&mut self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.object?.get(key).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            self.problems.push(format!("has the {key} {}, which is not {kind}", quoted(&value.to_string())));
        }
        read
    }
}

/// Discord ids: strings, or numbers with all their digits.
fn ids(value: &Value) -> Option<Vec<String>> {
    let id = |value: &Value| match value {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())),
        _ => None,
    };
    value.as_array()?.iter().map(id).collect()
}

impl OutputDir {
    fn problem(&self, target: &str, archive_root: Option<&ArchiveRoot>) -> Option<String> {
        let shown = quoted(&self.written);
        if self.path.components().any(|component| component == Component::ParentDir) {
            return Some(format!("target {target} has `..` in its output_dir {shown}"));
        }
        let root = &archive_root?.path;
        let is_below = self.path.starts_with(root) && self.path != *root;
        let root = crate::text::path(root);
        (!is_below).then(|| format!("target {target} has its output_dir {shown} not under archive_root `{root}`"))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> ScrapeConfig {
        let source = Source::parse(Path::new(name), text.into()).unwrap();
        _ = source.folder.set(Some("/etc/dce".into()));
        ScrapeConfig::new(&source, source.archive_root().unwrap().as_ref())
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
        let long = r#"{ "targets": [ { "channel_ids": [1234567890123456789012] } ] }"#;
        assert_eq!(read("c.json", long).targets[0].channel_ids, ["1234567890123456789012"]);
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
        let odd = r#"{ "archive_root": "/a", "targets": [5, { "name": 7, "output_dir": "/a/a", "enabled": "no",
            "channel_ids": [1e22] }] }"#;
        assert_eq!(
            read("c.json", odd).problems,
            [
                "target `(target 1)` is not an object",
                "target `(target 1)` has no name",
                "target `(target 1)` has no output_dir",
                "target `(target 2)` has the name `7`, which is not a string",
                "target `(target 2)` has no name",
                "target `(target 2)` has the enabled `\"no\"`, which is not true or false",
                "target `(target 2)` has the channel_ids `[1e+22]`, which is not a list of ids",
            ]
        );
        assert_eq!(read("c.json", "{}").problems, ["config is missing archive_root", "config has no targets"]);
    }
}
