//! What killed scrapes left in an archive, and which export each belongs to.

use crate::config::channel::{channel_id, channel_text, seeded_id};
use crate::config::targets::OutputDir;
use crate::config::{channel_map, is_within};
use crate::salvage::export::Channel;
use crate::sys::file::{Links, open_folder, plain, written_at};
use crate::text::path;
use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Maximum length of an export's name: ours, while it is written, is 13 bytes longer, and 255 is the limit.
const NAME_MAX_BYTES: usize = 235;

/// `.dce-temp/export.CHANNEL.RANDOM`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub(crate) channel: u128,
    pub(crate) folder: PathBuf,
    /// When its export was last written.
    pub(crate) written: Option<SystemTime>,
}

/// The leftovers of an archive, the oldest first.
pub(crate) fn find(root: &Path) -> io::Result<Vec<Leftover>> {
    let temporary = root.join(".dce-temp");
    let mut opened = match open_folder(&temporary, Links::Refuse) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut found = Vec::new();
    while let Some(entry) = opened.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let digits = name.strip_prefix(b"export.").and_then(|rest| rest.split(|&byte| byte == b'.').next());
        let Some(channel) = digits.and_then(channel_id) else { continue };
        let export = [name, b"/export.json"].concat();
        match statat(opened.fd()?, &export[..], AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            stat => found.push(Leftover {
                channel,
                folder: temporary.join(OsStr::from_bytes(name)),
                written: written_at(&stat?),
            }),
        }
    }
    found.sort_by_key(|leftover| (leftover.channel, leftover.written));
    Ok(found)
}

/// Where an archive's exports are.
pub(crate) struct Destinations<'a> {
    folder: &'a OutputDir,
    map: channel_map::ChannelMap,
    /// The exports that have an id in their name.
    named: HashMap<u128, Vec<PathBuf>>,
}

impl<'a> Destinations<'a> {
    /// # Errors
    /// A sentence: the channel map or a folder cannot be read.
    pub(crate) fn find(folder: &'a OutputDir) -> Result<Destinations<'a>, String> {
        let map = channel_map::read(&folder.path)?;
        let mut named: HashMap<u128, Vec<PathBuf>> = HashMap::new();
        let mut folders = vec![folder.path.clone()];
        while let Some(at) = folders.pop() {
            let failed = |error: &io::Error| format!("cannot read folder `{}`: {}", path(&at), plain(error));
            for entry in std::fs::read_dir(&at).map_err(|error| failed(&error))? {
                let entry = entry.map_err(|error| failed(&error))?;
                let kind = entry.file_type().map_err(|error| failed(&error))?;
                let name = entry.file_name();
                if kind.is_dir() && name != ".dce-meta" && name != ".dce-temp" {
                    folders.push(entry.path());
                } else if let Some(id) = seeded_id(name.as_bytes()).filter(|_| kind.is_file()) {
                    named.entry(id).or_default().push(entry.path());
                }
            }
        }
        Ok(Destinations { folder, map, named })
    }

    /// The export of a channel, by the scraper's rules: where the map sends it, the only one with its id, or else a new
    /// one, which needs the channel's own names.
    ///
    /// # Errors
    /// A sentence: it is outside the archive, or there are several.
    pub(crate) fn of(&self, channel: u128, names: Option<(&str, &Channel)>) -> Result<Option<PathBuf>, String> {
        let id = channel_text(channel);
        let to = match (self.map.paths.get(&channel), self.named.get(&channel).map(|found| &found[..]), names) {
            (Some(to), ..) if !is_within(&self.folder.written, to) => return Err(outside(&id, to.as_ref())),
            (Some(to), ..) => PathBuf::from(to),
            (None, Some([only]), _) => only.clone(),
            (None, Some(_), _) => {
                return Err(format!("there are several exports of channel {id}: name one in the channel map"));
            }
            (None, None, Some((guild, channel))) => self.folder.path.join(new_name(guild, channel)),
            (None, None, None) => return Ok(None),
        };
        // A link on the way may lead out.
        let nearest = to.ancestors().skip(1).find(|folder| folder.symlink_metadata().is_ok()).unwrap_or(&to);
        match (nearest.canonicalize(), self.folder.path.canonicalize()) {
            (Ok(at), Ok(root)) if at.starts_with(&root) => {}
            _ => return Err(outside(&id, &to)),
        }
        if to.file_name().is_none_or(|name| name.len() > NAME_MAX_BYTES) {
            return Err(format!("`{}` is too long a name", path(&to)));
        }
        Ok(Some(to))
    }

    /// Tells that a channel has an export now.
    pub(crate) fn add(&mut self, channel: u128, export: &Path) {
        self.named.entry(channel).or_insert_with(|| vec![export.to_path_buf()]);
    }
}

fn outside(id: &str, to: &Path) -> String {
    format!("channel {id} goes to `{}`, outside its output_dir", path(to))
}

/// The name that the scraper gives an export.
fn new_name(guild: &str, channel: &Channel) -> String {
    let parts = [guild, channel.category.as_deref().unwrap_or_default(), channel.name.as_deref().unwrap_or_default()];
    let parts: Vec<String> = parts.into_iter().map(name_part).filter(|part| !part.is_empty()).collect();
    let name = if parts.is_empty() { "channel".to_owned() } else { parts.join(" - ") };
    format!("{name} [{}].json", channel.id)
}

fn name_part(text: &str) -> String {
    let (mut part, mut after_slash) = (String::new(), false);
    for c in text.chars() {
        let is_slash = matches!(c, '/' | '\\');
        match c {
            _ if is_slash => part.extend((!after_slash).then_some('_')),
            c if c.is_control() || c.is_whitespace() => part.extend((!part.ends_with(' ')).then_some(' ')),
            c => part.push(c),
        }
        after_slash = is_slash;
    }
    part.trim_matches(' ').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_export_gets_the_scrapers_name() {
        let channel = |category: &str, name: &str| Channel {
            id: "1000000000000001".to_owned(),
            category: Some(category.to_owned()),
            name: Some(name.to_owned()),
        };
        for (guild, category, name, expected) in [
            ("Guild", "Text", "general", "Guild - Text - general [1000000000000001].json"),
            ("a//b\\c", "", " x\r\ny\u{7} ", "a_b_c - x y [1000000000000001].json"),
            ("", "", "", "channel [1000000000000001].json"),
            ("..", "a__b", "/", ".. - a__b - _ [1000000000000001].json"),
        ] {
            assert_eq!(new_name(guild, &channel(category, name)), expected);
        }
    }
}
