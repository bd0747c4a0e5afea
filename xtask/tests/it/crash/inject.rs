//! Faults at chosen system calls, injected by strace.
//!
//! A program is traced twice without a fault; the calls it makes are the points. strace counts
//! calls by name and for each thread by itself, so a number alone is no address: a walk through
//! all processes makes more or fewer calls each time. With `-P PATH` it counts only the calls on
//! that path, by name or by descriptor, and those are the same in every run. So:
//!
//! - a call on a path is numbered among the calls of its name on that path;
//! - a call on no path (`clone3`, `poll`, `mmap`) is numbered among all of its name;
//! - of calls on what differs between runs (`/proc/locks`, other processes' folders below `/proc`), of those for
//!   memory, and of those that the command's process makes before it becomes the command, the first, an
//!   early and a middle one of each kind are points, wherever exactly they hit.
//!
//! The command itself is not traced (`--detach-on=execve`), so that no fault reaches it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::process::Command;

/// What must work for all this.
pub(crate) const TRIAL: &str = "strace --follow-forks --detach-on=execve --quiet=attach,path-resolution,personality \
    --decode-fds=path --string-limit=0 --trace-path=/ --inject=close:error=EIO:when=99 --output=/dev/null true";

/// Calls that cannot fail, and `futex`: the C library aborts on an error that it does not expect there.
const NEVER_FAIL: [&str; 11] = [
    "exit",
    "exit_group",
    "futex",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "gettid",
    "getuid",
    "rt_sigreturn",
    "set_tid_address",
];

/// Calls that may need room on the file system; `open` and its like do when they create.
const NEED_ROOM: [&str; 14] = [
    "fallocate",
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "write",
    "writev",
];

/// Calls that make a descriptor.
const MAKE_DESCRIPTORS: [&str; 14] = [
    "dup",
    "epoll_create1",
    "eventfd2",
    "inotify_init1",
    "memfd_create",
    "open",
    "openat",
    "openat2",
    "pidfd_open",
    "pipe2",
    "signalfd4",
    "socket",
    "socketpair",
    "timerfd_create",
];

/// How calls end that look something up below a descriptor; and one that SMB refuses so.
const LOOK_UP: [&str; 4] = ["at", "at2", "statx", "flock"];

/// Calls for memory: after `main` has begun they depend on how much there is to see.
const MEMORY: [&str; 6] = ["brk", "madvise", "mmap", "mprotect", "mremap", "munmap"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process is killed before the call.
    Kill,
    /// The call is not made and fails with this.
    Error(&'static str),
}

/// A system call of a traced run.
#[derive(Clone, Debug)]
pub(super) struct Point {
    name: String,
    /// The path by which it is counted.
    path: Option<String>,
    /// Its number, from 1.
    number: usize,
    /// The call as strace shows it.
    shown: String,
    /// It stands for others of its kind.
    pub(super) is_sample: bool,
    /// Made before the program turned to anything of the sandbox: by the loader, the runtime, `main`.
    pub(super) is_startup: bool,
}

/// A line of a trace.
struct Call<'a> {
    thread: &'a str,
    name: &'a str,
    arguments: &'a str,
    /// The first steady path in its arguments.
    path: Option<&'a str>,
    /// Its number among the calls of its name on that path, or among all of its name without one.
    number: usize,
    /// Its number among all of its name.
    number_in_name: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill => write!(f, "SIGKILL"),
            Fault::Error(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.shown.chars().take(100).collect();
        match &self.path {
            Some(path) => write!(f, "{} {} on {path}, {shown}", self.name, self.number),
            None => write!(f, "{} {}, {shown}", self.name, self.number),
        }
    }
}

impl Point {
    /// Whether it asks how a child has ended.
    pub(super) fn is_wait(&self) -> bool {
        self.name.starts_with("wait")
    }

    /// Whether it may wait for something.
    pub(super) fn may_block(&self) -> bool {
        self.is_wait() || self.name.ends_with("poll")
    }

    /// Whether the call has this among its arguments.
    pub(super) fn shows(&self, text: &str) -> bool {
        self.shown.contains(text)
    }

    pub(super) fn can_have(&self, fault: Fault) -> bool {
        let name = &self.name[..];
        let is_open = ["open", "openat", "openat2"].contains(&name);
        match fault {
            Fault::Kill => true,
            Fault::Error("ENOSPC" | "EDQUOT") => {
                NEED_ROOM.contains(&name) || (is_open && self.shown.contains("O_CREAT"))
            }
            Fault::Error("EMFILE") => MAKE_DESCRIPTORS.contains(&name) || self.shown.contains("F_DUPFD"),
            // Calls that look something up by its name, and SMB's way to refuse a lock.
            Fault::Error("EACCES") => self.shown.contains("\"/") || LOOK_UP.iter().any(|end| name.ends_with(end)),
            Fault::Error(_) => !NEVER_FAIL.contains(&name),
        }
    }
}

/// strace, set to record every call; the program and its arguments are still to be added.
pub(super) fn recording(strace: Command, trace: &Path) -> Command {
    // No contents of buffers: they may look like paths.
    traced(strace, trace, &["--decode-fds=path", "--string-limit=0"])
}

/// strace, set to inject a fault at a point; the program and its arguments are still to be added.
pub(super) fn injecting(strace: Command, trace: &Path, point: &Point, fault: Fault) -> Command {
    let name = &point.name;
    let what = match fault {
        Fault::Kill => "signal=SIGKILL".to_owned(),
        Fault::Error(error) => format!("error={error}"),
    };
    let mut strace =
        traced(strace, trace, &[&format!("--trace={name}"), &format!("--inject={name}:{what}:when={}", point.number)]);
    strace.args(point.path.iter().map(|path| format!("--trace-path={path}")));
    strace
}

fn traced(mut strace: Command, trace: &Path, more: &[&str]) -> Command {
    strace.args(["--follow-forks", "--detach-on=execve", "--quiet=attach,path-resolution,personality"]);
    strace.arg("--output").arg(trace).args(more);
    strace
}

/// Whether the fault of an injecting run came about.
pub(super) fn was_hit(trace: &str, fault: Fault) -> bool {
    trace.contains(match fault {
        Fault::Kill => "+++ killed by SIGKILL",
        Fault::Error(_) => "(INJECTED)",
    })
}

/// The points of a program, from two records of it. What is in `root`, and the processes `known`, are
/// the same in all runs.
pub(super) fn points([first, second]: [&str; 2], root: &Path, known: &[u32]) -> Vec<Point> {
    let is_steady = |path: &str| {
        // Other processes come and go, and take locks.
        if ["/proc", "/proc/locks"].contains(&path) {
            return false;
        }
        let process = path.strip_prefix("/proc/").and_then(|rest| rest.split('/').next()?.parse().ok());
        process.is_none_or(|pid| known.contains(&pid))
    };
    let calls = calls(first, is_steady);
    let second = self::calls(second, is_steady);
    let again: BTreeSet<_> = second.iter().map(|call| (call.name, call.path, call.number)).collect();
    let command = command_of(&calls);
    let root = root.to_string_lossy();
    let mut points = Vec::new();
    let mut samples: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut is_startup = true;
    // The first call is strace's, which starts the program.
    for call in calls.iter().skip(1) {
        is_startup &= !call.arguments.contains(&*root);
        let is_commands = command == Some(call.thread);
        let is_exact = match call.path {
            Some(_) => again.contains(&(call.name, call.path, call.number)),
            None => {
                let is_memory = !is_startup && MEMORY.contains(&call.name);
                !is_commands && !is_memory && paths(call.arguments).next().is_none()
            }
        };
        if is_exact {
            points.extend(seen.insert((call.name, call.path, call.number)).then(|| call.point(is_startup)));
        } else {
            let kind = if is_commands { String::new() } else { kind(call.arguments) };
            let sample = Point { path: None, number: call.number_in_name, is_sample: true, ..call.point(is_startup) };
            samples.entry(format!("{} {is_commands} {kind}", call.name)).or_default().push(sample);
        }
    }
    for all in samples.into_values() {
        points.extend(BTreeSet::from([0, all.len() / 4, all.len() / 2]).into_iter().map(|index| all[index].clone()));
    }
    points
}

impl Call<'_> {
    fn point(&self, is_startup: bool) -> Point {
        Point {
            name: self.name.to_owned(),
            path: self.path.map(str::to_owned),
            number: self.number,
            shown: format!("{}({})", self.name, self.arguments),
            is_sample: false,
            is_startup,
        }
    }
}

/// Every call of a record, numbered as strace numbers them.
fn calls(trace: &str, is_steady: impl Fn(&str) -> bool) -> Vec<Call<'_>> {
    let mut counts: BTreeMap<(&str, &str, Option<&str>), usize> = BTreeMap::new();
    let mut calls: Vec<Call> = trace.lines().filter_map(call).collect();
    for call in &mut calls {
        let mut next = |path| {
            let count = counts.entry((call.thread, call.name, path)).or_default();
            *count += 1;
            *count
        };
        call.number_in_name = next(None);
        call.number = call.number_in_name;
        call.path = paths(call.arguments).find(|path| is_steady(path));
        // A call counts on each path that it names, and once if it names it twice.
        for path in paths(call.arguments).collect::<BTreeSet<_>>() {
            let number = next(Some(path));
            if call.path == Some(path) {
                call.number = number;
            }
        }
    }
    calls
}

/// `THREAD NAME(ARGUMENTS) = RESULT`; None for ends, signals and the second half of a call.
fn call(line: &str) -> Option<Call<'_>> {
    let (thread, rest) = line.split_once(' ')?;
    let (name, rest) = rest.trim_start().split_once('(')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let arguments = rest.rfind(" = ").map_or(rest, |end| &rest[..end]).trim_end();
    let arguments = arguments.strip_suffix(')').unwrap_or(arguments);
    is_name.then_some(Call { thread, name, arguments, path: None, number: 0, number_in_name: 0 })
}

/// The absolute paths in a call's arguments: `"PATH"`, and `FD<PATH>` but for the working folder. What
/// is no file and yet has a name (`anon_inode:[pidfd]`) counts as one.
fn paths(arguments: &str) -> impl Iterator<Item = &str> {
    let marks = arguments.split("AT_FDCWD<").enumerate().flat_map(|(index, part)| {
        let working_folder = if index > 0 { part.find('>').unwrap_or(0) } else { 0 };
        part[working_folder..].split(['"', '<', '>'])
    });
    marks.filter(|part| part.starts_with('/') || part.starts_with("anon_inode:["))
}

/// The thread that became the command: it executes a program, and is not the first.
fn command_of<'a>(calls: &[Call<'a>]) -> Option<&'a str> {
    let first = calls.first()?.thread;
    calls.iter().find(|call| call.name == "execve" && call.thread != first).map(|call| call.thread)
}

/// What a call is on, without the numbers in it; else its flags.
fn kind(arguments: &str) -> String {
    match paths(arguments).next() {
        Some(path) => path.chars().filter(|character| !character.is_ascii_digit()).collect(),
        None => arguments.chars().filter(|character| character.is_ascii_uppercase()).collect(),
    }
}
