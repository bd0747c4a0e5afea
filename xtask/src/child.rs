//! The one place that starts other programs: each in a process group of its own, with
//! a deadline, its output bounded and its pipes never waited for without end.

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// More output than this is read and thrown away, in bytes.
const MOST_OUTPUT: usize = 8 << 20;

/// How long a group has to end after SIGTERM.
const GRACE: Duration = Duration::from_millis(300);

/// How long the pipes of an ended child are still read: a child of its own may keep
/// them open for ever.
const DRAIN: Duration = Duration::from_millis(200);

/// What a time that no clock can hold is taken for.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// How long a program may be open for writing: another thread's child inherits such a
/// descriptor and has it until its exec (ETXTBSY, execve(2)).
const BUSY: Duration = Duration::from_secs(1);

/// Tells everything that waits for children to stop waiting.
pub(crate) struct Cancel(OwnedFd);

/// How a child came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(ExitStatus),
    /// It was ended because its time was up.
    TimedOut,
    /// It was ended because everything is to end.
    Cancelled,
}

/// A child that has ended, and its group with it.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) end: End,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// A process group. It is ended when this is dropped, at the latest.
pub(crate) struct Group {
    leader: Child,
    is_reaped: bool,
}

impl Cancel {
    /// A cancellation, and what cancels when it is dropped.
    pub(crate) fn new() -> io::Result<(Cancel, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        Ok((Cancel(reader.into()), writer))
    }

    /// A cancellation by Ctrl-C, SIGTERM or SIGHUP; once in a process.
    pub(crate) fn on_signals() -> anyhow::Result<Cancel> {
        let (cancel, canceller) = Cancel::new().context("cannot make a pipe")?;
        let canceller = Mutex::new(Some(canceller));
        ctrlc::set_handler(move || drop(canceller.lock().map(|mut canceller| canceller.take())))
            .context("cannot catch Ctrl-C")?;
        Ok(cancel)
    }

    /// Waits until `fd` can be read or is closed; false when time is up or everything is to end.
    pub(crate) fn wait_for(&self, fd: BorrowedFd, until: Instant) -> io::Result<bool> {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(wait_for(&mut fds, until)? && !self.is_cancelled())
    }

    /// Whether everything is to end.
    pub(crate) fn is_cancelled(&self) -> bool {
        wait_for(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], Instant::now()).is_ok_and(|ready| ready)
    }
}

/// A command with no input.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts programs")]
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// A status in words: its exit code, or the signal that ended it.
pub(crate) fn code_or_signal(status: ExitStatus) -> String {
    let signal = || format!("signal {}", status.signal().unwrap_or(0));
    status.code().map_or_else(signal, |code| code.to_string())
}

/// Runs a command to its end, for at most `within`; then SIGTERM, [`GRACE`], SIGKILL
/// to its whole group.
pub(crate) fn run(command: &mut Command, within: Duration, cancel: Option<&Cancel>) -> io::Result<Finished> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(command)?;
    let stdout = group.leader.stdout.take().map(OwnedFd::from);
    let stderr = group.leader.stderr.take().map(OwnedFd::from);
    let mut pipes = [Pipe::new(stdout)?, Pipe::new(stderr)?];
    let until = Instant::now().checked_add(within).unwrap_or_else(|| Instant::now() + LONGEST);
    let forced = watch(&group, &mut pipes, until, cancel)?;
    let status = group.end()?;
    let [stdout, stderr] = pipes.map(|pipe| pipe.output);
    Ok(Finished { end: forced.unwrap_or(End::Exited(status)), stdout, stderr })
}

impl Group {
    /// Starts a command as the leader of a new group.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Group> {
        command.process_group(0);
        let until = Instant::now() + BUSY;
        loop {
            match command.spawn() {
                Ok(leader) => return Ok(Group { leader, is_reaped: false }),
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < until => {
                    std::thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The leader, which is also the group's number.
    pub(crate) fn leader(&mut self) -> &mut Child {
        &mut self.leader
    }

    /// Kills the leader alone; its children live on in the group.
    pub(crate) fn orphan(&mut self) -> io::Result<()> {
        self.leader.kill()?;
        self.leader.wait()?;
        self.is_reaped = true;
        Ok(())
    }

    /// Kills whatever is left of the group, and waits for the leader.
    pub(crate) fn end(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.is_reaped = true;
        self.leader.wait()
    }

    /// Kills every member. Only while there is one may this be called for a group whose
    /// leader has been waited for.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        // An empty group is what was wanted. Its number stays taken while the leader is
        // not waited for or a member is left (setpgid(2)).
        if let Ok(group) = i32::try_from(self.leader.id()) {
            _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped {
            _ = self.end();
        }
    }
}

/// One end of a child's output, until it is closed.
struct Pipe {
    open: Option<File>,
    output: Vec<u8>,
}

impl Pipe {
    fn new(end: Option<OwnedFd>) -> io::Result<Pipe> {
        if let Some(end) = &end {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Pipe { open: end.map(File::from), output: Vec::new() })
    }

    fn read_available(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 << 10];
        while let Some(open) = &mut self.open {
            match open.read(&mut piece) {
                Ok(0) => self.open = None,
                Ok(length) => {
                    let room = MOST_OUTPUT.saturating_sub(self.output.len());
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Terminated,
    Killed,
    /// The leader has ended; its pipes may still hold output.
    Draining,
}

/// Reads the pipes until the leader has ended. Tells why it was made to end, if it was.
fn watch(group: &Group, pipes: &mut [Pipe; 2], mut until: Instant, cancel: Option<&Cancel>) -> io::Result<Option<End>> {
    let exit = pidfd_open(rustix::process::Pid::from_child(&group.leader), PidfdFlags::empty())?;
    let mut phase = Phase::Running;
    let mut forced = None;
    loop {
        let mut fds: Vec<PollFd> = Vec::with_capacity(4);
        fds.extend(
            pipes.iter().filter_map(|pipe| pipe.open.as_ref()).map(|open| PollFd::new(open.as_fd(), PollFlags::POLLIN)),
        );
        if phase != Phase::Draining {
            fds.push(PollFd::new(exit.as_fd(), PollFlags::POLLIN));
        }
        if let Some(cancel) = cancel.filter(|_| forced.is_none()) {
            fds.push(PollFd::new(cancel.0.as_fd(), PollFlags::POLLIN));
        }
        wait_for(&mut fds, until)?;
        for pipe in pipes.iter_mut() {
            pipe.read_available()?;
        }
        if phase != Phase::Draining && wait_for(&mut [PollFd::new(exit.as_fd(), PollFlags::POLLIN)], Instant::now())? {
            phase = Phase::Draining;
            until = Instant::now() + DRAIN;
        }
        if phase == Phase::Draining && pipes.iter().all(|pipe| pipe.open.is_none()) {
            return Ok(forced);
        }
        if forced.is_none() && cancel.is_some_and(Cancel::is_cancelled) {
            forced = Some(End::Cancelled);
            until = Instant::now();
        }
        if Instant::now() < until {
            continue;
        }
        until = Instant::now() + GRACE;
        phase = match phase {
            Phase::Running => {
                forced.get_or_insert(End::TimedOut);
                group.signal(Signal::SIGTERM);
                Phase::Terminated
            }
            Phase::Terminated => {
                group.signal(Signal::SIGKILL);
                Phase::Killed
            }
            Phase::Killed | Phase::Draining => return Ok(forced),
        };
    }
}

/// Waits until one of `fds` has something, or is closed; false when the time is up first.
pub(crate) fn wait_for(fds: &mut [PollFd], until: Instant) -> io::Result<bool> {
    loop {
        // Rounded up, or the last part of a millisecond would be spent spinning.
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        match poll(fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits until one of `fds` has something, or is closed.
pub(crate) fn wait_for_ever(fds: &mut [PollFd]) -> io::Result<()> {
    loop {
        match poll(fds, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, within_ms: u64) -> Finished {
        run(command("sh").args(["-c", script]), Duration::from_millis(within_ms), None).unwrap()
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
    fn cancelling_ends_a_child() {
        let (cancel, canceller) = Cancel::new().unwrap();
        assert!(!cancel.is_cancelled());
        drop(canceller);
        assert!(cancel.is_cancelled());
        let finished = run(command("sleep").arg("30"), Duration::from_secs(20), Some(&cancel)).unwrap();
        assert_eq!(finished.end, End::Cancelled);
    }
}
