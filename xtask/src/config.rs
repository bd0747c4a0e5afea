//! The scrape config: JSON or TOML, parsed with errors that say where.

pub(crate) mod channel;
pub(crate) mod channel_map;
pub(crate) mod targets;

use crate::sys::file::{self, Links};
use crate::text;
use anyhow::{anyhow, bail};
use serde_json::{Map, Value};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

/// Maximum size of a config; one of 10,000 targets takes about 4 MB.
const CONFIG_MAX_BYTES: u64 = 8 << 20;

/// Maximum number of values in a JSON config: each takes about 100 bytes in memory.
const MAX_VALUES: usize = 500_000;

/// The same of TOML: nested tables take 550 times their text in memory.
const TOML_MAX_BYTES: usize = 1 << 20;

/// A config file.
pub(crate) struct Source {
    /// The path as the user gave it.
    pub(crate) path: PathBuf,
    /// The folder of the real file, links resolved; None if there is none, as for a deleted file.
    folder: OnceCell<Option<PathBuf>>,
    /// An object.
    config: Value,
}

/// `archive_root`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArchiveRoot {
    /// Absolute.
    pub(crate) path: PathBuf,
    /// As written in the config.
    pub(crate) written: String,
}

impl Source {
    /// Reads and parses a config file. `hint` is what to do if it cannot be read.
    pub(crate) fn read(path: &Path, hint: &str) -> anyhow::Result<Source> {
        let bytes = file::read(path, Links::Follow, CONFIG_MAX_BYTES)
            .map_err(|cause| anyhow!("cannot read scrape config `{}`: {cause}\nhint: {hint}", text::path(path)))?;
        Source::parse(path, bytes)
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> anyhow::Result<Source> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            broken(path, Some(Position::of(error.as_bytes(), valid)), "this byte is not UTF-8 text")
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if text.trim().is_empty() {
            // It is valid TOML, but more likely a write that was cut off.
            return Err(broken(path, None, "it is empty"));
        }
        let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        let config = match ending.as_deref() {
            Some("json") => json(path, text),
            Some("toml") => toml(path, text),
            _ if text.trim_start().starts_with('{') => json(path, text),
            _ => toml(path, text),
        };
        Ok(Source { path: path.to_path_buf(), folder: OnceCell::new(), config: Value::Object(config?) })
    }

    /// A path of the config, absolute: a relative one starts at the folder of the config's real file.
    fn resolve(&self, written: &str) -> Option<PathBuf> {
        if written.starts_with('/') {
            return Some(written.into());
        }
        let folder = || Some(self.path.canonicalize().ok()?.parent()?.to_path_buf());
        self.folder.get_or_init(folder).as_ref().map(|folder| folder.join(written))
    }

    /// The archive root; None when it is missing, null or "".
    ///
    /// # Errors
    /// It cannot be a path, or there is only a key that was probably meant to be it.
    pub(crate) fn archive_root(&self) -> anyhow::Result<Option<ArchiveRoot>> {
        let shown = text::path(&self.path);
        let written = match self.config.get("archive_root") {
            Some(Value::String(written)) if !written.is_empty() => written.clone(),
            None | Some(Value::Null | Value::String(_)) => {
                return match misplaced_archive_root(&self.config, "") {
                    None => Ok(None),
                    Some(key) => bail!(
                        "scrape config `{shown}` has no archive_root, but it has `{}`\n\
                         hint: write it as archive_root, at the top level",
                        text::printable(key)
                    ),
                };
            }
            Some(other) => bail!(
                "archive_root in scrape config `{shown}` is `{}`, not a string\nhint: correct the config; no other \
                 lock was looked at instead",
                text::printable(other.to_string())
            ),
        };
        if written.contains('\0') {
            bail!("archive_root in scrape config `{shown}` contains a NUL character\nhint: a path cannot contain one");
        }
        let Some(path) = self.resolve(&written) else {
            bail!(
                "archive_root in scrape config `{shown}` is relative, and the config is not in a folder that it could \
                 start at\nhint: make archive_root absolute, or name the config's own path"
            );
        };
        Ok(Some(ArchiveRoot { path, written }))
    }
}

/// A key that is nearly `archive_root`, or is it in the wrong place.
fn misplaced_archive_root(value: &Value, parents: &str) -> Option<String> {
    match value {
        Value::Object(object) => object.iter().find_map(|(key, value)| {
            let letters: String = key.chars().filter(char::is_ascii_alphabetic).collect();
            let at = format!("{parents}{key}");
            let is_it = letters.eq_ignore_ascii_case("archiveroot") && at != "archive_root";
            if is_it { Some(at) } else { misplaced_archive_root(value, &(at + ".")) }
        }),
        Value::Array(values) => values.iter().find_map(|value| misplaced_archive_root(value, parents)),
        _ => None,
    }
}

impl ArchiveRoot {
    /// Why the scraper refuses it.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if !self.written.starts_with('/') {
            return Some("is relative");
        }
        if self.written.ends_with('/') {
            return Some("ends in `/`");
        }
        is_dotted(&self.written).then_some("has `.` or `..` in it")
    }

    /// What is unusual about it.
    pub(crate) fn note(&self) -> Option<String> {
        let is_relative = !self.written.starts_with('/');
        let relative =
            || is_relative.then(|| "archive_root is relative: it starts at the folder of the config".to_owned());
        tilde_note("archive_root", &self.written).or_else(relative)
    }
}

/// A note if a path starts with `~`.
fn tilde_note(what: &str, written: &str) -> Option<String> {
    let note = || format!("{what} starts with `~`, which is not expanded: it names a folder called `~`");
    written.starts_with('~').then(note)
}

/// Whether the scraper takes a path for one in `folder`, or for the folder itself: by its text alone.
pub(crate) fn is_within(folder: &str, path: &str) -> bool {
    let is_below = path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    path.starts_with('/') && is_below && !is_dotted(path)
}

/// Whether a path has a part `.` or `..` after a slash.
pub(crate) fn is_dotted(path: &str) -> bool {
    path.split('/').skip(1).any(|part| part == "." || part == "..")
}

fn json(path: &Path, text: &str) -> anyhow::Result<Map<String, Value>> {
    if text.bytes().filter(|byte| b",[{".contains(byte)).count() > MAX_VALUES {
        return Err(broken(path, None, "it has more than 500,000 values"));
    }
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let cause = message.rsplit_once(" at line ").map_or(&message[..], |(cause, _)| cause);
        broken(path, Some(Position { line: error.line(), column: error.column() }), cause)
    })
}

fn toml(path: &Path, text: &str) -> anyhow::Result<Map<String, Value>> {
    if text.len() > TOML_MAX_BYTES {
        return Err(broken(path, None, "it is TOML of more than 1 MiB; JSON may have 8 MiB"));
    }
    toml::from_str(text).map_err(|error| {
        let position = error.span().map(|span| Position::of(text.as_bytes(), span.start));
        broken(path, position, error.message())
    })
}

fn broken(path: &Path, position: Option<Position>, cause: &str) -> anyhow::Error {
    let at = position.map(|at| format!(", line {}, column {}", at.line, at.column)).unwrap_or_default();
    anyhow!(
        "cannot use scrape config `{}`{at}: {}\n\
         hint: correct the config and try again; no other lock was looked at instead",
        text::path(path),
        text::printable(cause.trim_end())
    )
}

/// A position in a text: line and column, in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    line: usize,
    column: usize,
}

impl Position {
    /// The position of the byte at `offset`.
    fn of(text: &[u8], offset: usize) -> Position {
        let before = &text[..offset.min(text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let column = 1 + String::from_utf8_lossy(&before[line_start..]).chars().count();
        Position { line, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str, text: &str) -> Result<Option<PathBuf>, String> {
        let source = Source::parse(Path::new(name), text.into()).map_err(|error| format!("{error:#}"))?;
        _ = source.folder.set(Some("/etc/dce".into()));
        let root = source.archive_root().map_err(|error| format!("{error:#}"))?;
        Ok(root.map(|root| root.path))
    }

    #[test]
    fn archive_root_is_found_in_json_and_toml() {
        let there = Ok(Some(PathBuf::from("/data")));
        assert_eq!(root("c.json", r#"{"archive_root": "/data", "targets": 5, "other": {}}"#), there);
        assert_eq!(root("c.toml", "archive_root = '/data'\n[[targets]]\nname = 3"), there);
        assert_eq!(root("c.conf", "archive_root = '/data'"), there);
        assert_eq!(root("c", r#"{"archive_root": "/data"}"#), there);
        assert_eq!(root("c.JSON", "\u{feff}{\"archive_root\": \"/data\"}"), there);
        assert_eq!(root("c.json", r#"{"archive_root": "data"}"#), Ok(Some(PathBuf::from("/etc/dce/data"))));
    }

    #[test]
    fn absent_null_and_empty_roots_name_none() {
        for text in ["{}", r#"{"archive_root": null}"#, r#"{"archive_root": ""}"#] {
            assert_eq!(root("c.json", text), Ok(None), "{text}");
        }
    }

    #[test]
    fn keys_that_are_nearly_archive_root_are_refused() {
        for text in [
            r#"{"Archive_Root": "/a"}"#,
            r#"{"archive-root": "/a"}"#,
            r#"{"archiveRoot": "/a"}"#,
            r#"{"defaults": {"archive_root": "/a"}}"#,
            r#"{"archive_root": "", "targets": [{"archive_root": "/a"}]}"#,
            r#"{"x": [[{"archive_root": "/a"}]]}"#,
        ] {
            let error = root("c.json", text).unwrap_err();
            assert!(error.contains("has no archive_root, but it has `"), "{text}: {error}");
        }
        assert!(root("c.toml", "[scrape]\narchive_root = '/a'").unwrap_err().contains("`scrape.archive_root`"));
    }

    #[test]
    fn errors_say_where() {
        let cases = [
            ("c.json", "", "`c.json`: it is empty"),
            ("c", " \n", "`c`: it is empty"),
            ("c.json", "\n [\"/x\"]", "line 2, column 1: invalid type: sequence, expected a map"),
            ("c.json", "{\n  \"archive_root\": /x\n}", "`c.json`, line 2, column 19: expected value"),
            ("c.json", "{\"archive_root\": 5}", "archive_root in scrape config `c.json` is `5`, not a string"),
            ("c.json", "{} {}", "trailing characters"),
            ("c.toml", "a = 1\narchive_root = \n", "`c.toml`, line 2, column 16: "),
            ("c.toml", "é = 1", "line 1, column 1: "),
            ("c", "{ nonsense", "line 1, column 3: key must be a string"),
            ("c", "archive_root = nonsense", "line 1, column 16"),
            ("c.json", "{\"archive_root\": \"a\\u0000b\"}", "NUL"),
        ];
        for (name, text, expected) in cases {
            let error = root(name, text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(error.contains("\nhint: "), "{text:?}: {error}");
        }
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(Position::of("a\néb".as_bytes(), 4), Position { line: 2, column: 2 });
        assert_eq!(Position::of(b"", 9), Position { line: 1, column: 1 });
    }

    #[test]
    fn a_path_is_within_a_folder_by_its_text() {
        for path in ["/a", "/a/b", "/a//b", "/a/b/", "/a/..b", "/a/.b"] {
            assert!(is_within("/a", path), "{path}");
        }
        for path in ["/ab", "a/b", "/a/../a/b", "/a/./b", "/a/..", "/a/.", "/", ""] {
            assert!(!is_within("/a", path), "{path}");
        }
        assert!(!is_within("/a/", "/a/b"), "as the scraper sees it");
    }
}
