//! Finding 1: the kernel's table is not a snapshot, and what is mounted there may not be it.

use super::{Case, MOUNTS, Sandbox, Talker, assert_told, helper, holder, no_cc, no_mounts, number_from, script, until};
use crate::sandbox::command;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};

pub(crate) const CASES: &[Case] = &[
    ("waiters_and_a_toggled_lock_do_not_hide_the_held_one", no_cc, waiters_and_a_toggled_lock),
    ("a_line_that_moves_between_two_pages_is_not_missed", no_cc, a_line_that_moves_between_two_pages),
    ("another_proc_file_over_the_table_is_no_table", no_mounts, another_proc_file_over_the_table),
];

/// The kernel gives a longer table in pieces of at most this many bytes.
const PAGE_BYTES: usize = 4096;

/// All on one processor: the table is sorted by those, and a lock comes before older ones.
const PINNED: [&str; 3] = ["taskset", "-c", "0"];

fn runs() -> usize {
    number_from("XTASK_RUNS", 8)
}

/// What so many looks said, and how often.
fn ask_often(sandbox: &Sandbox) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for _ in 0..runs() {
        *told.entry(sandbox.ask().summary).or_default() += 1;
    }
    told
}

#[track_caller]
fn assert_always_held(sandbox: &Sandbox) {
    let told = ask_often(sandbox);
    assert_eq!(told, BTreeMap::from([("held (active scrape)".to_owned(), runs())]));
}

/// A program of ours on the one processor.
fn pinned(sandbox: &Sandbox, mode: &str, path: &Path) -> Talker {
    let mut run = command(PINNED[0]);
    Talker::start_quiet(run.args(&PINNED[1..]).arg(helper(sandbox)).arg(mode).arg(path))
}

fn toggler(sandbox: &Sandbox) -> Talker {
    let mut toggler = pinned(sandbox, "toggle", &sandbox.at("toggled"));
    assert_eq!(toggler.line(), "READY");
    toggler
}

fn waiters_and_a_toggled_lock() {
    const WAITERS: usize = 120;
    let sandbox = Sandbox::new();
    let mut holder = holder(&sandbox, &PINNED);
    let wait = || command("flock").arg(sandbox.lock()).arg("true").stdin(Stdio::null()).spawn().unwrap();
    let mut waiters: Vec<Child> = (0..WAITERS).map(|_| wait()).collect();
    let inode = format!(":{} ", std::fs::metadata(sandbox.lock()).unwrap().ino());
    let waits = |line: &&str| line.contains("-> ") && line.contains(&inode);
    until("all wait", || pages().concat().lines().filter(waits).count() == WAITERS);
    let mut toggler = toggler(&sandbox);
    assert_always_held(&sandbox);
    toggler.end();
    holder.end();
    assert!(waiters.iter_mut().all(|waiter| waiter.wait().unwrap().success()));
    assert_eq!(sandbox.ask().exit, 0);
}

/// While the other lock is there, our line is the first on the next page; while it is not,
/// the last on its own.
fn a_line_that_moves_between_two_pages() {
    let sandbox = Sandbox::new();
    let locks = || pinned(&sandbox, "flocks", &sandbox.at("."));
    let take = |locks: &mut Talker, number: usize| {
        locks.tell(&number.to_string());
        assert_eq!(locks.line(), "READY");
    };
    // Behind our line, so that the second page does not begin with the end.
    let mut older = locks();
    take(&mut older, 20);
    let _holder = holder(&sandbox, &PINNED);
    let mut newer = locks();
    let inode = format!(":{} ", std::fs::metadata(sandbox.lock()).unwrap().ino());
    until("our line is the last on a page", || {
        take(&mut newer, 1);
        pages().iter().filter_map(|page| page.lines().last()).any(|line| line.contains(&inode))
    });
    let _toggler = toggler(&sandbox);
    assert_always_held(&sandbox);
}

/// The table, as the kernel gives it out.
fn pages() -> Vec<String> {
    let mut table = File::open("/proc/locks").unwrap();
    let mut pages = Vec::new();
    loop {
        let mut page = vec![0; 16 * PAGE_BYTES];
        let length = table.read(&mut page).unwrap();
        if length == 0 && !pages.is_empty() {
            return pages;
        }
        pages.push(String::from_utf8_lossy(&page[..length]).into_owned());
    }
}

/// It is of the right file system, and silent. With a sidecar the walk is done, and its
/// sighting counts.
fn another_proc_file_over_the_table() {
    let sandbox = Sandbox::new();
    let hide = "mount --bind /proc/version /proc/locks";
    let looks = r#"hold "$lock"; status without_sidecar; record $$; status with_sidecar; attempt with_sidecar"#;
    script(&sandbox, MOUNTS, &format!("{hide}\n{looks}"));
    assert_told(&sandbox, &[("without_sidecar", "held"), ("with_sidecar", "held")]);
}
