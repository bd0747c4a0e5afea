//! The channel map of an archive: which file an export goes to.

use crate::config::channel::channel_id;
use crate::sys::file::{self, Links, ReadError};
use crate::text::{path, printable};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Maximum size read of a channel map; one of 100,000 channels takes about 10 MB.
const MAP_MAX_BYTES: u64 = 16 << 20;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelMap {
    /// Number of its keys.
    pub(crate) keys: usize,
    /// The channels that it sends somewhere.
    pub(crate) paths: HashMap<u128, String>,
}

pub(crate) fn path_in(archive: &Path) -> PathBuf {
    archive.join(".dce-meta/channel-map.json")
}

/// Reads the map of an archive as the scraper does: one that is missing or empty has no keys.
pub(crate) fn read(archive: &Path) -> Result<ChannelMap, String> {
    let (folder, map) = (archive.join(".dce-meta"), path_in(archive));
    // It could lead anywhere.
    if folder.is_symlink() {
        return Err(format!("cannot read `{}`: it is a symbolic link, not a folder", path(&folder)));
    }
    let text = match file::read(&map, Links::Refuse, MAP_MAX_BYTES) {
        Ok(text) => text,
        Err(ReadError::Missing) => return Ok(ChannelMap::default()),
        Err(error) => return Err(format!("cannot read `{}`: {error}", path(&map))),
    };
    parse(&text).map_err(|error| format!("`{}` is not a channel map: {}", path(&map), printable(error)))
}

fn parse(text: &[u8]) -> Result<ChannelMap, String> {
    // jq skips a byte order mark, and takes a file without any value for one without any key.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Ok(ChannelMap::default());
    }
    // The values stay text: nested ones would take many times their size.
    let map: BTreeMap<String, &RawValue> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let keys = map.len();
    let entry = |(key, value): (String, &RawValue)| {
        let to = match value.get() {
            "null" | "false" => return None,
            text if text.starts_with('"') => serde_json::from_str(text).ok().filter(|to: &String| !to.is_empty())?,
            other => other.to_owned(),
        };
        Some((channel_id(key.as_bytes())?, to))
    };
    Ok(ChannelMap { keys, paths: map.into_iter().filter_map(entry).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_what_the_scraper_makes_of_it() {
        for (text, keys) in [
            ("{}", Some(0)),
            ("", Some(0)),
            (" \n", Some(0)),
            ("\u{feff}{\"a\": \"/b\"}", Some(1)),
            (r#"{"a": [{}], "b": {"c": 1}}"#, Some(2)),
            ("[]", None),
            ("null", None),
            ("{", None),
        ] {
            assert_eq!(parse(text.as_bytes()).ok().map(|map| map.keys), keys, "{text}");
        }
        let text = r#"{"1000000000000001": "/a", "1000000000000002": null, "1000000000000003": "", "x": "/b",
            "1000000000000004": {"c": 1}}"#;
        let map = parse(text.as_bytes()).unwrap();
        let to = |id: &str| map.paths.get(&channel_id(id.as_bytes()).unwrap()).map(|to| &to[..]);
        assert_eq!((map.keys, map.paths.len()), (5, 2));
        assert_eq!((to("1000000000000001"), to("1000000000000004")), (Some("/a"), Some(r#"{"c": 1}"#)));
    }
}
