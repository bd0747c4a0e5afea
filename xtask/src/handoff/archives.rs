//! What each target's archive contains: one walk of its folder.

use crate::config::targets::{ScrapeConfig, Target};
use crate::env::Env;
use crate::output;
use crate::sys::file::{self, Links, ReadError, plain};
use crate::sys::signals::Signals;
use crate::text::{path, printable};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use serde::Serialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

/// Maximum size read of a channel map; one of 100,000 channels takes about 10 MB.
const MAP_MAX_BYTES: u64 = 64 << 20;

/// Ignored at any depth: the scraper's own folders, and the two names that every folder lists.
const IGNORED_FOLDERS: [&[u8]; 4] = [b".", b"..", b".dce-meta", b".dce-temp"];

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
    /// What keeps the target from being scraped.
    #[serde(skip)]
    pub(crate) problems: Vec<String>,
    #[serde(skip)]
    pub(crate) target: &'a Target,
    #[serde(skip)]
    pub(crate) archive: Option<Archive>,
}

/// What an archive contains.
#[derive(Default)]
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

/// Looks at every target's archive, several at once, and shows the progress on a terminal. The rows are
/// in the config's order.
pub(crate) fn look<'a>(config: &'a ScrapeConfig, env: &Env, cancel: &Signals) -> Vec<Row<'a>> {
    let progress = &Progress::default();
    let mut rows: Vec<Option<Row>> = config.targets.iter().map(|_| None).collect();
    let work = Mutex::new(config.targets.iter().zip(&mut rows));
    let next = || work.lock().ok()?.next();
    let workers = std::thread::available_parallelism().map_or(1, |number| number.get()).min(config.targets.len());
    // Closed when the last worker ends.
    let (working, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        for working in vec![working; workers] {
            scope.spawn(move || {
                while let Some((target, row)) = next() {
                    *row = Some(Row::look(target, progress, cancel));
                }
                drop(working);
            });
        }
        if output::is_watched(env) {
            show(progress, &ended);
        }
    });
    rows.into_iter().flatten().collect()
}

/// Shows the progress until the work has ended.
fn show(progress: &Progress, ended: &Receiver<()>) {
    let mut wait = PROGRESS_AFTER;
    while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        let folder = progress.folder.lock().map(|folder| path(&folder)).unwrap_or_default();
        let entries = progress.entries.load(Ordering::Relaxed);
        output::show_progress(Some(&format!("{entries} entries, in {folder}")));
        wait = PROGRESS_INTERVAL;
    }
    if wait == PROGRESS_INTERVAL {
        output::show_progress(None);
    }
}

impl<'a> Row<'a> {
    fn look(target: &'a Target, progress: &Progress, cancel: &Signals) -> Row<'a> {
        let folder = target.output_dir.as_ref().map(|folder| folder.path.as_path());
        let archive = folder.filter(|_| target.is_enabled).and_then(|root| Archive::walk(root, progress, cancel));
        let (status, is_problem) = match &archive {
            // The config's own problem.
            None if folder.is_none() => ("no output_dir", false),
            None if !target.is_enabled => ("disabled", false),
            None => ("missing output_dir", true),
            // Each fault is a problem.
            Some(archive) if !archive.faults.is_empty() => ("cannot be read", false),
            Some(archive) if archive.json == 0 => ("no json archives", true),
            Some(archive) if archive.ids.is_empty() => ("no seeded channel ids", true),
            Some(archive) if archive.map == 0 => ("ok (map will bootstrap on first run)", false),
            Some(_) => ("ok", false),
        };
        let name = printable(target.name.as_bytes());
        let faults = archive.iter().flat_map(|archive| archive.faults.iter().cloned());
        let problem = is_problem.then(|| format!("{status} ({})", folder.map(path).unwrap_or_default()));
        Row {
            output_dir: folder.map(|folder| folder.to_string_lossy().into_owned()),
            enabled: target.is_enabled,
            json: archive.as_ref().map(|archive| archive.json),
            seeded: archive.as_ref().map(|archive| archive.ids.len()),
            map: archive.as_ref().map(|archive| archive.map),
            status,
            problems: faults.chain(problem).map(|problem| format!("target `{name}`: {problem}")).collect(),
            name,
            target,
            archive,
        }
    }
}

impl Archive {
    /// Walks an archive; None when it does not exist.
    fn walk(root: &Path, progress: &Progress, cancel: &Signals) -> Option<Archive> {
        let mut archive = Archive::default();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop().filter(|_| !cancel.is_caught()) {
            // Only the archive's own folder may be a link.
            let is_root = folder == root;
            let links = if is_root { OFlags::empty() } else { OFlags::NOFOLLOW };
            let Err(error) = archive.add(&folder, links, &mut folders, progress) else { continue };
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory if is_root => return None,
                // A running scrape has removed it since.
                ErrorKind::NotFound => {}
                _ => archive.faults.push(format!("cannot read folder `{}`: {}", path(&folder), plain(&error))),
            }
        }
        if archive.faults.len() > MAX_FAULTS_SHOWN {
            let more = archive.faults.split_off(MAX_FAULTS_SHOWN).len();
            archive.faults.push(format!("{more} more folders cannot be read"));
        }
        archive.ids.sort_unstable();
        archive.ids.dedup();
        match map_keys(root) {
            Ok(keys) => archive.map = keys,
            Err(fault) => archive.faults.push(fault),
        }
        Some(archive)
    }

    /// Adds what a folder contains, and its own folders to those to be walked.
    fn add(&mut self, folder: &Path, links: OFlags, folders: &mut Vec<PathBuf>, progress: &Progress) -> io::Result<()> {
        if let Ok(mut current) = progress.folder.lock() {
            *current = folder.to_path_buf();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | links;
        let mut opened = Dir::new(openat(CWD, folder, flags, Mode::empty())?)?;
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
                FileType::Directory if !IGNORED_FOLDERS.contains(&name) => {
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
        channel_id(channel.as_bytes()).is_some_and(|id| self.ids.binary_search(&id).is_ok())
    }
}

/// The id in an export's name: `Guild - channel [ID].json`.
fn seeded_id(name: &[u8]) -> Option<u128> {
    let name = name.strip_suffix(b"].json")?;
    let start = name.iter().rposition(|&byte| byte == b'[')?;
    channel_id(&name[start + 1..])
}

/// A channel's id of 16 to 22 digits, after a 1 that keeps its leading zeros.
pub(crate) fn channel_id(digits: &[u8]) -> Option<u128> {
    let is_id = (16..=22).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_id.then(|| digits.iter().fold(1, |id, digit| id * 10 + u128::from(digit - b'0')))
}

/// The number of keys in an archive's channel map; none when there is no map.
fn map_keys(root: &Path) -> Result<usize, String> {
    let folder = root.join(".dce-meta");
    // It could lead anywhere.
    if folder.is_symlink() {
        return Err(format!("cannot read `{}`: it is a symbolic link, not a folder", path(&folder)));
    }
    let map = folder.join("channel-map.json");
    let text = match file::read(&map, Links::Refuse, MAP_MAX_BYTES) {
        Ok(text) => text,
        Err(ReadError::Missing) => return Ok(0),
        Err(error) => return Err(format!("cannot read `{}`: {error}", path(&map))),
    };
    serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(&text)
        .map(|keys| keys.len())
        .map_err(|error| format!("`{}` is not a channel map: {}", path(&map), printable(error.to_string().as_bytes())))
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
        assert_ne!(channel_id(b"0000000000000001"), channel_id(b"00000000000000001"));
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
        let archive = Archive::walk(folder.path(), &Progress::default(), &Signals::catch(&[]).unwrap()).unwrap();
        assert_eq!((archive.json, archive.ids.len(), archive.map, &archive.faults[..]), (5, 3, 0, &[][..]));
        assert!(archive.has("1000000000000005") && !archive.has("1000000000000003"));
    }

    #[test]
    fn a_map_that_does_not_parse_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let map = folder.path().join(".dce-meta/channel-map.json");
        assert_eq!(map_keys(folder.path()), Ok(0));
        std::fs::create_dir(map.parent().unwrap()).unwrap();
        for (text, keys) in [("{}", Some(0)), (r#"{"a": [{}], "b": {"c": 1}}"#, Some(2)), ("[]", None), ("{", None)] {
            std::fs::write(&map, text).unwrap();
            assert_eq!(map_keys(folder.path()).ok(), keys, "{text}");
        }
    }
}
