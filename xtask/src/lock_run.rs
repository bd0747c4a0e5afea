//! `lock-run`: runs a command under the scrape lock, as `flock(1)` does under any lock.

use crate::cli;
use crate::env::{self, Env};
use crate::lock::guard::{Guard, Refusal};
use crate::lock_status::report::{LockReport, Look};
use crate::lock_status::text::{self, waiting_for};
use crate::output;
use crate::sys::child;
use crate::sys::file::plain;
use crate::sys::procfs;
use crate::sys::signals::Signals;
use crate::target::Resolved;
use crate::text::{path, printable};
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
        // Caught from here on: the wait or the command ends, and the sidecar is removed before this process exits.
        // SIGXFSZ: beyond `ulimit -f`, writing the sidecar must fail, not kill. SIGCHLD: the command has ended.
        let others = [Signal::SIGCHLD, Signal::SIGXFSZ];
        let mut signals = Signals::catch(&[&FORWARDED[..], &others].concat()).context("cannot catch signals")?;
        if env.skip_scrape_lock {
            return run_command(&self.command, signals);
        }
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let guard = match self.take(&resolved, &mut signals, env)? {
            Ok(guard) => guard,
            Err(verdict) => return Ok(verdict),
        };
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        guard.record(&printable(words.join(" ").as_bytes())).map_err(|why| anyhow!("{why}\nhint: nothing was run"))?;
        let shared = guard.share().context("cannot share the lock's descriptor");
        let ended = shared.and_then(|()| run_command(&self.command, signals));
        if let Err(why) = guard.release() {
            output::complain(&format!("WARN: {why}; the next scrape replaces it\n"));
        }
        ended
    }

    /// Takes the lock, perhaps after a while; or gives the answer when it stays held or a signal ends the wait.
    fn take(&self, resolved: &Resolved, signals: &mut Signals, env: &Env) -> anyhow::Result<Result<Guard, Verdict>> {
        let mut waiting = self.wait.map(|wait| Waiting::new(wait, env));
        let mut shown = None;
        loop {
            match Guard::acquire(&resolved.lock) {
                Ok(guard) => return Ok(Ok(guard)),
                Err(Refusal::Failed(why)) => bail!("{why}\nhint: nothing was run and nothing is locked"),
                Err(Refusal::Held) => {}
            }
            if let Some(waiting) = &mut waiting {
                let (line, interval) = shown.get_or_insert_with(|| {
                    let report = LockReport::gather(resolved, Look::Quick);
                    waiting.watch(&report.seen.walk.holders);
                    (waiting_for(&report), report.look_interval())
                });
                let goes_on = waiting.pause(*interval, Some(signals.as_fd()), line)?;
                if let Some(signal) = signals.take().into_iter().find(|signal| FORWARDED.contains(signal)) {
                    return Ok(Err(Verdict::Code(128 + signal as u8)));
                }
                if goes_on {
                    continue;
                }
            }
            drop(waiting);
            output::complain(&format!("ERROR: {}\n", refusal(&LockReport::gather(resolved, Look::Quick))));
            return Ok(Err(Verdict::Code(self.conflict_exit_code)));
        }
    }
}

/// The host runner's words.
pub(crate) fn refusal(report: &LockReport) -> String {
    let holder = match (report.seen.claim.recorded(), report.seen.walk.holders.first()) {
        (Some(recorded), _) => {
            let cmd = recorded.cmd.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
            format!("{}: {cmd}", text::holder(recorded))
        }
        (None, Some(holder)) => format!("pid {} (running, started unknown): {}", holder.pid, holder.command),
        (None, None) => "pid unknown".to_owned(),
    };
    format!("Another scrape is already running (lock: {}). Holder {holder}", path(&report.lock))
}

/// Runs the command to its end, forwards signals to it, and gives its exit code.
fn run_command(words: &[OsString], mut signals: Signals) -> anyhow::Result<Verdict> {
    let (program, arguments) = words.split_first().context("there is no command to run")?;
    let mut command = child::command(program);
    command.args(arguments).env_clear().envs(env::for_command()).stdin(Stdio::inherit());
    let mut child = child::spawn(&mut command)
        .map_err(|error| anyhow!("cannot run `{}`: {}", path(Path::new(program)), plain(&error)))?;
    // Whatever fails from here on, the command is waited for. SIGCHLD, or else the descriptor, says when.
    let end = child::end_of(&child).ok();
    while let Ok(None) = child.try_wait() {
        let fds: Vec<_> = end.iter().map(AsFd::as_fd).chain([signals.as_fd()]).collect();
        if child::wait_for(&fds, None).is_err() {
            break;
        }
        for signal in
            signals.take().into_iter().filter(|signal| FORWARDED.contains(signal) && !is_from_keyboard(*signal))
        {
            // The command is not waited for yet, so the pid is its own.
            _ = kill(Pid::from_raw(child.id() as i32), signal);
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
