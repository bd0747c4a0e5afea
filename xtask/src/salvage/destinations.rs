//! Which export of an archive each channel belongs to.

use crate::config::channel::{channel_text, seeded_id};
use crate::config::targets::OutputDir;
use crate::config::{channel_map, is_within};
use crate::salvage::commit::{Place, UNFINISHED};
use crate::salvage::export::{Channel, Export};
use crate::sys::file::plain;
use crate::text::path;
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Maximum length of an export's name: ours, while it is written, is at most 21 bytes longer, and 255 is the limit.
const NAME_MAX_BYTES: usize = 230;

/// The folders of the scraper's own.
const OWN_FOLDERS: [&str; 2] = [".dce-meta", ".dce-temp"];

/// Where an archive's exports are.
pub(crate) struct Destinations<'a> {
    folder: &'a OutputDir,
    map: channel_map::ChannelMap,
    /// The exports that have an id in their name.
    named: HashMap<u128, Vec<PathBuf>>,
    /// What killed salvages were writing.
    pub(crate) unfinished: Vec<PathBuf>,
}

impl<'a> Destinations<'a> {
    /// # Errors
    /// A sentence: the channel map or a folder cannot be read.
    pub(crate) fn find(folder: &'a OutputDir) -> Result<Destinations<'a>, String> {
        let map = channel_map::read(&folder.path)?;
        let mut found = Destinations { folder, map, named: HashMap::new(), unfinished: Vec::new() };
        let mut folders = vec![folder.path.clone()];
        while let Some(at) = folders.pop() {
            found.look(&at, &mut folders).map_err(|error| format!("cannot read `{}`: {}", path(&at), plain(&error)))?;
        }
        Ok(found)
    }

    fn look(&mut self, folder: &Path, folders: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let (kind, name) = (entry.file_type()?, entry.file_name());
            if kind.is_dir() {
                folders.extend((!OWN_FOLDERS.iter().any(|own| name == *own)).then(|| entry.path()));
            } else if let Some(id) = seeded_id(name.as_bytes()) {
                self.named.entry(id).or_default().push(entry.path());
            } else if name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(UNFINISHED.as_bytes()) {
                self.unfinished.push(entry.path());
            }
        }
        Ok(())
    }

    /// The export of a channel, by the scraper's rules: where the map sends it, or else the only one with its id.
    ///
    /// # Errors
    /// A sentence: it is outside the archive, or there are several.
    pub(crate) fn of(&self, channel: u128) -> Result<Option<PathBuf>, String> {
        let id = channel_text(channel);
        match (self.map.paths.get(&channel), self.named.get(&channel).map(Vec::as_slice)) {
            (Some(to), _) => {
                let is_own = |to: &Path| OWN_FOLDERS.iter().any(|own| to.starts_with(self.folder.path.join(own)));
                match is_within(&self.folder.written, to) && !is_own(to.as_ref()) {
                    true => Ok(Some(to.into())),
                    false => Err(format!("channel {id} goes to `{}`, outside its output_dir", path(to.as_ref()))),
                }
            }
            (None, Some([only])) => Ok(Some(only.clone())),
            (None, Some(_)) => Err(format!("there are several exports of channel {id}: name one in the channel map")),
            (None, None) => Ok(None),
        }
    }

    /// Where the scraper would put a channel's first export.
    pub(crate) fn new_path(&self, export: &Export, channel: &Channel) -> PathBuf {
        let guild: Option<BTreeMap<String, serde_json::Value>> = export.member_as("guild");
        let guild = guild.as_ref().and_then(|guild| guild.get("name")?.as_str()).unwrap_or_default();
        self.folder.path.join(new_name(guild, channel))
    }

    /// Opens the folder of an export, part by part, so that no link leads out; creates what is missing, or gives None.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn place(&self, to: &Path, creates: bool) -> Result<Option<Place>, String> {
        let cannot = |errno: Errno| match errno {
            Errno::LOOP | Errno::NOTDIR => format!("`{}` is behind a link, or what is no folder", path(to)),
            other => format!("cannot open the folder of `{}`: {}", path(to), plain(&other.into())),
        };
        let within = to.strip_prefix(&self.folder.path).map_err(|_| cannot(Errno::NOTDIR))?;
        let (name, parents) = (within.file_name().unwrap_or_default(), within.parent().unwrap_or(Path::new("")));
        if name.is_empty() || name.len() > NAME_MAX_BYTES {
            return Err(format!("the name of `{}` is too long, or there is none", path(to)));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder: OwnedFd = open(&self.folder.path, flags, Mode::empty()).map_err(cannot)?;
        for part in parents {
            if creates {
                match mkdirat(&folder, part, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(cannot(errno)),
                }
            }
            folder = match openat(&folder, part, flags | OFlags::NOFOLLOW, Mode::empty()) {
                Err(Errno::NOENT) if !creates => return Ok(None),
                opened => opened.map_err(cannot)?,
            };
        }
        Ok(Some(Place { folder, name: CString::new(name.as_bytes()).map_err(|_| cannot(Errno::INVAL))? }))
    }

    /// Tells that a channel has an export now.
    pub(crate) fn add(&mut self, channel: u128, export: &Path) {
        self.named.entry(channel).or_insert_with(|| vec![export.to_path_buf()]);
    }
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

    #[test]
    fn a_folder_that_is_removed_again_is_an_error_and_never_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let folder = OutputDir { written: root.path().to_str().unwrap().to_owned(), path: root.path().into() };
        let (destinations, below) = (Destinations::find(&folder).unwrap(), root.path().join("below"));
        std::thread::scope(|scope| {
            let places = scope.spawn(|| {
                let places = (0..5000).map(|_| destinations.place(&below.join("x.json"), true));
                places.filter(|place| matches!(place, Ok(None))).count()
            });
            while !places.is_finished() {
                _ = std::fs::remove_dir(&below);
            }
            assert_eq!(places.join().unwrap(), 0);
        });
    }

    #[test]
    fn the_archive_itself_is_not_an_export() {
        let root = tempfile::tempdir().unwrap();
        let folder = OutputDir { written: root.path().to_str().unwrap().to_owned(), path: root.path().into() };
        let destinations = Destinations::find(&folder).unwrap();
        assert!(destinations.place(root.path(), true).is_err());
        assert!(destinations.place(&root.path().join("x.json"), false).is_ok_and(|place| place.is_some()));
        assert!(destinations.place(&root.path().join("none/x.json"), false).is_ok_and(|place| place.is_none()));
    }
}
