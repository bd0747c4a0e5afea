//! `lock-run`: a command under the scrape lock, as `flock(1)` runs one under any.

use crate::bounded::plain;
use crate::child;
use crate::config::{LockConfig, Source};
use crate::env::{self, Env};
use crate::flags;
use crate::lock::guard::{Guard, Refusal};
use crate::lock_status::wait::Waiting;
use crate::lock_status::{LockReport, lock_of};
use crate::output;
use crate::text::{path, printable};
use anyhow::{Context, anyhow, bail};
use nix::poll::{PollFd, PollFlags};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getpgid};
use rustix::process::{PidfdFlags, WaitOptions, WaitStatus, pidfd_open, waitpid};
use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// What somebody may send to `lock-run` and mean for its command.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// The terminal's driver sent it (`SI_KERNEL`, sigaction(2)).
const FROM_TERMINAL: i32 = 0x80;

impl flags::LockRun {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<ExitCode> {
        if env.skip_scrape_lock {
            return run_command(&self.command, &Signals::block()?);
        }
        let source = Source::read(self.config.as_deref(), env)?;
        let root = source.parse::<LockConfig>()?.archive_root(&source)?;
        let lock = lock_of(root.as_ref(), env)?;
        let look = || LockReport::gather(&source.path, root.as_ref(), env);
        let Some(guard) = take(&lock, self.wait, env, look)? else {
            output::complain(&format!("ERROR: {}\n", refusal(&lock, &look()?)));
            return Ok(ExitCode::from(self.conflict_exit_code));
        };
        // From here on a signal ends the command, not us: the sidecar is removed whatever comes.
        let signals = Signals::block()?;
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        guard.record(&printable(words.join(" ").as_bytes())).map_err(|why| anyhow!("{why}\nhint: nothing was run"))?;
        let shared = guard.share().context("cannot share the lock's descriptor");
        let ended = shared.and_then(|()| run_command(&self.command, &signals));
        if let Err(why) = guard.release() {
            output::complain(&format!("WARN: {why}; the next scrape replaces it\n"));
        }
        ended
    }
}

/// Takes the lock, perhaps after a while; None when it stays held.
fn take(
    lock: &Path,
    wait: Option<flags::Wait>,
    env: &Env,
    look: impl Fn() -> anyhow::Result<LockReport>,
) -> anyhow::Result<Option<Guard>> {
    let waiting = wait.map(|wait| Waiting::new(wait, env));
    let taken = loop {
        match Guard::acquire(lock) {
            Ok(guard) => break Some(guard),
            Err(Refusal::Failed(why)) => bail!("{why}\nhint: nothing was run and nothing is locked"),
            Err(Refusal::Held) => {}
        }
        match &waiting {
            Some(waiting) if waiting.goes_on_beside(&look()?)? => {}
            _ => break None,
        }
    };
    waiting.iter().for_each(Waiting::ends);
    Ok(taken)
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

/// The signals that are handed on, read from a descriptor and blocked, or they would end us.
struct Signals {
    read: SignalFd,
    /// The signal mask before.
    mask: SigSet,
}

impl Signals {
    fn block() -> anyhow::Result<Signals> {
        let mask = SigSet::thread_get_mask().context("cannot ask for the signal mask")?;
        let forwarded = SigSet::from_iter(FORWARDED);
        forwarded.thread_block().context("cannot block signals")?;
        let read = SignalFd::with_flags(&forwarded, SfdFlags::SFD_CLOEXEC).context("cannot read signals")?;
        Ok(Signals { read, mask })
    }
}

/// Runs the command to its end, hands signals on to it, and gives its own exit code.
fn run_command(words: &[OsString], signals: &Signals) -> anyhow::Result<ExitCode> {
    let (program, _) = words.split_first().context("there is no command to run")?;
    let shown = path(Path::new(program));
    let pid = spawn(words, &env::all(), &signals.mask).with_context(|| format!("cannot run `{shown}`"))?;
    let command = rustix::process::Pid::from_raw(pid.as_raw()).context("the command has no pid")?;
    let process = pidfd_open(command, PidfdFlags::empty()).context("cannot watch the command")?;
    loop {
        let [ended, sent] = [process.as_fd(), signals.read.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut fds = [ended, sent];
        child::wait_for_ever(&mut fds).context("cannot wait for the command")?;
        let [has_ended, has_signal] = fds.map(|fd| fd.any() == Some(true));
        if has_signal && let Some(sent) = signals.read.read_signal().context("cannot read a signal")? {
            forward(&sent, pid);
        }
        if has_ended {
            let ended = waitpid(Some(command), WaitOptions::empty()).context("cannot wait for the command")?;
            return Ok(ExitCode::from(ended.map_or(u8::MAX, |(_, status)| code(status))));
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
    let Some(signal) = i32::try_from(sent.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) else {
        return;
    };
    // Ctrl-C and Ctrl-\ go to the terminal's whole foreground group; a hangup only to the
    // session's leader, which may be us.
    let is_key = matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && sent.ssi_code == FROM_TERMINAL;
    let has_got_it = is_key && getpgid(Some(command)) == getpgid(None);
    if !has_got_it {
        // It is not waited for yet, so the pid is its own.
        _ = kill(command, signal);
    }
}

/// As a shell tells it: 128 + N for one that signal N ended.
fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
