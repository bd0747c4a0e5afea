//! The scrape config: JSON or TOML, parsed with errors that say where.

pub(crate) mod targets;

use crate::sys::file::{self, Links};
use crate::text;
use anyhow::{anyhow, bail};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::cell::OnceCell;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// Maximum size of a config; one of 10,000 targets takes about 4 MB.
const CONFIG_MAX_BYTES: u64 = 8 << 20;

/// The text of a config file.
pub(crate) struct Source {
    /// The path as the user gave it.
    pub(crate) path: PathBuf,
    /// The folder of the real file, links resolved; None where there is none, as in a deleted file.
    folder: OnceCell<Option<PathBuf>>,
    text: String,
}

/// The part of the config that decides which file is the lock. The rest may be missing or wrong.
#[derive(Debug, Deserialize)]
pub(crate) struct LockConfig {
    archive_root: Option<String>,
}

/// `archive_root`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArchiveRoot {
    /// Absolute.
    pub(crate) path: PathBuf,
    written: String,
}

impl Source {
    /// Reads a config file. `hint` is what to do if that fails.
    pub(crate) fn read(path: &Path, hint: &str) -> anyhow::Result<Source> {
        let shown = text::path(path);
        let bytes = file::read(path, Links::Follow, CONFIG_MAX_BYTES)
            .map_err(|cause| anyhow!("cannot read scrape config `{shown}`: {cause}\nhint: {hint}"))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            broken(&shown, Some(Position::of(error.as_bytes(), valid)), "this byte is not UTF-8 text")
        })?;
        Ok(Source { path: path.to_path_buf(), folder: OnceCell::new(), text })
    }

    #[cfg(test)]
    pub(crate) fn new(path: &Path, folder: &str, text: &str) -> Source {
        Source { path: path.to_path_buf(), folder: Some(folder.into()).into(), text: text.to_owned() }
    }

    /// Parses the config. The file's ending tells JSON from TOML; without one, JSON is tried first.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let text = self.text.strip_prefix('\u{feff}').unwrap_or(&self.text);
        if text.trim().is_empty() {
            // It is valid TOML, but more likely a write that was cut off.
            return Err(broken(&text::path(&self.path), None, "it is empty"));
        }
        let ending = self.path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        match ending.as_deref() {
            Some("json") => self.parse_json(text),
            Some("toml") => self.parse_toml(text),
            _ => match self.parse_json(text) {
                Err(json) => {
                    let is_object = text.trim_start().starts_with('{');
                    self.parse_toml(text).map_err(|toml| if is_object { json } else { toml })
                }
                parsed => parsed,
            },
        }
    }

    fn parse_json<T: DeserializeOwned>(&self, text: &str) -> anyhow::Result<T> {
        serde_json::from_str(text).map(|Object(parsed)| parsed).map_err(|error| {
            let said = error.to_string();
            let cause = said.rfind(" at line ").map_or(&said[..], |end| &said[..end]);
            let position = Position { line: error.line(), column: error.column() };
            broken(&text::path(&self.path), (position.line > 0).then_some(position), cause)
        })
    }

    fn parse_toml<T: DeserializeOwned>(&self, text: &str) -> anyhow::Result<T> {
        toml::from_str(text).map_err(|error| {
            let position = error.span().map(|span| Position::of(text.as_bytes(), span.start));
            broken(&text::path(&self.path), position, error.message())
        })
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
    fn archive_root(&self, written: Option<&str>) -> anyhow::Result<Option<ArchiveRoot>> {
        let Some(written) = written.filter(|written| !written.is_empty()) else { return Ok(None) };
        let shown = text::path(&self.path);
        if written.contains('\0') {
            bail!(
                "archive_root in scrape config `{shown}` contains a NUL character\nhint: correct it; no path can have one"
            );
        }
        let Some(path) = self.resolve(written) else {
            bail!(
                "archive_root in scrape config `{shown}` is relative, and the config is not in a folder that it could \
                 start at\nhint: make archive_root absolute, or name the config's own path"
            );
        };
        Ok(Some(ArchiveRoot { path, written: written.to_owned() }))
    }

    /// Keys that are nearly `archive_root`, or are it in the wrong place.
    fn misplaced_archive_roots(&self) -> Vec<String> {
        fn collect(value: &Value, parents: &str, found: &mut Vec<String>) {
            match value {
                Value::Object(object) => object.iter().for_each(|(key, value)| {
                    let letters: String = key.chars().filter(char::is_ascii_alphabetic).collect();
                    if letters.eq_ignore_ascii_case("archiveroot") && (key != "archive_root" || !parents.is_empty()) {
                        found.push(format!("{parents}{key}"));
                    }
                    collect(value, &format!("{parents}{key}."), found);
                }),
                Value::Array(values) => values.iter().for_each(|value| collect(value, parents, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        if let Ok(whole) = self.parse::<serde_json::Map<String, Value>>() {
            collect(&whole.into(), "", &mut found);
        }
        found
    }
}

impl LockConfig {
    /// The archive root that this config names, if any.
    ///
    /// # Errors
    /// It cannot be a path, or there is only a key that was probably meant to be it.
    pub(crate) fn archive_root(&self, source: &Source) -> anyhow::Result<Option<ArchiveRoot>> {
        let root = source.archive_root(self.archive_root.as_deref())?;
        if root.is_none()
            && let Some(key) = source.misplaced_archive_roots().first()
        {
            bail!(
                "scrape config `{}` has no archive_root, but it has `{}`\nhint: write archive_root, at the top level",
                text::path(&source.path),
                text::printable(key.as_bytes())
            );
        }
        Ok(root)
    }
}

impl ArchiveRoot {
    /// What is unusual about it.
    pub(crate) fn notes(&self) -> Option<String> {
        if self.written.starts_with('~') {
            Some("archive_root starts with `~`, which is not expanded: it names a folder called `~`".to_owned())
        } else if !self.written.starts_with('/') {
            Some("archive_root is relative: it starts at the folder of the config".to_owned())
        } else {
            None
        }
    }
}

/// A struct written as an object: serde would also accept a list of its fields.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A position in a text: line and column, in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    /// The position of the byte at `offset`.
    pub(crate) fn of(text: &[u8], offset: usize) -> Position {
        let before = &text[..offset.min(text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let column = 1 + String::from_utf8_lossy(&before[line_start..]).chars().count();
        Position { line, column }
    }
}

fn broken(shown: &str, position: Option<Position>, cause: &str) -> anyhow::Error {
    let place = position.map(|at| format!(", line {}, column {}", at.line, at.column)).unwrap_or_default();
    let cause = text::printable(cause.trim_end().as_bytes());
    anyhow!(
        "cannot use scrape config `{shown}`{place}: {cause}\n\
         hint: correct the config and try again; no other lock was looked at instead"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source::new(Path::new(name), "/etc/dce", text)
    }

    fn root(name: &str, text: &str) -> Result<Option<PathBuf>, String> {
        let source = source(name, text);
        let config: LockConfig = source.parse().map_err(|error| format!("{error:#}"))?;
        let root = config.archive_root(&source).map_err(|error| format!("{error:#}"))?;
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
            ("c.json", "\n [\"/x\"]", "line 2, column 1: invalid type: sequence, expected an object"),
            ("c.json", "{\n  \"archive_root\": /x\n}", "`c.json`, line 2, column 19: expected value"),
            ("c.json", "{\"archive_root\": 5}", "column 18: invalid type: integer `5`, expected a string"),
            ("c.json", "{\"archive_root\": \"a\", \"archive_root\": \"b\"}", "duplicate field"),
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
}
