//! Processes as `/proc` shows them (proc(5)).

use crate::sys::file::read_special;
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

/// Maximum size read of a `/proc` file: some 100,000 mounts.
const PROC_FILE_MAX_BYTES: u64 = 16 << 20;

/// Size of a piece of a folder's list: some 2,500 descriptors.
const FOLDER_BUFFER_BYTES: usize = 64 << 10;

/// Maximum number of ancestors of a process that are looked at.
const MAX_ANCESTORS: usize = 100;

/// Maximum size read of the list of users.
const PASSWD_MAX_BYTES: u64 = 1 << 20;

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

/// Whether this process may look into any other. Even root may be kept from some, as in a sandbox.
pub(crate) fn may_inspect_every_process() -> bool {
    sees_every_process() && std::fs::read_link("/proc/1/fd/0").is_ok()
}

/// Whether a thread, given by its folder, is in this process's mount namespace.
pub(crate) fn has_our_mounts(thread: &str) -> io::Result<bool> {
    let namespace = |thread: &str| std::fs::read_link(format!("{thread}/ns/mnt"));
    Ok(namespace(thread)? == namespace("/proc/self")?)
}

/// This machine's name.
pub(crate) fn host() -> Option<String> {
    read("/proc/sys/kernel/hostname").ok().map(|name| name.trim_end().to_owned())
}

/// The id of this boot (random(4)).
pub(crate) fn boot_id() -> Option<String> {
    read("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim_end().to_owned())
}

/// Whether a process with this pid runs. Only ESRCH says no: EPERM means that another user's process is alive
/// (kill(2)). A zombie has ended, unless it is only a main thread that has: others may run on.
pub(crate) fn is_running(pid: u64) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    if test_kill_process(pid) == Err(Errno::SRCH) {
        return false;
    }
    let is_zombie = read(&format!("/proc/{pid}/stat")).is_ok_and(|stat| has_ended(&stat));
    !is_zombie || open_folder(&format!("/proc/{pid}/task")).and_then(numbers).is_ok_and(|tasks| tasks.len() > 1)
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

/// The user of a process: the name in `/etc/passwd`, or else the number. No other directory is asked: it may not answer.
pub(crate) fn user(pid: i32) -> Option<String> {
    let status = read(&format!("/proc/{pid}/status")).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().next())?;
    let passwd = read_special("/etc/passwd", PASSWD_MAX_BYTES).unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd).into_owned();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    Some(name.unwrap_or_else(|| uid.to_owned()))
}

/// The cgroup of a process, as this process sees it (cgroups(7)).
pub(crate) fn cgroup(pid: i32) -> Option<String> {
    let lines = read(&format!("/proc/{pid}/cgroup")).ok()?;
    // Version 2 is hierarchy 0; of version 1, systemd's own.
    let path = |line: &str| {
        line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path)).map(str::to_owned)
    };
    lines.lines().find_map(path)
}

/// The systemd unit in a cgroup's path: `cron.service`, `session-2.scope`.
pub(crate) fn unit_in(cgroup: &str) -> Option<String> {
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    cgroup.rsplit('/').find(is_unit).filter(|_| container_in(cgroup).is_none()).map(str::to_owned)
}

/// The short id of the container in a cgroup's path: docker's and podman's are 64 hexadecimal digits.
pub(crate) fn container_in(cgroup: &str) -> Option<String> {
    let mut ids = cgroup.rsplit(['/', '-', '.']).filter(|part| part.len() == 64);
    ids.find(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit())).map(|id| id[..12].to_owned())
}

/// The pids of all processes that can be seen.
pub(crate) fn processes() -> io::Result<Vec<i32>> {
    numbers(open_folder("/proc")?)
}

/// A process, its parent, and so on.
pub(crate) fn lineage(pid: i32) -> impl Iterator<Item = i32> {
    let parent = |pid: &i32| stat_number(*pid, 4).filter(|&parent| parent > 0);
    std::iter::successors(Some(pid), parent).take(MAX_ANCESTORS)
}

/// The kernel's own threads, which have no descriptors; none where that is not known.
pub(crate) fn kernel_threads() -> Vec<i32> {
    let is_kthreadd = sees_every_process() && command(2).is_some_and(|command| command == "kthreadd");
    if !is_kthreadd {
        return Vec::new();
    }
    let children = read("/proc/2/task/2/children").unwrap_or_default();
    children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).chain([2]).collect()
}

/// Opens a folder of `/proc`.
pub(crate) fn open_folder(path: &str) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The numbers among the names in a folder.
pub(crate) fn numbers(folder: impl AsFd) -> io::Result<Vec<i32>> {
    let mut buffer = Vec::with_capacity(FOLDER_BUFFER_BYTES);
    let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
    let mut numbers = Vec::new();
    while let Some(entry) = entries.next() {
        numbers.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(numbers)
}

/// Field 3 of `/proc/PID/stat`: `Z` is a zombie, `X` dead.
fn has_ended(stat: &str) -> bool {
    matches!(fields_from_3(stat).and_then(|mut fields| fields.next()), Some("Z" | "X" | "x"))
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
fn start_ticks(stat: &str) -> Option<u64> {
    fields_from_3(stat)?.nth(22 - 3)?.parse().ok()
}

/// A field of `/proc/PID/stat`, from 3 on, that is a number.
fn stat_number(pid: i32, field: usize) -> Option<i32> {
    let stat = read(&format!("/proc/{pid}/stat")).ok()?;
    fields_from_3(&stat)?.nth(field - 3)?.parse().ok()
}

/// The command, field 2, may hold blanks and parentheses: fields are counted from the last `)`.
fn fields_from_3(stat: &str) -> Option<impl Iterator<Item = &str>> {
    stat.rsplit_once(')').map(|(_, fields)| fields.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_containers_are_in_the_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!("/system.slice/docker-{id}.scope");
        let podman = format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container");
        for (cgroup, unit, container) in [
            ("/system.slice/cron.service", Some("cron.service"), None),
            ("/user.slice/user-0.slice/session-2.scope", Some("session-2.scope"), None),
            ("/", None, None),
            (&docker, None, Some("0123456789ab")),
            (&podman, None, Some("0123456789ab")),
            (&format!("/docker/{id}"), None, Some("0123456789ab")),
        ] {
            assert_eq!((unit_in(cgroup).as_deref(), container_in(cgroup).as_deref()), (unit, container), "{cgroup}");
        }
        assert!(user(std::process::id() as i32).is_some());
    }

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
