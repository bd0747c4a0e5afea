//! What each target's archive holds: one walk of its folder.

use crate::bounded::{self, Links, ReadError, plain};
use crate::child::Cancel;
use crate::config::targets::{ScrapeConfig, Target};
use crate::text::{path, printable};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A map of 100,000 channels is some 10 MB.
const LARGEST_MAP: u64 = 64 << 20;

/// Folders of the scraper's own, at any depth.
const LEFT_OUT: [&[u8]; 2] = [b".dce-meta", b".dce-temp"];

/// So many faults of one archive are named.
const MOST_FAULTS: usize = 5;

/// A target's row.
pub(crate) struct Row<'a> {
    pub(crate) target: &'a Target,
    pub(crate) state: RowState,
}

pub(crate) enum RowState {
    Disabled,
    /// The config names no folder, which is told among its problems.
    NoOutputDir,
    Missing,
    Looked(Archive),
}

/// What is in an archive.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Archive {
    /// Regular files `*.json`.
    pub(crate) json: u64,
    /// The distinct channel ids in their names, each behind a 1 that keeps its zeros.
    ids: Vec<u128>,
    /// Keys of the channel map.
    pub(crate) map: usize,
    /// What could not be read, and why.
    pub(crate) faults: Vec<String>,
}

/// How far the walks are, for who waits.
#[derive(Default)]
pub(crate) struct Progress {
    entries: AtomicUsize,
    folder: Mutex<PathBuf>,
}

/// Looks at every target's archive, in the config's order; some at once.
pub(crate) fn look<'a>(config: &'a ScrapeConfig, progress: &Progress, cancel: &Cancel) -> Vec<Row<'a>> {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |number| number.get()).min(config.targets.len());
    let rows = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(target) = config.targets.get(index)
                {
                    let row = Row { target, state: RowState::of(target, progress, cancel) };
                    rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(index, row);
                }
            });
        }
    });
    rows.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_values().collect()
}

impl Progress {
    /// How many entries were seen, and where the walk is.
    pub(crate) fn text(&self) -> String {
        let folder = self.folder.lock().map(|folder| path(&folder)).unwrap_or_default();
        format!("{} entries, in {folder}", self.entries.load(Ordering::Relaxed))
    }
}

impl RowState {
    fn of(target: &Target, progress: &Progress, cancel: &Cancel) -> RowState {
        let Some(folder) = &target.output_dir else { return RowState::NoOutputDir };
        if !target.is_enabled {
            return RowState::Disabled;
        }
        match open_folder(&folder.path, OFlags::empty()) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                RowState::Missing
            }
            opened => RowState::Looked(Archive::walk(&folder.path, opened, progress, cancel)),
        }
    }
}

impl Row<'_> {
    pub(crate) fn status(&self) -> &'static str {
        match &self.state {
            RowState::Disabled => "disabled",
            RowState::NoOutputDir => "no output_dir",
            RowState::Missing => "missing output_dir",
            RowState::Looked(archive) if !archive.faults.is_empty() => "cannot be read",
            RowState::Looked(archive) if archive.json == 0 => "no json archives",
            RowState::Looked(archive) if archive.ids.is_empty() => "no seeded channel ids",
            RowState::Looked(archive) if archive.map == 0 => "ok (map will bootstrap on first run)",
            RowState::Looked(_) => "ok",
        }
    }

    /// What keeps the target from being scraped.
    pub(crate) fn problems(&self) -> Vec<String> {
        let name = printable(self.target.name.as_bytes());
        let folder = self.target.output_dir.as_ref().map(|folder| path(&folder.path)).unwrap_or_default();
        match &self.state {
            // The second is told among the config's problems.
            RowState::Disabled | RowState::NoOutputDir => Vec::new(),
            RowState::Looked(archive) if !archive.faults.is_empty() => {
                archive.faults.iter().map(|fault| format!("target `{name}`: {fault}")).collect()
            }
            RowState::Looked(archive) if !archive.ids.is_empty() => Vec::new(),
            RowState::Missing | RowState::Looked(_) => vec![format!("target `{name}`: {} ({folder})", self.status())],
        }
    }
}

impl Archive {
    fn walk(root: &Path, opened: io::Result<Dir>, progress: &Progress, cancel: &Cancel) -> Archive {
        let mut archive = Archive::default();
        let mut unreadable = 0;
        let mut fault = |folder: &Path, error: &io::Error| {
            unreadable += 1;
            (unreadable <= MOST_FAULTS).then(|| format!("cannot read folder `{}`: {}", path(folder), plain(error)))
        };
        let mut folders = Vec::new();
        let mut at = (root.to_path_buf(), opened);
        loop {
            let (folder, opened) = at;
            if let Ok(mut now) = progress.folder.lock() {
                now.clone_from(&folder);
            }
            if let Err(error) = opened.and_then(|opened| archive.add(&folder, opened, &mut folders, progress)) {
                // A scrape that runs may have removed it since.
                let has_gone = error.kind() == io::ErrorKind::NotFound && folder != root;
                archive.faults.extend((!has_gone).then(|| fault(&folder, &error)).flatten());
            }
            let Some(next) = folders.pop().filter(|_| !cancel.is_cancelled()) else { break };
            let opened = open_folder(&next, OFlags::NOFOLLOW);
            at = (next, opened);
        }
        if unreadable > MOST_FAULTS {
            archive.faults.push(format!("{} more folders cannot be read", unreadable - MOST_FAULTS));
        }
        archive.ids.sort_unstable();
        archive.ids.dedup();
        match map_in(&root.join(".dce-meta")) {
            Ok(keys) => archive.map = keys,
            Err(fault) => archive.faults.push(fault),
        }
        archive
    }

    fn add(
        &mut self,
        folder: &Path,
        mut opened: Dir,
        folders: &mut Vec<PathBuf>,
        progress: &Progress,
    ) -> io::Result<()> {
        let mut seen = 0;
        while let Some(entry) = opened.next() {
            let entry = entry?;
            let name = entry.file_name();
            seen += 1;
            let kind = match entry.file_type() {
                // Some file systems do not tell (readdir(3)).
                FileType::Unknown => statat(opened.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                kind => kind,
            };
            let name = name.to_bytes();
            match kind {
                FileType::Directory if !matches!(name, b"." | b"..") && !LEFT_OUT.contains(&name) => {
                    folders.push(folder.join(OsStr::from_bytes(name)));
                }
                FileType::RegularFile if name.ends_with(b".json") => {
                    self.json += 1;
                    self.ids.extend(seeded_id(name));
                }
                _ => {}
            }
        }
        progress.entries.fetch_add(seen, Ordering::Relaxed);
        Ok(())
    }

    /// How many channels have an export.
    pub(crate) fn seeded(&self) -> usize {
        self.ids.len()
    }

    /// Whether the channel has an export.
    pub(crate) fn has(&self, channel: &str) -> bool {
        id(channel.as_bytes()).is_some_and(|id| self.ids.binary_search(&id).is_ok())
    }
}

/// Whether `text` has the form of a channel's id.
pub(crate) fn is_channel_id(text: &str) -> bool {
    id(text.as_bytes()).is_some()
}

/// The id in an export's name: `Guild - channel [ID].json`.
fn seeded_id(name: &[u8]) -> Option<u128> {
    let name = name.strip_suffix(b"].json")?;
    let start = name.iter().rposition(|&byte| byte == b'[')?;
    id(&name[start + 1..])
}

/// 16 to 22 digits.
fn id(digits: &[u8]) -> Option<u128> {
    let is_id = (16..=22).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_id.then(|| digits.iter().fold(1, |id, digit| id * 10 + u128::from(digit - b'0')))
}

fn open_folder(folder: &Path, more: OFlags) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
    Ok(Dir::new(openat(rustix::fs::CWD, folder, flags, Mode::empty())?)?)
}

/// The number of keys in the map of a target; its folder may be no link to elsewhere.
fn map_in(folder: &Path) -> Result<usize, String> {
    if folder.is_symlink() {
        return Err(format!("cannot read `{}`: it is a symbolic link, not a folder", path(folder)));
    }
    map_keys(&folder.join("channel-map.json"))
}

/// The number of keys in a channel map; none when there is no map.
fn map_keys(file: &Path) -> Result<usize, String> {
    let text = match bounded::read(file, Links::Refuse, LARGEST_MAP) {
        Ok(text) => text,
        Err(ReadError::Missing) => return Ok(0),
        Err(error) => return Err(format!("cannot read `{}`: {error}", path(file))),
    };
    serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(&text)
        .map(|map| map.len())
        .map_err(|error| format!("`{}` is no channel map: {}", path(file), printable(error.to_string().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_16_to_22_digits_at_the_end_of_the_name() {
        let is_seeded = |name: &str| seeded_id(name.as_bytes()).is_some();
        assert!(is_seeded("Guild - general [1234567890123456].json"));
        assert!(is_seeded("[x] a [1234567890123456789012].json"));
        for name in [
            "a [123456789012345].json",
            "a [12345678901234567890123].json",
            "a [1234567890123456] (2).json",
            "a 1234567890123456].json",
            "a [123456789012345x].json",
            "a [1234567890123456].json.tmp",
        ] {
            assert!(!is_seeded(name), "{name}");
        }
        assert_ne!(id(b"0000000000000001"), id(b"00000000000000001"));
    }

    #[test]
    fn a_walk_counts_what_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "{}").unwrap();
        };
        write("a [1000000000000001].json");
        write("deep/down/b [1000000000000001].json");
        write("deep/c [1000000000000002].json");
        write("plain.json");
        write("other.txt");
        write("deep/.dce-temp/d [1000000000000003].json");
        write(".dce-meta/e [1000000000000004].json");
        write("folder.json/f [1000000000000005].json");
        std::os::unix::fs::symlink("..", folder.path().join("deep/loop")).unwrap();
        std::os::unix::fs::symlink("plain.json", folder.path().join("link.json")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("fifo.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let archive = Archive::walk(
            folder.path(),
            open_folder(folder.path(), OFlags::empty()),
            &Progress::default(),
            &Cancel::new().unwrap().0,
        );
        assert_eq!((archive.json, archive.seeded(), archive.map, &archive.faults[..]), (5, 3, 0, &[][..]));
        assert!(archive.has("1000000000000005") && !archive.has("1000000000000003"));
    }

    #[test]
    fn a_map_that_is_none_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let map = folder.path().join("map.json");
        assert_eq!(map_keys(&map), Ok(0));
        for (text, keys) in [("{}", Some(0)), (r#"{"a": [{}], "b": {"c": 1}}"#, Some(2)), ("[]", None), ("{", None)] {
            std::fs::write(&map, text).unwrap();
            assert_eq!(map_keys(&map).ok(), keys, "{text}");
        }
    }
}
