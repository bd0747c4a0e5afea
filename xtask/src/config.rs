//! The scrape config: JSON or TOML, parsed once, with errors that say where.

pub(crate) mod targets;

use crate::bounded::{self, Links};
use crate::env::Env;
use crate::text;
use anyhow::{Context, anyhow, bail};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// A config of 10,000 targets is about 4 MB.
const LARGEST: u64 = 64 << 20;

/// A config file's text and where it stands.
pub(crate) struct Source {
    /// The path as the user gave it.
    pub(crate) path: PathBuf,
    /// The folder that a relative `archive_root` starts from, absolute.
    folder: PathBuf,
    text: String,
}

/// The part of the config that decides which file is the lock. The rest may be
/// absent or wrong: it is not looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct LockConfig {
    archive_root: Option<String>,
}

/// `archive_root` as written in the config and as a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArchiveRoot {
    /// Absolute.
    pub(crate) path: PathBuf,
    /// It starts with `~`, which nothing expands: it is a folder's name.
    pub(crate) has_literal_tilde: bool,
}

impl Source {
    /// Reads the config that `--config`, `DCE_CONFIG_FILE` or the repository names.
    pub(crate) fn read(given: Option<&Path>, env: &Env) -> anyhow::Result<Source> {
        let path = given
            .or(env.config_file.as_deref())
            .map_or_else(|| env.repo_root.join("config/scrape-targets.json"), Path::to_path_buf);
        let shown = text::path(&path);
        let bytes = bounded::read(&path, Links::Follow, LARGEST).map_err(|cause| {
            anyhow!(
                "cannot read scrape config `{shown}`: {cause}\n\
                 hint: name the config with --config PATH or DCE_CONFIG_FILE"
            )
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            broken(&shown, Some(Position::of(error.as_bytes(), valid)), "this byte is not UTF-8 text")
        })?;
        let absolute = std::path::absolute(&path).with_context(|| format!("cannot find the folder of `{shown}`"))?;
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok(Source { path, folder, text })
    }

    #[cfg(test)]
    pub(crate) fn new(path: &Path, folder: &str, text: &str) -> Source {
        Source { path: path.to_path_buf(), folder: folder.into(), text: text.to_owned() }
    }

    /// The config as `T`. The file's ending tells JSON from TOML; with neither,
    /// what looks like an object is JSON.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let text = self.text.strip_prefix('\u{feff}').unwrap_or(&self.text);
        if text.trim().is_empty() {
            // It would do as TOML; more likely somebody's write was cut off.
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

    /// The archive root that `written` names; absent, null and "" name none.
    pub(crate) fn archive_root(&self, written: Option<&str>) -> anyhow::Result<Option<ArchiveRoot>> {
        let Some(written) = written.filter(|written| !written.is_empty()) else { return Ok(None) };
        if written.contains('\0') {
            bail!(
                "archive_root in scrape config `{}` contains a NUL character\nhint: mend it; no path can hold one",
                text::path(&self.path)
            );
        }
        let has_literal_tilde = written.starts_with('~');
        Ok(Some(ArchiveRoot { path: self.folder.join(written), has_literal_tilde }))
    }
}

impl LockConfig {
    /// The archive root this config names, if any.
    pub(crate) fn archive_root(&self, source: &Source) -> anyhow::Result<Option<ArchiveRoot>> {
        source.archive_root(self.archive_root.as_deref())
    }
}

/// What is written as an object: serde takes a list for a struct, too, its fields in order.
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

/// A place in a text, both from 1; columns are counted in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    /// Where the byte at `offset` stands.
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
         hint: mend the config there and try again; no other lock was looked at in its place"
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
