//! Processes as `/proc` shows them (proc(5)).

use crate::sys::file::read_special;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::time::{Duration, SystemTime};

/// Maximum size read of a `/proc` file: some 100,000 mounts.
const PROC_FILE_MAX_BYTES: u64 = 16 << 20;

/// Above any pid (`PID_MAX_LIMIT` in the kernel's include/linux/threads.h).
const PID_LIMIT: u64 = 1 << 22;

/// A `/proc` file as text.
pub(crate) fn read(path: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read_special(path, PROC_FILE_MAX_BYTES)?).into_owned())
}

/// Whether this process is in the initial PID namespace, where `/proc/locks` shows the locks of all
/// processes. Its inode number is fixed (`PROC_PID_INIT_INO` in the kernel's include/linux/proc_ns.h).
pub(crate) fn sees_every_process() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

/// This machine's name.
pub(crate) fn host() -> Option<String> {
    read("/proc/sys/kernel/hostname").ok().map(|name| name.trim_end().to_owned())
}

/// The id of this boot (random(4)).
pub(crate) fn boot_id() -> Option<String> {
    read("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim_end().to_owned())
}

/// Whether a process with this pid runs. Only ESRCH says no: EPERM means that another user's process
/// is alive (kill(2)). A zombie has ended, and has no descriptors.
pub(crate) fn is_running(pid: u64) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let exists = pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH));
    exists && !pid.is_some_and(|pid| read(&format!("/proc/{pid}/stat")).is_ok_and(|stat| has_ended(&stat)))
}

/// Whether a process with this pid may exist unseen, because this is not the initial PID namespace.
pub(crate) fn may_be_hidden(pid: u64) -> bool {
    pid <= PID_LIMIT && !sees_every_process()
}

/// When the process started, by today's clock; accurate to a clock tick, 10 ms.
pub(crate) fn started_at(pid: u64) -> Option<SystemTime> {
    let ticks = start_ticks(&read(&format!("/proc/{pid}/stat")).ok()?)?;
    let since_boot = Duration::from_millis(ticks.checked_mul(1000)? / rustix::param::clock_ticks_per_second());
    let uptime = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    SystemTime::now().checked_sub(uptime.checked_sub(since_boot)?)
}

/// Whether this process is in the foreground group of its terminal (fields 5 and 8 of `/proc/PID/stat`).
pub(crate) fn is_in_foreground() -> bool {
    let stat = read("/proc/self/stat").unwrap_or_default();
    let field = |number: usize| fields_from_3(&stat).and_then(|mut fields| fields.nth(number - 3));
    field(5).is_some() && field(5) == field(8)
}

/// The name of the program, at most 15 bytes, without its arguments: those may hold a token.
pub(crate) fn command(pid: i32) -> Option<String> {
    read(&format!("/proc/{pid}/comm")).ok().map(|comm| comm.trim_end_matches('\n').to_owned())
}

/// The pids of all processes that can be seen.
pub(crate) fn processes() -> Vec<i32> {
    numbers_in("/proc").map(|(_, pids)| pids).unwrap_or_default()
}

/// A folder of `/proc`, and the numbers among its names.
pub(crate) fn numbers_in(path: &str) -> io::Result<(Dir, Vec<i32>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = Dir::new(openat(CWD, path, flags, Mode::empty())?)?;
    let mut numbers = Vec::new();
    for entry in &mut folder {
        numbers.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok((folder, numbers))
}

/// Field 3 of `/proc/PID/stat`: `Z` is a zombie, `X` dead.
fn has_ended(stat: &str) -> bool {
    matches!(fields_from_3(stat).and_then(|mut fields| fields.next()), Some("Z" | "X" | "x"))
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
fn start_ticks(stat: &str) -> Option<u64> {
    fields_from_3(stat)?.nth(22 - 3)?.parse().ok()
}

/// The command, field 2, may hold blanks and parentheses: fields are counted from the last `)`.
fn fields_from_3(stat: &str) -> Option<impl Iterator<Item = &str>> {
    stat.rsplit_once(')').map(|(_, fields)| fields.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_is_counted_from_the_last_parenthesis() {
        let stat = "1946 (a) b (c) S 1 1946 1946 0 -1 4194560 110 0 0 0 0 0 0 0 20 0 1 0 43731 2494464 224 18446744073709551615 1";
        assert_eq!(start_ticks(stat), Some(43731));
        assert_eq!(start_ticks("1946 (a) S 1"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn a_zombie_has_ended() {
        assert!(has_ended("7 (a) b) Z 1 7"));
        assert!(!has_ended("7 (Z) S 1 7"));
        assert!(!has_ended(""));
    }

    #[test]
    fn own_process_runs_and_started_before_now() {
        let pid = u64::from(std::process::id());
        assert!(is_running(pid));
        let age = SystemTime::now().duration_since(started_at(pid).unwrap()).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }

    #[test]
    fn impossible_pids_do_not_run() {
        assert!(!is_running(99_999_999));
        assert!(!is_running(u64::MAX));
    }
}
