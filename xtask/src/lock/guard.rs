//! Taking the lock, and reclaiming what a killed scrape left. By the host runner's rules: the lock file is
//! never removed, and the lock is a flock that children share.

use crate::lock::file::{self, Locks};
use crate::lock::judge::{LockState, judge};
use crate::lock::kernel;
use crate::lock::observe::{ANSWER_TIMEOUT, IN_GRACE, LOOK_TIMEOUT, Lock, NO_ANSWER, Observation, ObservedVia, survey};
use crate::lock::path::sidecar_path;
use crate::lock::sidecar::Claim;
use crate::lock::wanted::Wanted;
use crate::sys::deadline::within;
use crate::sys::file::{irregular, plain, remove_if_present, stat_id};
use crate::sys::procfs;
use crate::text::path;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// How often a lock file that is replaced while it is being taken is opened afresh.
const MAX_TRIES: usize = 5;

/// Why the lock was not taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    Held,
    /// What failed, where, and why.
    Failed(String),
}

/// The lock, taken. It is released when this and all copies of its descriptor are closed: an explicit unlock
/// would take it away from children that still scrape.
#[derive(Debug)]
pub(crate) struct Guard {
    lock: PathBuf,
    file: OwnedFd,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Held => write!(f, "the lock is held"),
            Refusal::Failed(why) => f.write_str(why),
        }
    }
}

impl Guard {
    /// Takes the lock exclusively, without waiting, and creates its folder and file if needed, with modes that
    /// the umask decides. Refused too while somebody holds a lock file that was deleted, replaced or moved: that
    /// scrape runs.
    pub(crate) fn acquire(lock: &Path) -> Result<Guard, Refusal> {
        let path = lock.to_path_buf();
        answer_of(lock, move || {
            let folder = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder).map_err(|error| failed("create the folder", folder, &error))?;
            let is_new = !path.exists();
            if is_new {
                // Before it is made: with a new lock file in its place, a lost one is harder to find.
                check_nobody_scrapes(&path, is_new, false)?;
            }
            let guard = Guard::take(&path, OFlags::CREATE)?;
            check_nobody_scrapes(&path, is_new, true)?;
            Ok(guard)
        })
    }

    /// Takes the lock of an existing file.
    pub(crate) fn acquire_existing(lock: &Path) -> Result<Guard, Refusal> {
        let path = lock.to_path_buf();
        answer_of(lock, move || Guard::take(&path, OFlags::empty()))
    }

    fn take(lock: &Path, more: OFlags) -> Result<Guard, Refusal> {
        for _ in 0..MAX_TRIES {
            let file = open_lock(lock, more)?;
            #[expect(clippy::disallowed_methods, reason = "this is where the lock is taken")]
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // An SMB server says EACCES.
                Err(Errno::WOULDBLOCK | Errno::ACCESS) => return Err(Refusal::Held),
                Err(errno) => return Err(failed("lock", lock, &errno.into())),
            }
            // If the file was replaced meanwhile, others may lock the new one.
            let ours = stat_id(&file, "", AtFlags::EMPTY_PATH).ok();
            if ours.is_some() && stat_id(CWD, lock, AtFlags::empty()).ok() == ours {
                return Ok(Guard { lock: lock.to_path_buf(), file });
            }
        }
        Err(Refusal::Failed(format!("the lock file `{}` keeps being replaced", path(lock))))
    }

    /// Lets children inherit the descriptor, so that the lock lives as long as the scrape does.
    pub(crate) fn share(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.file, FdFlags::empty())?)
    }

    /// Writes the sidecar atomically. `cmd` is the command line that runs under the lock.
    pub(crate) fn record(&self, cmd: &str) -> Result<(), Refusal> {
        let mut text = format!("pid={}\n", std::process::id());
        text += &format!("started={}\n", humantime::format_rfc3339_seconds(SystemTime::now()));
        text += &format!("cmd={cmd}\n");
        text += &procfs::host().map(|host| format!("host={host}\n")).unwrap_or_default();
        text += &procfs::boot_id().map(|id| format!("boot_id={id}\n")).unwrap_or_default();
        let sidecar = sidecar_path(&self.lock);
        answer_of(&self.lock, move || write_sidecar(&sidecar, &text))
    }

    /// Removes the sidecar that this process wrote, while it still has the lock, and releases the lock.
    pub(crate) fn release(self) -> Result<(), Refusal> {
        let lock = self.lock.clone();
        // If it is not ours, the lock file was deleted meanwhile, and another scrape wrote it.
        answer_of(&self.lock, move || if Claim::read(&lock).is_own() { remove_sidecar(&lock) } else { Ok(()) })
    }

    /// Removes the sidecar of a scrape that was killed, if it is still that of `pid` and `pid` still does not
    /// run; None when it is already gone.
    pub(crate) fn reclaim(self, pid: u64) -> Result<Option<PathBuf>, Refusal> {
        match Claim::read(&self.lock) {
            Claim::None => Ok(None),
            Claim::Recorded(now) if now.pid == pid && now.writer.is_running() == Some(false) => {
                remove_sidecar(&self.lock)?;
                Ok(Some(sidecar_path(&self.lock)))
            }
            _ => Err(Refusal::Failed(
                "the sidecar changed in the meantime, or cannot be read; nothing was removed".into(),
            )),
        }
    }
}

/// Refuses beside a holder of another lock file, and where there may be one. `is_own`: this process has the lock;
/// `is_new`: it found no lock file.
fn check_nobody_scrapes(lock: &Path, is_new: bool, is_own: bool) -> Result<(), Refusal> {
    let claim = Claim::read(lock);
    let file = file::find(lock).map_err(|error| failed("look at", lock, &error))?;
    let mut wanted = Wanted::new(lock, file.as_ref(), &claim);
    wanted.may_have_predecessor |= is_new;
    let (table, walk) = survey(wanted, file.as_ref(), is_own, Instant::now() + LOOK_TIMEOUT);
    if walk.is_unlinked || table.is_ok_and(|table| table.has_fcntl_lock()) {
        return Err(Refusal::Held);
    }
    let in_grace = file.as_ref().is_some_and(|file| file.locks() == Locks::Local) && kernel::is_in_grace();
    let state = match is_new {
        _ if in_grace => Lock::Unknown(IN_GRACE.to_owned()),
        true => Lock::NoFile,
        false => Lock::NotHeld,
    };
    let mut seen = Observation::new(state, ObservedVia::Fdinfo, claim, walk);
    if let Some(file) = &file {
        seen.note_remote_locks(file);
    }
    match judge(&seen).state {
        LockState::Unknown(why) => Err(Refusal::Failed(format!("the lock `{}` is unknown: {why}", path(lock)))),
        _ => Ok(()),
    }
}

/// Only the holder writes here, so the temporary name need not be random. What a killed predecessor or a
/// stranger left there is removed first, not followed.
fn write_sidecar(sidecar: &Path, text: &str) -> Result<(), Refusal> {
    let mut temporary = sidecar.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    remove_if_present(&temporary).map_err(|error| failed("write the sidecar: cannot remove", &temporary, &error))?;
    let write = || {
        let mut file = File::create_new(&temporary)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&temporary, sidecar)
    };
    write().map_err(|error| {
        _ = fs::remove_file(&temporary);
        failed("write the sidecar", sidecar, &error)
    })
}

fn remove_sidecar(lock: &Path) -> Result<(), Refusal> {
    let sidecar = sidecar_path(lock);
    remove_if_present(&sidecar).map_err(|error| failed("remove the sidecar", &sidecar, &error))
}

fn open_lock(lock: &Path, more: OFlags) -> Result<OwnedFd, Refusal> {
    // Looked at first: opening a device may have an effect.
    if let Ok(found) = openat(CWD, lock, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        && let Ok(Some(kind)) = irregular(&found)
    {
        return Err(Refusal::Failed(format!("the lock path `{}` is {kind}, not a regular file", path(lock))));
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | more;
    openat(CWD, lock, flags, Mode::from_raw_mode(0o666)).map_err(|errno| match errno {
        // Without O_NONBLOCK the open would wait for it (fcntl(2), "Leases").
        Errno::WOULDBLOCK => Refusal::Failed(format!(
            "cannot open the lock file `{}`: a process, perhaps a file server, has a lease on it; try again in a minute",
            path(lock)
        )),
        _ => failed("open the lock file", lock, &errno.into()),
    })
}

/// Does what may hang when the lock's file system does not answer.
fn answer_of<T: Send + 'static>(
    lock: &Path,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match within(ANSWER_TIMEOUT, work) {
        Ok(Some(answer)) => answer,
        Ok(None) => Err(Refusal::Failed(format!("{NO_ANSWER}: `{}`", path(lock)))),
        Err(error) => Err(failed("lock", lock, &error)),
    }
}

fn failed(what: &str, at: &Path, error: &io::Error) -> Refusal {
    Refusal::Failed(format!("cannot {what} `{}`: {}", path(at), plain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Foreign;

    /// Takes a lock that nobody holds. A child that another test starts may have a copy of a closed descriptor until
    /// it has become its program.
    fn existing(lock: &Path) -> Guard {
        let mut tries = std::iter::repeat_with(|| Guard::acquire_existing(lock)).take(10_000);
        let taken = tries.find(|taken| !matches!(taken, Err(Refusal::Held)));
        taken.unwrap_or(Err(Refusal::Held)).unwrap()
    }

    #[test]
    fn a_taken_lock_is_refused_and_its_sidecar_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("new/folder/lock");
        let guard = Guard::acquire(&lock).unwrap();
        assert!(matches!(Guard::acquire(&lock), Err(Refusal::Held)));
        let flags = rustix::fs::fcntl_getfl(&guard.file).unwrap();
        assert!(flags.contains(OFlags::RDWR), "an NFS client must be able to write it to lock it");
        std::os::unix::fs::symlink("/nonexistent", folder.path().join("new/folder/lock.meta.new")).unwrap();
        guard.record("a b").unwrap();
        let Claim::Recorded(recorded) = Claim::read(&lock) else { panic!("no sidecar") };
        assert_eq!((recorded.pid, recorded.writer.is_running()), (std::process::id().into(), Some(true)));
        assert_eq!(recorded.cmd, Some(Foreign(b"a b".into())));
        guard.release().unwrap();
        assert_eq!(Claim::read(&lock), Claim::None);
        assert!(lock.exists());
    }

    #[test]
    fn another_ones_sidecar_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        let guard = Guard::acquire(&lock).unwrap();
        fs::write(sidecar_path(&lock), "pid=99999999\n").unwrap();
        guard.release().unwrap();
        assert!(sidecar_path(&lock).exists());
        let guard = existing(&lock);
        assert!(guard.reclaim(7).is_err(), "it names another pid");
        existing(&lock).reclaim(99_999_999).unwrap();
        assert!(!sidecar_path(&lock).exists() && lock.exists());
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let Err(Refusal::Failed(why)) = Guard::acquire(folder.path()) else { panic!("taken") };
        assert!(why.ends_with("is a folder, not a regular file"), "{why}");
    }

    #[test]
    fn only_the_sidecar_that_was_seen_is_reclaimed() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        fs::write(&lock, "").unwrap();
        let reclaim = || {
            let reclaimed = existing(&lock).reclaim(99_999_999);
            reclaimed.map_err(|refusal| refusal.to_string())
        };
        assert_eq!(reclaim(), Ok(None), "there is none");
        fs::create_dir(sidecar_path(&lock)).unwrap();
        assert!(reclaim().unwrap_err().contains("changed in the meantime"), "it is no file");
        fs::remove_dir(sidecar_path(&lock)).unwrap();
        fs::write(sidecar_path(&lock), "pid=99999999\nhost=elsewhere\n").unwrap();
        assert!(reclaim().unwrap_err().contains("changed in the meantime"), "it is another host's");
        fs::write(sidecar_path(&lock), "pid=99999999\n").unwrap();
        assert_eq!(reclaim(), Ok(Some(sidecar_path(&lock))));
    }

    #[test]
    fn a_lock_that_is_not_there_is_not_made_where_none_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let Err(why) = Guard::acquire_existing(&folder.path().join("lock")) else { panic!("taken") };
        assert!(why.to_string().starts_with("cannot open the lock file"), "{why}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(Refusal::Held.to_string(), "the lock is held");
    }
}
