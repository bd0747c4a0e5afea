//! The targets of a scrape config, and everything that is wrong with them.

use crate::config::channel::channel_id;
use crate::config::{ArchiveRoot, Source, is_dotted, is_within, tilde_note};
use crate::text::quoted;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::PathBuf;

/// What a scrape works on.
#[derive(Default)]
pub(crate) struct ScrapeConfig {
    /// In the file's order.
    pub(crate) targets: Vec<Target>,
    /// Why the scraper refuses the archive root.
    pub(crate) root_problem: Option<String>,
    /// Why it refuses the targets, whichever are asked for; a sentence each.
    pub(crate) problems: Vec<String>,
    /// Names and folders that several targets share; a sentence each.
    pub(crate) duplicates: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// `container_memory`, for all targets.
    pub(crate) container_memory: Option<String>,
}

/// A target. Its texts are foreign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// The name, or `(target N)` when it has none.
    pub(crate) name: String,
    pub(crate) output_dir: Option<OutputDir>,
    /// For the scraper: it runs when no target is named.
    pub(crate) is_enabled: bool,
    /// Direct messages: Discord alone knows which channels there are.
    pub(crate) is_dms: bool,
    pub(crate) channel_ids: Vec<String>,
    /// Its channels can be asked for: it names guilds.
    pub(crate) has_guilds: bool,
    pub(crate) disabled_reason: Option<String>,
    pub(crate) container_memory: Option<String>,
    /// Values that mean nothing, or not what they seem to: wrong once this target is scraped. A sentence each.
    pub(crate) oddities: Vec<String>,
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
        let mut config = ScrapeConfig {
            root_problem: match archive_root {
                None => Some("config is missing archive_root".to_owned()),
                Some(root) => root.problem().map(|why| format!("archive_root {} {why}", quoted(&root.written))),
            },
            notes: archive_root.and_then(ArchiveRoot::note).into_iter().collect(),
            container_memory: source.config.get("container_memory").and_then(memory),
            ..ScrapeConfig::default()
        };
        if source.path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml")) {
            config.notes.push("the config is TOML, but the scraper's own scripts read only JSON".to_owned());
        }
        let written = match source.config.get("targets") {
            Some(Value::Array(targets)) => &targets[..],
            None | Some(Value::Null) => &[],
            Some(other) => {
                let shown = quoted(other.to_string());
                config.problems.push(format!("config has targets set to {shown}, which is not a list"));
                &[]
            }
        };
        if written.is_empty() {
            config.problems.push("config has no targets".to_owned());
        }
        let defaults = source.config.get("defaults").filter(|defaults| !defaults.is_null() && **defaults != false);
        if let Some(other) = defaults.filter(|defaults| !defaults.is_object()) {
            config
                .problems
                .push(format!("config has defaults set to {}, which is not an object", quoted(other.to_string())));
        }
        for (index, written) in written.iter().enumerate() {
            config.add(index, written, source, archive_root);
        }
        config.duplicates = duplicates(&config.targets);
        config
    }

    fn add(&mut self, index: usize, written: &Value, source: &Source, archive_root: Option<&ArchiveRoot>) {
        let mut reader = Reader { object: written.as_object(), ..Reader::default() };
        let mut target = reader.target(index, source);
        let shown = quoted(&target.name);
        let sentences = |what: Vec<String>| what.into_iter().map(|what| format!("target {shown} {what}"));
        self.problems.extend(sentences(reader.problems));
        self.notes.extend(sentences(reader.notes));
        target.oddities = sentences(reader.oddities).collect();
        if let Some(folder) = &target.output_dir {
            // With a root that it refuses anyway, the scraper does not come this far.
            let root = archive_root.filter(|root| root.problem().is_none());
            self.problems.extend(root.and_then(|root| folder.problem(&shown, root)));
            self.notes.extend(tilde_note(&format!("output_dir of target {shown}"), &folder.written));
        }
        self.targets.push(target);
    }

    pub(crate) fn enabled(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.is_enabled)
    }
}

/// Reads one target, and collects what is wrong with it.
#[derive(Default)]
struct Reader<'a> {
    object: Option<&'a Map<String, Value>>,
    problems: Vec<String>,
    oddities: Vec<String>,
    notes: Vec<String>,
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
        let kind = self.value("kind").filter(|kind| **kind != false);
        if let Some(kind) = kind.filter(|kind| *kind != "guild" && *kind != "dms") {
            let shown = quoted(kind.as_str().unwrap_or(&kind.to_string()));
            self.problems.push(format!("has an unknown kind {shown} (it is `guild` or `dms`)"));
        }
        let written = self.text("output_dir").filter(|written| !written.is_empty() && !written.contains('\0'));
        if written.is_none() {
            self.problems.push("has no output_dir".to_owned());
        }
        let output_dir = written.map(|written| {
            let path = source.resolve(&written).unwrap_or_else(|| written.clone().into());
            OutputDir { written, path }
        });
        let is_enabled = self.read("enabled", "true or false", Value::as_bool).unwrap_or(true);
        let channel_ids = self.channel_ids();
        if output_dir.as_ref().is_some_and(|folder| folder.written.len() > 1 && folder.written.ends_with('/')) {
            let why = "has an output_dir that ends in `/`: the scraper's channel map would lead outside of it";
            self.oddities.push(why.to_owned());
        }
        let is_filled = |key| self.value(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        Target {
            name: name.unwrap_or_else(|| format!("(target {})", index + 1)),
            output_dir,
            is_enabled,
            is_dms: kind.is_some_and(|kind| kind == "dms"),
            channel_ids,
            has_guilds: ["guild_ids", "guild_name_patterns"].into_iter().any(is_filled),
            disabled_reason: self.value("disabled_reason").and_then(Value::as_str).map(str::to_owned),
            container_memory: self.value("container_memory").and_then(memory),
            oddities: Vec::new(),
        }
    }

    /// A value that is there.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key).filter(|value| !value.is_null())
    }

    /// A text; anything else is what jq makes of it, and odd.
    fn text(&mut self, key: &str) -> Option<String> {
        let text = self.read(key, "a string", Value::as_str).map(str::to_owned);
        text.or_else(|| self.value(key).map(Value::to_string))
    }

    /// A value of this kind; any other is odd.
    fn read<T>(&mut self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let read = read(value);
        if read.is_none() {
            let shown = quoted(value.to_string());
            self.oddities.push(format!("has {key} set to {shown}, which is not {kind}"));
        }
        read
    }

    /// Discord ids: strings, or numbers with all their digits.
    fn channel_ids(&mut self) -> Vec<String> {
        let ids = self.read("channel_ids", "a list of ids", |value| {
            let id = |value: &Value| match value {
                Value::String(id) => Some(id.clone()).filter(|id| channel_id(id.as_bytes()).is_some()),
                Value::Number(id) => Some(id.to_string()).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())),
                _ => None,
            };
            let values = value.as_array()?;
            Some((values.iter().map(id).collect::<Option<Vec<String>>>()?, values.iter().any(Value::is_number)))
        });
        let (ids, has_numbers) = ids.unwrap_or_default();
        if has_numbers {
            self.notes
                .push("has a number in its channel_ids: jq before 1.7 rounds it; write it as a string".to_owned());
        }
        ids
    }
}

/// A memory limit: `"8g"`, or a number of bytes; 0 is none.
fn memory(value: &Value) -> Option<String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Some(text).filter(|text| !matches!(&text[..], "" | "0" | "null" | "false"))
}

impl OutputDir {
    fn problem(&self, target: &str, archive_root: &ArchiveRoot) -> Option<String> {
        let shown = quoted(&self.written);
        if is_dotted(&self.written) {
            return Some(format!("target {target} has `.` or `..` in its output_dir {shown}"));
        }
        // The scraper reads it by way of jq's `@tsv`, which escapes these.
        let escaped = [('\\', r"\\"), ('\t', r"\t"), ('\n', r"\n"), ('\r', r"\r")]
            .iter()
            .fold(self.written.clone(), |text, (from, to)| text.replace(*from, to));
        let root = crate::text::path(archive_root.path.as_ref());
        (!is_within(&archive_root.written, &escaped))
            .then(|| format!("target {target} has an output_dir {shown} that is not under archive_root `{root}`"))
    }
}

/// Names and folders that several targets share.
fn duplicates(targets: &[Target]) -> Vec<String> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut folders: HashMap<&str, &str> = HashMap::new();
    let mut problems = Vec::new();
    for target in targets {
        let seen = names.entry(&target.name).or_default();
        *seen += 1;
        if *seen == 2 {
            problems.push(format!("more than one target is called {}", quoted(&target.name)));
        }
        let Some(folder) = &target.output_dir else { continue };
        if let Some(first) = folders.insert(&folder.written, &target.name) {
            let (first, second) = (quoted(first), quoted(&target.name));
            problems.push(format!("targets {first} and {second} have the same output_dir {}", quoted(&folder.written)));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
        assert!(read("c.json", json).notes[0].contains("jq before 1.7 rounds it"));
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
            r#"{ "archive_root": "/root", "more": 1, "container_memory": "8g", "targets": [
                { "name": "a", "kind": "dms", "output_dir": "/root", "enabled": false, "x": [] },
                { "name": "b", "output_dir": "/root//b", "channel_ids": null, "guild_ids": ["1"], "kind": null } ] }"#,
        );
        assert_eq!((config.root_problem.as_deref(), &config.problems[..]), (None, &[][..]));
        assert_eq!(config.enabled().map(|target| &target.name[..]).collect::<Vec<_>>(), ["b"]);
        assert_eq!(config.container_memory.as_deref(), Some("8g"));
        let kinds = config.targets.iter().map(|target| (target.is_dms, target.has_guilds));
        assert_eq!(kinds.collect::<Vec<_>>(), [(true, false), (false, true)]);
    }

    #[test]
    fn what_the_scraper_refuses_is_reported_whichever_target_it_is() {
        let config = read(
            "c.json",
            r#"{ "archive_root": "/a", "targets": [5,
                { "output_dir": "/a/1" }, { "name": "x" }, { "name": "x", "output_dir": "/a/1", "kind": "dm" },
                { "name": "y", "output_dir": "/b", "enabled": false }, { "name": "z", "output_dir": "/a/../b" },
                { "name": "t", "output_dir": "~/a" }, { "name": "p", "output_dir": "/ab" } ] }"#,
        );
        assert_eq!(
            config.problems,
            [
                "target `(target 1)` is not an object",
                "target `(target 1)` has no name",
                "target `(target 1)` has no output_dir",
                "target `(target 2)` has no name",
                "target `x` has no output_dir",
                "target `x` has an unknown kind `dm` (it is `guild` or `dms`)",
                "target `y` has an output_dir `/b` that is not under archive_root `/a`",
                "target `z` has `.` or `..` in its output_dir `/a/../b`",
                "target `t` has an output_dir `~/a` that is not under archive_root `/a`",
                "target `p` has an output_dir `/ab` that is not under archive_root `/a`",
            ]
        );
        let duplicates =
            ["more than one target is called `x`", "targets `(target 2)` and `x` have the same output_dir `/a/1`"];
        assert_eq!(config.duplicates, duplicates);
        assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
        let empty = read("c.json", "{}");
        assert_eq!(empty.root_problem.as_deref(), Some("config is missing archive_root"));
        assert_eq!(empty.problems, ["config has no targets"]);
    }

    #[test]
    fn odd_values_are_their_targets_own_problem() {
        let config = read(
            "c.json",
            r#"{ "archive_root": "/a", "targets": [{ "name": 7, "output_dir": "/a/a", "enabled": "false",
                "channel_ids": [1e22] }, { "name": "x", "output_dir": "/a/x", "channel_ids": ["general"] }] }"#,
        );
        assert_eq!(config.targets[1].oddities.len(), 1);
        assert_eq!(config.problems, [""; 0]);
        assert!(config.targets[0].is_enabled, "the scraper leaves out only those that are `false`");
        assert_eq!(
            config.targets[0].oddities,
            [
                "target `7` has name set to `7`, which is not a string",
                "target `7` has enabled set to `\"false\"`, which is not true or false",
                "target `7` has channel_ids set to `[1e+22]`, which is not a list of ids",
            ]
        );
    }

    #[test]
    fn the_archive_root_is_refused_as_the_scraper_refuses_it() {
        for (root, why) in [("a", "is relative"), ("/a/", "ends in `/`"), ("/a/./b", "has `.`"), ("/a/..", "has `.`")] {
            let text = format!(r#"{{ "archive_root": "{root}", "targets": [{{ "name": "x", "output_dir": "b" }}] }}"#);
            let config = read("c.json", &text);
            assert!(config.root_problem.as_ref().is_some_and(|problem| problem.contains(why)), "{root}");
            assert_eq!(config.problems, [""; 0], "{root}");
        }
    }
}
