//! The one place that starts other programs. [`run`] gives each a process group, a deadline and bounded output;
//! [`spawn`] only starts it, as for the command of `lock-run`.

use crate::sys::signals::Signals;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{PidfdFlags, pidfd_open};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Output beyond this is read and thrown away, for each pipe.
const OUTPUT_MAX_BYTES: usize = 8 << 20;

/// How often a pipe is read before the deadline is looked at again.
const MAX_READS: usize = 64;

/// How long a group may take to end after SIGTERM, and after SIGKILL.
const END_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the pipes of an ended child are still read: a child of its own may keep them open for ever.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// How long a program may be open for writing. A child of another thread inherits such a descriptor and
/// keeps it until its own exec (ETXTBSY, execve(2)).
const TEXT_BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(ExitStatus),
    /// It was killed at its deadline.
    TimedOut,
    /// It was killed because this program is to end.
    Cancelled,
}

/// A child that has ended, together with its group.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) end: End,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Some of the output was thrown away, or may still come: something had the pipe open when the command had ended.
    pub(crate) is_cut: bool,
}

/// A process group, killed on drop.
struct Group {
    leader: Child,
    is_reaped: bool,
}

/// A command with no input.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts programs")]
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Starts a command.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let until = Instant::now() + TEXT_BUSY_TIMEOUT;
    loop {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that starts programs")]
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < until => {
                std::thread::yield_now();
            }
            spawned => return spawned,
        }
    }
}

/// Becomes readable when the child has ended.
pub(crate) fn end_of(child: &Child) -> io::Result<OwnedFd> {
    Ok(pidfd_open(rustix::process::Pid::from_child(child), PidfdFlags::empty())?)
}

/// An exit status in words: the code, or the signal that ended the process.
pub(crate) fn status_text(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => format!("signal {}", status.signal().unwrap_or(0)),
    }
}

/// A command that was started, with its own group and the pipes of its output.
pub(crate) struct Running {
    group: Group,
    pipes: [Pipe; 2],
}

/// Runs a command to its end. After `timeout`, or when a signal of `cancel` is caught, its whole group gets
/// SIGTERM and, if it does not end, SIGKILL.
pub(crate) fn run(command: &mut Command, timeout: Duration, cancel: &Signals) -> io::Result<Finished> {
    Running::start(command)?.finish(Instant::now() + timeout, cancel)
}

/// The same, but what the command leaves behind in its group is left alone, unless it had to be killed itself.
pub(crate) fn run_leader(command: &mut Command, timeout: Duration, cancel: &Signals) -> io::Result<Finished> {
    Running::start(command)?.end(Instant::now() + timeout, cancel, Group::release)
}

impl Running {
    /// Starts a command. It is killed on drop.
    pub(crate) fn start(command: &mut Command) -> io::Result<Running> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut group = Group::spawn(command)?;
        let stdout = group.leader.stdout.take().map(OwnedFd::from);
        let stderr = group.leader.stderr.take().map(OwnedFd::from);
        Ok(Running { group, pipes: [Pipe::new(stdout)?, Pipe::new(stderr)?] })
    }

    /// Waits for its end, as [`run`] does.
    pub(crate) fn finish(self, until: Instant, cancel: &Signals) -> io::Result<Finished> {
        self.end(until, cancel, Group::end)
    }

    fn end(
        mut self,
        until: Instant,
        cancel: &Signals,
        end: fn(&mut Group) -> io::Result<ExitStatus>,
    ) -> io::Result<Finished> {
        let forced = watch(&self.group, &mut self.pipes, until, cancel)?;
        let status = if forced.is_none() { end(&mut self.group) } else { self.group.end() }?;
        let is_cut = self.pipes.iter().any(|pipe| pipe.is_cut || (forced.is_none() && pipe.open.is_some()));
        let [stdout, stderr] = self.pipes.map(|pipe| pipe.output);
        Ok(Finished { end: forced.unwrap_or(End::Exited(status)), stdout, stderr, is_cut })
    }
}

/// Reads the pipes until the leader has ended. The result says why it was killed, if it was.
fn watch(group: &Group, pipes: &mut [Pipe; 2], mut until: Instant, cancel: &Signals) -> io::Result<Option<End>> {
    let exit = end_of(&group.leader)?;
    let mut forced = None;
    let mut signals = [Signal::SIGTERM, Signal::SIGKILL].into_iter();
    while !is_ready(exit.as_fd())? {
        let cancel_fd = if forced.is_none() { cancel.as_fd() } else { exit.as_fd() };
        read_available(pipes, &[exit.as_fd(), cancel_fd], until)?;
        if forced.is_none() && cancel.is_caught() {
            forced = Some(End::Cancelled);
            until = Instant::now();
        }
        if Instant::now() >= until {
            let Some(signal) = signals.next() else { return Ok(forced) };
            forced.get_or_insert(End::TimedOut);
            _ = group.signal(signal);
            until = Instant::now() + END_TIMEOUT;
        }
    }
    let until = Instant::now() + DRAIN_TIMEOUT;
    while pipes.iter().any(|pipe| pipe.open.is_some()) && Instant::now() < until {
        read_available(pipes, &[], until)?;
    }
    Ok(forced)
}

/// Waits for output, or for one of `others`, and reads what there is.
fn read_available(pipes: &mut [Pipe; 2], others: &[BorrowedFd], until: Instant) -> io::Result<()> {
    let open = pipes.iter().filter_map(|pipe| pipe.open.as_ref()).map(File::as_fd);
    wait_for(&open.chain(others.iter().copied()).collect::<Vec<_>>(), Some(until))?;
    pipes.iter_mut().try_for_each(Pipe::read_available)
}

impl Group {
    /// Starts a command as the leader of a new group.
    fn spawn(command: &mut Command) -> io::Result<Group> {
        let leader = spawn(command.process_group(0))?;
        Ok(Group { leader, is_reaped: false })
    }

    /// Waits for the leader, and leaves the others alone.
    fn release(&mut self) -> io::Result<ExitStatus> {
        self.is_reaped = true;
        self.leader.wait()
    }

    /// Kills whatever is left of the group, and waits for the leader.
    fn end(&mut self) -> io::Result<ExitStatus> {
        // A group that is already empty is what was wanted.
        _ = self.signal(Signal::SIGKILL);
        // It may have left its group.
        self.leader.kill()?;
        self.release()
    }

    /// Signals the group, whose number stays taken until its leader is waited for and no member is left (setpgid(2)).
    fn signal(&self, signal: Signal) -> nix::Result<()> {
        killpg(Pid::from_raw(self.leader.id() as i32), signal)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped {
            _ = self.end();
        }
    }
}

/// A child's standard output or error.
struct Pipe {
    /// None once the child's end is closed.
    open: Option<File>,
    output: Vec<u8>,
    is_cut: bool,
}

impl Pipe {
    fn new(end: Option<OwnedFd>) -> io::Result<Pipe> {
        end.iter().try_for_each(|end| ioctl_fionbio(end, true))?;
        Ok(Pipe { open: end.map(File::from), output: Vec::new(), is_cut: false })
    }

    /// Reads what there is, but not for ever: somebody may write faster.
    fn read_available(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 << 10];
        for _ in 0..MAX_READS {
            let Some(open) = &mut self.open else { break };
            match open.read(&mut piece) {
                Ok(0) => self.open = None,
                Ok(length) => {
                    let room = OUTPUT_MAX_BYTES.saturating_sub(self.output.len());
                    self.is_cut |= length > room;
                    self.output.extend_from_slice(&piece[..length.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits until one of `fds` can be read or is closed; false when the time is up first.
pub(crate) fn wait_for(fds: &[BorrowedFd], until: Option<Instant>) -> io::Result<bool> {
    let mut fds: Vec<PollFd> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match poll(&mut fds, left.and_then(|left| left.try_into().ok()).as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// Whether `fd` can be read or is closed.
pub(crate) fn is_ready(fd: BorrowedFd) -> io::Result<bool> {
    wait_for(&[fd], Some(Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout_ms: u64) -> Finished {
        let never = Signals::catch(&[]).unwrap();
        run(command("sh").args(["-c", script]), Duration::from_millis(timeout_ms), &never).unwrap()
    }

    #[test]
    fn output_and_status_are_kept() {
        let finished = sh("echo out; echo err >&2; exit 3", 10_000);
        assert!(matches!(finished.end, End::Exited(status) if status.code() == Some(3)));
        assert_eq!((&finished.stdout[..], &finished.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed_when_its_time_is_up() {
        let finished = sh("trap '' TERM; echo up; while :; do read -r x </dev/zero; done", 50);
        assert_eq!(finished.end, End::TimedOut);
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_is_not_waited_for() {
        let started = Instant::now();
        let finished = sh("(setsid sleep 30 || sleep 30) & echo done", 20_000);
        assert_eq!(finished.stdout, b"done\n");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_pipe_that_is_never_empty_is_not_read_for_ever() {
        let endless = rustix::fs::open("/dev/zero", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        let mut pipe = Pipe { open: Some(endless.into()), output: Vec::new(), is_cut: false };
        pipe.read_available().unwrap();
        assert!(pipe.open.is_some() && !pipe.output.is_empty());
    }

    #[test]
    fn a_caught_signal_ends_a_child() {
        let cancel = Signals::catch(&[Signal::SIGWINCH]).unwrap();
        assert!(!cancel.is_caught());
        nix::sys::signal::raise(Signal::SIGWINCH).unwrap();
        assert!(cancel.is_caught());
        let finished = run(command("sleep").arg("30"), Duration::from_secs(20), &cancel).unwrap();
        assert_eq!(finished.end, End::Cancelled);
    }
}
