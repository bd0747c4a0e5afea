//! Taking the lock, and reclaiming what a killed scrape left. By the host runner's rules:
//! the lock file is never removed, and the lock is a flock that children share.

use crate::bounded::{irregular, plain};
use crate::lock::identity::stat_id;
use crate::lock::path::sidecar_path;
use crate::lock::sidecar::{self, Found, RecordedPid};
use crate::lock::{Claim, claim, lost, proc};
use crate::text::path;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, CWD, FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How often a lock file that is replaced while it is taken is opened afresh.
const TRIES: usize = 5;

/// Why the lock was not taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    Held,
    /// What failed, where, and why.
    Failed(String),
}

/// The lock, taken. It is let go when this and all copies of its descriptor are closed: an
/// explicit unlock would take it from children that still scrape.
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
    /// Takes the lock exclusively, without waiting; makes its folder and file where they are
    /// missing. Refused as well while somebody holds a lock file that was deleted, replaced or
    /// moved aside: that scrape runs.
    pub(crate) fn acquire(lock: &Path) -> Result<Guard, Refusal> {
        let folder = lock.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(|error| failed("make the folder", folder, &error))?;
        let is_new = !lock.exists();
        let guard = Guard::take(lock, OFlag::O_CREAT)?;
        // Looked for only where there is a sign of it, as it costs a walk through all processes.
        let has_sign = is_new || sidecar_path(lock).symlink_metadata().is_ok();
        if has_sign && !lost::holders(lock).is_empty() { Err(Refusal::Held) } else { Ok(guard) }
    }

    /// Takes the lock of a file that is there.
    pub(crate) fn acquire_existing(lock: &Path) -> Result<Guard, Refusal> {
        Guard::take(lock, OFlag::empty())
    }

    fn take(lock: &Path, more: OFlag) -> Result<Guard, Refusal> {
        for _ in 0..TRIES {
            let file = open_lock(lock, more)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Refusal::Held),
                Err(errno) => return Err(failed("lock", lock, &errno.into())),
            }
            // Whoever replaced the file meanwhile may let others lock the new one.
            let ours = stat_id(&file, "", AtFlags::EMPTY_PATH).ok();
            if ours.is_some() && stat_id(CWD, lock, AtFlags::empty()).ok() == ours {
                return Ok(Guard { lock: lock.to_path_buf(), file });
            }
        }
        Err(Refusal::Failed(format!("the lock file `{}` keeps being replaced", path(lock))))
    }

    /// Lets children inherit the descriptor: the lock lives as long as the scrape does.
    pub(crate) fn share(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.file, FdFlags::empty())?)
    }

    /// Writes the sidecar, at once: a reader never sees half of it. `cmd` is what is run.
    pub(crate) fn record(&self, cmd: &str) -> Result<(), Refusal> {
        let sidecar = sidecar_path(&self.lock);
        // Only who holds the lock writes here, so that the name needs no chance; whatever a
        // killed predecessor or a stranger left there goes first, and is not followed.
        let mut temporary = sidecar.clone().into_os_string();
        temporary.push(".new");
        let cannot = |error: io::Error| {
            _ = fs::remove_file(&temporary);
            failed("write the sidecar", &sidecar, &error)
        };
        remove_if_there(Path::new(&temporary)).map_err(cannot)?;
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(0o644).open(&temporary).map_err(cannot)?;
        file.write_all(self.sidecar_text(cmd).as_bytes()).map_err(cannot)?;
        fs::rename(&temporary, &sidecar).map_err(cannot)
    }

    fn sidecar_text(&self, cmd: &str) -> String {
        let mut text = format!("pid={}\n", std::process::id());
        text += &format!("started={}\n", humantime::format_rfc3339_seconds(SystemTime::now()));
        text += &format!("cmd={cmd}\n");
        text += &proc::host().map(|host| format!("host={host}\n")).unwrap_or_default();
        text + &proc::boot_id().map(|id| format!("boot_id={id}\n")).unwrap_or_default()
    }

    /// Removes the sidecar that this process wrote, while it still has the lock, and lets go.
    pub(crate) fn release(self) -> Result<(), Refusal> {
        let is_ours = |pid: u64| pid == u64::from(std::process::id());
        match sidecar::read(&self.lock) {
            Found::Sidecar(sidecar) if matches!(sidecar.pid, Some(RecordedPid::Usable(pid)) if is_ours(pid)) => {
                self.remove_sidecar()
            }
            // The lock file was deleted under us, and the sidecar is somebody else's.
            _ => Ok(()),
        }
    }

    /// Removes the sidecar of a scrape that was killed, if it is still that of `pid` and `pid`
    /// still does not run; None when it is gone already.
    pub(crate) fn reclaim(self, pid: u64) -> Result<Option<PathBuf>, Refusal> {
        match claim(sidecar::read(&self.lock)) {
            Claim::None => Ok(None),
            Claim::Recorded(now) if now.pid == pid && now.is_running() == Some(false) => {
                self.remove_sidecar()?;
                Ok(Some(sidecar_path(&self.lock)))
            }
            _ => Err(Refusal::Failed("the sidecar changed while it was looked at; nothing was removed".to_owned())),
        }
    }

    fn remove_sidecar(&self) -> Result<(), Refusal> {
        let sidecar = sidecar_path(&self.lock);
        remove_if_there(&sidecar).map_err(|error| failed("remove the sidecar", &sidecar, &error))
    }
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn open_lock(lock: &Path, more: OFlag) -> Result<OwnedFd, Refusal> {
    // Looked at first: opening a device may do something.
    if let Ok(found) = open(lock, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        && let Ok(Some(kind)) = irregular(&found)
    {
        return Err(Refusal::Failed(format!("the lock path `{}` is {kind}, not a regular file", path(lock))));
    }
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | more;
    open(lock, flags, Mode::from_bits_truncate(0o644))
        .map_err(|errno| failed("open the lock file", lock, &errno.into()))
}

fn failed(what: &str, at: &Path, error: &io::Error) -> Refusal {
    Refusal::Failed(format!("cannot {what} `{}`: {}", path(at), plain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_lock_is_refused_and_its_sidecar_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("new/folder/lock");
        let guard = Guard::acquire(&lock).unwrap();
        assert!(matches!(Guard::acquire(&lock), Err(Refusal::Held)));
        std::os::unix::fs::symlink("/nonexistent", folder.path().join("new/folder/lock.meta.new")).unwrap();
        guard.record("a b").unwrap();
        let Found::Sidecar(sidecar) = sidecar::read(&lock) else { panic!("no sidecar") };
        assert_eq!(sidecar.pid, Some(RecordedPid::Usable(std::process::id().into())));
        assert_eq!((sidecar.cmd.as_deref(), sidecar.boot_id().is_some()), (Some(&b"a b"[..]), true));
        guard.release().unwrap();
        assert_eq!(sidecar::read(&lock), Found::Nothing);
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
        let guard = Guard::acquire_existing(&lock).unwrap();
        assert!(guard.reclaim(7).is_err(), "it names another pid");
        Guard::acquire_existing(&lock).unwrap().reclaim(99_999_999).unwrap();
        assert!(!sidecar_path(&lock).exists() && lock.exists());
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let Err(Refusal::Failed(why)) = Guard::acquire(folder.path()) else { panic!("taken") };
        assert!(why.ends_with("is a folder, not a regular file"), "{why}");
    }
}
