//! What each target's archive contains: one walk of its folder.

use crate::config::targets::{ScrapeConfig, Target};
use crate::env::Env;
use crate::output;
use crate::sys::file::{self, Links, ReadError, plain};
use crate::sys::signals::Signals;
use crate::text::{path, printable};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Maximum size read of a channel map; one of 100,000 channels takes about 10 MB.
const MAP_MAX_BYTES: u64 = 64 << 20;

/// The scraper's own folders, ignored at any depth.
const IGNORED_FOLDERS: [&[u8]; 2] = [b".dce-meta", b".dce-temp"];

/// Maximum number of unreadable folders named for one archive.
const MAX_FAULTS_SHOWN: usize = 5;

/// How long a walk may take before a terminal shows its progress, and how often it does so then.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A target's row. The counts are None where nothing was counted.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    pub(crate) name: String,
    output_dir: Option<String>,
    enabled: bool,
    pub(crate) json: Option<usize>,
    pub(crate) seeded: Option<usize>,
    pub(crate) map: Option<usize>,
    pub(crate) status: &'static str,
    #[serde(skip)]
    pub(crate) target: &'a Target,
    #[serde(skip)]
    pub(crate) found: Found,
}

pub(crate) enum Found {
    /// The target is disabled.
    Disabled,
    /// The config names no folder, which is one of its own problems.
    NoOutputDir,
    Missing,
    Archive(Archive),
}

/// What an archive contains.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Archive {
    /// Number of regular files `*.json`.
    json: usize,
    /// The distinct channel ids in their names, sorted.
    ids: Vec<u128>,
    /// Number of keys of the channel map.
    map: usize,
    /// What could not be read, and why.
    pub(crate) faults: Vec<String>,
}

/// How far the walks are.
#[derive(Default)]
struct Progress {
    entries: AtomicUsize,
    folder: Mutex<PathBuf>,
}

/// Looks at every target's archive, in the config's order, and shows the progress on a terminal.
pub(crate) fn look<'a>(config: &'a ScrapeConfig, env: &Env, cancel: &Signals) -> Vec<Row<'a>> {
    let progress = &Progress::default();
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        if output::is_watched(env) {
            scope.spawn(move || {
                let mut wait = PROGRESS_AFTER;
                while is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    output::show_progress(Some(&progress.text()));
                    wait = PROGRESS_INTERVAL;
                }
                if wait == PROGRESS_INTERVAL {
                    output::show_progress(None);
                }
            });
        }
        let rows = walk_all(config, progress, cancel);
        drop(done);
        rows
    })
}

/// Walks several archives at once.
fn walk_all<'a>(config: &'a ScrapeConfig, progress: &Progress, cancel: &Signals) -> Vec<Row<'a>> {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |number| number.get()).min(config.targets.len());
    let rows = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(target) = config.targets.get(index)
                {
                    let row = Row::new(target, Found::look(target, progress, cancel));
                    rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(index, row);
                }
            });
        }
    });
    rows.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_values().collect()
}

impl Progress {
    /// The number of entries seen, and where a walk is.
    fn text(&self) -> String {
        let folder = self.folder.lock().map(|folder| path(&folder)).unwrap_or_default();
        format!("{} entries, in {folder}", self.entries.load(Ordering::Relaxed))
    }
}

impl Found {
    fn look(target: &Target, progress: &Progress, cancel: &Signals) -> Found {
        let Some(folder) = &target.output_dir else { return Found::NoOutputDir };
        if !target.is_enabled {
            return Found::Disabled;
        }
        match open_folder(&folder.path, OFlags::empty()) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Found::Missing
            }
            opened => Found::Archive(Archive::walk(&folder.path, opened, progress, cancel)),
        }
    }

    fn status(&self) -> &'static str {
        match self {
            Found::Disabled => "disabled",
            Found::NoOutputDir => "no output_dir",
            Found::Missing => "missing output_dir",
            Found::Archive(archive) if !archive.faults.is_empty() => "cannot be read",
            Found::Archive(archive) if archive.json == 0 => "no json archives",
            Found::Archive(archive) if archive.ids.is_empty() => "no seeded channel ids",
            Found::Archive(archive) if archive.map == 0 => "ok (map will bootstrap on first run)",
            Found::Archive(_) => "ok",
        }
    }
}

impl<'a> Row<'a> {
    fn new(target: &'a Target, found: Found) -> Row<'a> {
        let archive = if let Found::Archive(archive) = &found { Some(archive) } else { None };
        Row {
            name: printable(target.name.as_bytes()),
            output_dir: target.output_dir.as_ref().map(|folder| folder.path.to_string_lossy().into_owned()),
            enabled: target.is_enabled,
            json: archive.map(|archive| archive.json),
            seeded: archive.map(|archive| archive.ids.len()),
            map: archive.map(|archive| archive.map),
            status: found.status(),
            target,
            found,
        }
    }

    /// What keeps the target from being scraped.
    pub(crate) fn problems(&self) -> Vec<String> {
        let folder = self.target.output_dir.as_ref().map(|folder| path(&folder.path)).unwrap_or_default();
        match &self.found {
            Found::Disabled | Found::NoOutputDir => Vec::new(),
            Found::Archive(archive) if !archive.faults.is_empty() => {
                archive.faults.iter().map(|fault| format!("target `{}`: {fault}", self.name)).collect()
            }
            Found::Archive(archive) if !archive.ids.is_empty() => Vec::new(),
            Found::Missing | Found::Archive(_) => {
                vec![format!("target `{}`: {} ({folder})", self.name, self.status)]
            }
        }
    }
}

impl Archive {
    fn walk(root: &Path, opened: io::Result<Dir>, progress: &Progress, cancel: &Signals) -> Archive {
        let mut archive = Archive::default();
        let mut unreadable = 0;
        let mut fault = |folder: &Path, error: &io::Error| {
            unreadable += 1;
            (unreadable <= MAX_FAULTS_SHOWN).then(|| format!("cannot read folder `{}`: {}", path(folder), plain(error)))
        };
        let mut folders = Vec::new();
        let mut at = (root.to_path_buf(), opened);
        loop {
            let (folder, opened) = at;
            if let Ok(mut current) = progress.folder.lock() {
                current.clone_from(&folder);
            }
            if let Err(error) = opened.and_then(|opened| archive.add(&folder, opened, &mut folders, progress)) {
                // A running scrape may have removed it since.
                let has_gone = error.kind() == io::ErrorKind::NotFound && folder != root;
                archive.faults.extend((!has_gone).then(|| fault(&folder, &error)).flatten());
            }
            let Some(next) = folders.pop().filter(|_| !cancel.is_caught()) else { break };
            let opened = open_folder(&next, OFlags::NOFOLLOW);
            at = (next, opened);
        }
        if unreadable > MAX_FAULTS_SHOWN {
            archive.faults.push(format!("{} more folders cannot be read", unreadable - MAX_FAULTS_SHOWN));
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
                // Some file systems do not say (readdir(3)).
                FileType::Unknown => statat(opened.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                kind => kind,
            };
            let name = name.to_bytes();
            match kind {
                FileType::Directory if !matches!(name, b"." | b"..") && !IGNORED_FOLDERS.contains(&name) => {
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

/// An id of 16 to 22 digits, after a 1 that keeps its leading zeros.
fn id(digits: &[u8]) -> Option<u128> {
    let is_id = (16..=22).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_id.then(|| digits.iter().fold(1, |id, digit| id * 10 + u128::from(digit - b'0')))
}

fn open_folder(folder: &Path, more: OFlags) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
    Ok(Dir::new(openat(CWD, folder, flags, Mode::empty())?)?)
}

/// The number of keys in a target's channel map. A linked folder could lead anywhere.
fn map_in(folder: &Path) -> Result<usize, String> {
    if folder.is_symlink() {
        return Err(format!("cannot read `{}`: it is a symbolic link, not a folder", path(folder)));
    }
    map_keys(&folder.join("channel-map.json"))
}

/// The number of keys in a channel map; none when there is no map.
fn map_keys(map: &Path) -> Result<usize, String> {
    let text = match file::read(map, Links::Refuse, MAP_MAX_BYTES) {
        Ok(text) => text,
        Err(ReadError::Missing) => return Ok(0),
        Err(error) => return Err(format!("cannot read `{}`: {error}", path(map))),
    };
    serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(&text)
        .map(|keys| keys.len())
        .map_err(|error| format!("`{}` is not a channel map: {}", path(map), printable(error.to_string().as_bytes())))
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
    fn a_walk_counts_exports_and_ids() {
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
        rustix::fs::mknodat(CWD, folder.path().join("fifo.json"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let archive = Archive::walk(
            folder.path(),
            open_folder(folder.path(), OFlags::empty()),
            &Progress::default(),
            &Signals::catch(&[]).unwrap(),
        );
        assert_eq!((archive.json, archive.ids.len(), archive.map, &archive.faults[..]), (5, 3, 0, &[][..]));
        assert!(archive.has("1000000000000005") && !archive.has("1000000000000003"));
    }

    #[test]
    fn a_map_that_does_not_parse_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let map = folder.path().join("map.json");
        assert_eq!(map_keys(&map), Ok(0));
        for (text, keys) in [("{}", Some(0)), (r#"{"a": [{}], "b": {"c": 1}}"#, Some(2)), ("[]", None), ("{", None)] {
            std::fs::write(&map, text).unwrap();
            assert_eq!(map_keys(&map).ok(), keys, "{text}");
        }
    }
}
