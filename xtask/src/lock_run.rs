//! `lock-run`: a command under the scrape lock, as `flock(1)` runs one under any.

use crate::bounded::plain;
use crate::child;
use crate::config::{LockConfig, Source};
use crate::env::{self, Env};
use crate::flags;
use crate::lock::guard::{Guard, Patience, Refusal};
use crate::lock_status::{LockReport, lock_of};
use crate::output;
use crate::text::{path, printable};
use anyhow::{Context, anyhow, bail};
use nix::poll::{PollFd, PollFlags};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;

/// What somebody may send to `lock-run` and mean for its command.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// The terminal's driver sent it, and to the command as well (`SI_KERNEL`, sigaction(2)).
const FROM_TERMINAL: i32 = 0x80;

impl flags::LockRun {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<ExitCode> {
        if env.skip_scrape_lock {
            return run_command(&self.command);
        }
        let source = Source::read(self.config.as_deref(), env)?;
        let root = source.parse::<LockConfig>()?.archive_root(&source)?;
        let lock = lock_of(root.as_ref(), env)?;
        let guard = match take(&lock, self.wait) {
            Ok(guard) => guard,
            Err(Refusal::Held) => {
                let report = LockReport::gather(&source.path, root.as_ref(), env)?;
                output::complain(&format!("ERROR: {}\n", refusal(&lock, &report)));
                return Ok(ExitCode::from(self.conflict_exit_code));
            }
            Err(Refusal::Failed(why)) => bail!("{why}\nhint: nothing was run and nothing is locked"),
        };
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        guard.record(&printable(words.join(" ").as_bytes())).map_err(|why| anyhow!("{why}\nhint: nothing was run"))?;
        let ended =
            guard.share().context("cannot share the lock's descriptor").and_then(|()| run_command(&self.command));
        guard.release().map_err(|why| anyhow!("{why}\nhint: the command has ended, and the lock with it"))?;
        ended
    }
}

/// Takes the lock, perhaps after a while. The kernel wakes whoever waits, in turn.
fn take(lock: &Path, wait: Option<flags::Wait>) -> Result<Guard, Refusal> {
    match wait {
        None => Guard::acquire(lock, Patience::None),
        Some(flags::Wait { limit: None }) => Guard::acquire(lock, Patience::Endless),
        Some(flags::Wait { limit: Some(limit) }) => {
            let (sender, taken) = mpsc::channel();
            let lock = lock.to_path_buf();
            // When time is up it goes on waiting, and ends with this process.
            std::thread::spawn(move || sender.send(Guard::acquire(&lock, Patience::Endless)));
            taken.recv_timeout(limit).unwrap_or(Err(Refusal::Held))
        }
    }
}

/// The host runner's words.
fn refusal(lock: &Path, report: &LockReport) -> String {
    let start = format!("Another scrape is already running (lock: {}).", path(lock));
    let text = |bytes: &Option<Vec<u8>>, other: &str| bytes.as_deref().map_or_else(|| other.to_owned(), printable);
    if let Some(recorded) = report.facts.recorded() {
        let running = if recorded.is_running() == Some(false) { "not running" } else { "running" };
        let started = text(&recorded.started, "unknown");
        return format!(
            "{start} Holder pid {} ({running}, started {started}): {}",
            recorded.pid,
            text(&recorded.cmd, "unknown")
        );
    }
    match report.facts.holders.first() {
        Some(holder) => {
            format!(
                "{start} Holder pid {} (running, started unknown): {}",
                holder.pid,
                printable(holder.command.as_bytes())
            )
        }
        None => format!("{start} Holder pid unknown"),
    }
}

/// Runs the command to its end, hands signals on to it, and gives its own exit code.
fn run_command(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let (program, _) = words.split_first().context("there is no command to run")?;
    let before = SigSet::thread_get_mask().context("cannot ask for the signal mask")?;
    // Blocked, or they would end us; read from a descriptor instead.
    let forwarded = SigSet::from_iter(FORWARDED);
    forwarded.thread_block().context("cannot block signals")?;
    let signals = SignalFd::with_flags(&forwarded, SfdFlags::SFD_CLOEXEC).context("cannot read signals")?;
    let shown = path(Path::new(program));
    let pid = spawn(words, &env::all(), &before).with_context(|| format!("cannot run `{shown}`"))?;
    let process = rustix::process::Pid::from_raw(pid.as_raw()).context("the command has no pid")?;
    let process = pidfd_open(process, PidfdFlags::empty()).context("cannot watch the command")?;
    loop {
        let mut fds =
            [PollFd::new(process.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        child::wait_for_ever(&mut fds).context("cannot wait for the command")?;
        let [has_ended, has_signal] = fds.map(|fd| fd.any() == Some(true));
        if has_signal && let Some(sent) = signals.read_signal().context("cannot read a signal")? {
            forward(&sent, pid);
        }
        if has_ended {
            return Ok(ExitCode::from(code(waitpid(pid, None).context("cannot wait for the command")?)));
        }
    }
}

/// Starts the command with the signal mask that we were started with, which
/// `std::process::Command` cannot: it hands on ours, and in it signals are blocked.
fn spawn(words: &[OsString], environment: &[CString], mask: &SigSet) -> anyhow::Result<Pid> {
    let words = words.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let program = words.first().context("there is no command")?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigmask(mask)?;
    // Rust programs ignore it; others do not expect to.
    attributes.set_sigdefault(&SigSet::from_iter([Signal::SIGPIPE]))?;
    posix_spawnp(program, &PosixSpawnFileActions::init()?, &attributes, &words, environment)
        .map_err(|errno| anyhow!(plain(&errno.into())))
}

fn forward(sent: &siginfo, command: Pid) {
    if sent.ssi_code != FROM_TERMINAL
        && let Some(signal) = i32::try_from(sent.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
    {
        // It is not waited for yet, so the pid is its own.
        _ = kill(command, signal);
    }
}

/// As a shell tells it: 128 + N for one that signal N ended.
fn code(status: WaitStatus) -> u8 {
    let code = match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => i32::from(u8::MAX),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
