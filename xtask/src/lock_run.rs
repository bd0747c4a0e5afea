//! `lock-run`: runs a command under the scrape lock, as `flock(1)` does under any lock.

use crate::cli;
use crate::env::{self, Env};
use crate::lock::guard::{Guard, Refusal};
use crate::lock_status::report::LockReport;
use crate::lock_status::text::waiting_for;
use crate::output;
use crate::sys::child;
use crate::sys::file::plain;
use crate::sys::procfs;
use crate::sys::signals::Signals;
use crate::target::Resolved;
use crate::text::{Foreign, path, printable};
use crate::verdict::Verdict;
use crate::wait::Waiting;
use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

/// Signals that are sent to `lock-run` but meant for its command.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

impl cli::LockRun {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        if env.skip_scrape_lock {
            return run_command(&self.command, catch_signals()?);
        }
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let Some(guard) = take(&resolved, self.wait, env)? else {
            output::complain(&format!("ERROR: {}\n", refusal(&LockReport::gather(&resolved))));
            return Ok(Verdict::Code(self.conflict_exit_code));
        };
        // From here on a signal ends the command, not this process: the sidecar is removed in any case.
        let signals = catch_signals()?;
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        guard.record(&printable(words.join(" ").as_bytes())).map_err(|why| anyhow!("{why}\nhint: nothing was run"))?;
        let shared = guard.share().context("cannot share the lock's descriptor");
        let ended = shared.and_then(|()| run_command(&self.command, signals));
        if let Err(why) = guard.release() {
            output::complain(&format!("WARN: {why}; the next scrape replaces it\n"));
        }
        ended
    }
}

/// Takes the lock, perhaps after a while; None when it stays held.
fn take(resolved: &Resolved, wait: Option<cli::Wait>, env: &Env) -> anyhow::Result<Option<Guard>> {
    let waiting = wait.map(|wait| Waiting::new(wait, env));
    loop {
        match Guard::acquire(&resolved.lock) {
            Ok(guard) => return Ok(Some(guard)),
            Err(Refusal::Failed(why)) => bail!("{why}\nhint: nothing was run and nothing is locked"),
            Err(Refusal::Held) => {}
        }
        let Some(waiting) = &waiting else { return Ok(None) };
        let report = LockReport::gather(resolved);
        if !waiting.goes_on(&report.seen.sighting.search.holders, &waiting_for(&report))? {
            return Ok(None);
        }
    }
}

/// The host runner's words.
fn refusal(report: &LockReport) -> String {
    let or_unknown = |text: &Option<Foreign>| text.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let holder = match (report.seen.claim.recorded(), report.seen.sighting.search.holders.first()) {
        (Some(recorded), _) => {
            let running = if recorded.writer.is_running() == Some(false) { "not running" } else { "running" };
            let (started, cmd) = (or_unknown(&recorded.started), or_unknown(&recorded.cmd));
            format!("{} ({running}, started {started}): {cmd}", recorded.pid)
        }
        (None, Some(holder)) => format!("{} (running, started unknown): {}", holder.pid, holder.command),
        (None, None) => "unknown".to_owned(),
    };
    format!("Another scrape is already running (lock: {}). Holder pid {holder}", path(&report.lock))
}

fn catch_signals() -> anyhow::Result<Signals> {
    Signals::catch(&FORWARDED).context("cannot catch signals")
}

/// Runs the command to its end, forwards signals to it, and gives its exit code.
fn run_command(words: &[OsString], mut signals: Signals) -> anyhow::Result<Verdict> {
    let (program, arguments) = words.split_first().context("there is no command to run")?;
    let mut command = child::command(program);
    command.args(arguments).env_clear().envs(env::for_command()).stdin(Stdio::inherit());
    let mut child = child::spawn(&mut command)
        .map_err(|error| anyhow!("cannot run `{}`: {}", path(Path::new(program)), plain(&error)))?;
    let end = child::end_of(&child).context("cannot watch the command")?;
    while !child::is_ready(end.as_fd())? {
        child::wait_for(&[end.as_fd(), signals.as_fd()], None).context("cannot wait for the command")?;
        if child::is_ready(signals.as_fd())? {
            // The command is not waited for yet, so the pid is its own.
            signals.take()?.into_iter().filter(|&signal| !is_from_keyboard(signal)).for_each(|signal| {
                _ = kill(Pid::from_raw(child.id() as i32), signal);
            });
        }
    }
    Ok(Verdict::Code(code(child.wait().context("cannot wait for the command")?)))
}

/// Whether the terminal has sent the signal to the command as well: Ctrl-C and Ctrl-\ go to the whole
/// foreground process group, to which the command belongs too.
fn is_from_keyboard(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && procfs::is_in_foreground()
}

/// The exit code, or 128 + N when signal N ended the command, as in a shell.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
