//! Whether a scrape that holds the lock does something: evidence, never a verdict. The newest write below the archive
//! root, and what the holders wrote between two looks.

use crate::lock::walk::Holder;
use crate::sys::child::wait_for;
use crate::sys::deadline::within;
use crate::sys::file::{Links, open_folder, written_at};
use crate::sys::procfs;
use crate::text;
use rustix::fs::{AtFlags, FileType, statat};
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long the walk may take.
const WALK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a call of it may hang beyond that.
const HANG_TIMEOUT: Duration = Duration::from_secs(1);

/// Between the two looks at what the holders have written.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A scrape that writes nothing for so long may hang.
const LONG_SILENCE: Duration = Duration::from_secs(3600);

/// The lock and its sidecar are written at the start alone.
const LOCK_NAME: &[u8] = b".dce-scrape.lock";

#[derive(Debug, Serialize)]
pub(crate) struct Activity {
    /// None if there is no file, or the file system does not answer.
    last_write: Option<LastWrite>,
    /// Number of folder entries that the walk has met.
    entries: usize,
    /// False if its time was up first.
    is_complete: bool,
    /// What the holders wrote in that time, in bytes; None where that may not be read.
    written_bytes: Option<u64>,
    /// The time between the two looks at that.
    written_in_ms: u64,
}

/// The newest write.
#[derive(Debug, Serialize)]
struct LastWrite {
    seconds_ago: u64,
    /// Below the archive root.
    #[serde(serialize_with = "crate::text::lossy")]
    path: PathBuf,
}

/// The newest file so far.
#[derive(Default)]
struct Walk {
    newest: Option<(SystemTime, PathBuf)>,
    entries: usize,
    is_complete: bool,
}

impl Activity {
    pub(crate) fn gather(archive_root: Option<&Path>, holders: &[Holder]) -> Activity {
        let (before, started) = (written(holders), Instant::now());
        let root = archive_root.map(Path::to_path_buf);
        let walk = root.and_then(|root| within(WALK_TIMEOUT + HANG_TIMEOUT, move || Walk::of(&root)).ok()?);
        let walk = walk.unwrap_or_default();
        // Nothing to wait for but the time.
        _ = wait_for(&[], Some(started + LOOK_INTERVAL));
        let written_in_ms = started.elapsed().as_millis() as u64;
        let written_bytes = before.and_then(|before| written(holders)?.checked_sub(before));
        let last_write = walk.newest.map(|(at, path)| LastWrite {
            seconds_ago: SystemTime::now().duration_since(at).unwrap_or_default().as_secs(),
            path,
        });
        Activity { last_write, entries: walk.entries, is_complete: walk.is_complete, written_bytes, written_in_ms }
    }

    /// What is known, in a line; None if that is nothing.
    pub(crate) fn text(&self) -> Option<String> {
        let last_write = self.last_write.as_ref().map(|LastWrite { seconds_ago, path }| {
            let among = if self.is_complete { String::new() } else { format!(" (among {} entries)", self.entries) };
            let ago = text::duration(Duration::from_secs(*seconds_ago));
            format!("last write {ago} ago{among}: {}", text::path(path))
        });
        let written = self.written_bytes.map(|bytes| match bytes {
            0 => format!("the holders wrote nothing in {} ms", self.written_in_ms),
            bytes => format!("the holders wrote {} in {} ms", text::size(bytes), self.written_in_ms),
        });
        let known: Vec<String> = last_write.into_iter().chain(written).collect();
        (!known.is_empty()).then(|| known.join("; "))
    }

    /// What to do about a long silence; what was written before the lock was taken, `held` ago, is not the holder's.
    pub(crate) fn next(&self, held: Duration) -> Option<String> {
        let last_write = Duration::from_secs(self.last_write.as_ref().filter(|_| self.is_complete)?.seconds_ago);
        let silence = last_write.min(held);
        let is_silent = silence >= LONG_SILENCE && self.written_bytes.is_none_or(|bytes| bytes == 0);
        let ago = text::duration(last_write);
        is_silent.then(|| format!("last write {ago} ago: it may hang; ask its owner before it is stopped"))
    }
}

/// What these processes have written so far, in bytes (`wchar` in proc_pid_io(5)).
fn written(holders: &[Holder]) -> Option<u64> {
    let each = holders.iter().map(|holder| {
        let io = procfs::read(&format!("/proc/{}/io", holder.pid)).ok()?;
        io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok())
    });
    let known: Vec<u64> = each.flatten().collect();
    (!known.is_empty()).then(|| known.iter().sum())
}

impl Walk {
    fn of(root: &Path) -> Walk {
        let until = Instant::now() + WALK_TIMEOUT;
        let mut walk = Walk { is_complete: true, ..Walk::default() };
        // The scrape writes into the newest folders: depth first, as they were listed last.
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            if walk.add(root, &folder, &mut folders, until).is_err() {
                walk.is_complete = false;
            }
            if Instant::now() >= until {
                walk.is_complete &= folders.is_empty();
                break;
            }
        }
        walk
    }

    fn add(&mut self, root: &Path, folder: &Path, folders: &mut Vec<PathBuf>, until: Instant) -> std::io::Result<()> {
        // Only the root may be a link.
        let links = if folder.as_os_str().is_empty() { Links::Follow } else { Links::Refuse };
        let mut opened = open_folder(&root.join(folder), links)?;
        while let Some(entry) = opened.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || name.to_bytes().starts_with(LOCK_NAME) {
                continue;
            }
            self.entries += 1;
            let stat = statat(opened.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let at = || folder.join(OsStr::from_bytes(name.to_bytes()));
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => folders.push(at()),
                FileType::RegularFile => {
                    let is_newest = |at: &SystemTime| self.newest.as_ref().is_none_or(|(newest, _)| at > newest);
                    if let Some(written) = written_at(&stat).filter(is_newest) {
                        self.newest = Some((written, at()));
                    }
                }
                _ => {}
            }
            if self.entries.is_multiple_of(256) && Instant::now() >= until {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(seconds_ago: u64, is_complete: bool, written_bytes: Option<u64>) -> Activity {
        let last_write = Some(LastWrite { seconds_ago, path: "guild/x.json".into() });
        Activity { last_write, entries: 7, is_complete, written_bytes, written_in_ms: 200 }
    }

    #[test]
    fn evidence_is_told_in_a_line() {
        let line = "last write 40 seconds ago: guild/x.json; the holders wrote 12K in 200 ms";
        assert_eq!(activity(40, true, Some(12 << 10)).text().as_deref(), Some(line));
        let line = "last write 1 hour ago (among 7 entries): guild/x.json";
        assert_eq!(activity(3600, false, None).text().as_deref(), Some(line));
        let nothing =
            Activity { last_write: None, entries: 0, is_complete: true, written_bytes: None, written_in_ms: 200 };
        assert_eq!(nothing.text(), None);
    }

    #[test]
    fn only_a_long_silence_is_worth_a_word() {
        let held = Duration::from_secs(20_000);
        let silent = activity(10_800, true, Some(0));
        assert!(silent.next(held).unwrap().starts_with("last write 3 hours ago: it may hang"));
        assert!(activity(10_800, true, None).next(held).is_some());
        assert_eq!(silent.next(Duration::from_secs(5)), None, "it has only just begun");
        for busy in [activity(40, true, Some(0)), activity(10_800, true, Some(1)), activity(10_800, false, Some(0))] {
            assert_eq!(busy.next(held), None, "{busy:?}");
        }
    }

    #[test]
    fn the_newest_file_is_found_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/.dce-temp")).unwrap();
        let write = |name: &str, seconds: u64| {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        write("old", 1000);
        write("a/.dce-temp/new", 3000);
        write("a/other", 2000);
        write(".dce-scrape.lock.meta", 9000);
        let walk = Walk::of(folder.path());
        let newest = (SystemTime::UNIX_EPOCH + Duration::from_secs(3000), PathBuf::from("a/.dce-temp/new"));
        assert_eq!((walk.newest, walk.entries, walk.is_complete), (Some(newest), 5, true));
    }
}
