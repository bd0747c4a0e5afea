//! Finding 1: the kernel's table is not a snapshot, and what is mounted there may not be it.

use super::{
    Case, MOUNTS, NOBODY, Sandbox, Talker, assert_told, helper, holder, no_cc, no_mounts, no_other_user, number_from,
    script, until,
};
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
    ("locks_that_come_and_go_do_not_hide_the_held_one_from_another_user", no_churn, locks_that_come_and_go),
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

/// Processes that wait for the lock, until it is released.
struct Waiters(Vec<Child>);

impl Waiters {
    fn start(sandbox: &Sandbox, number: usize) -> Waiters {
        let wait = |_| command("flock").arg(sandbox.lock()).arg("true").stdin(Stdio::null()).spawn().unwrap();
        let waiters = Waiters((0..number).map(wait).collect());
        let inode = format!(":{} ", std::fs::metadata(sandbox.lock()).unwrap().ino());
        let waits = |line: &&str| line.contains("-> ") && line.contains(&inode);
        until("all wait", || pages().concat().lines().filter(waits).count() == number);
        waiters
    }

    fn end(mut self) {
        assert!(self.0.iter_mut().all(|waiter| waiter.wait().unwrap().success()));
    }
}

fn waiters_and_a_toggled_lock() {
    let sandbox = Sandbox::new();
    let mut holder = holder(&sandbox, &PINNED);
    let waiters = Waiters::start(&sandbox, 120);
    let mut toggler = toggler(&sandbox);
    assert_always_held(&sandbox);
    toggler.end();
    holder.end();
    waiters.end();
    assert_eq!(sandbox.ask().exit, 0);
}

fn no_churn() -> Option<String> {
    no_cc().or_else(no_other_user)
}

/// Nobody else's processes can be looked through, so it is the table that counts: where it never comes to rest, that is
/// no answer.
fn locks_that_come_and_go() {
    let sandbox = Sandbox::new();
    let mut holder = holder(&sandbox, &[]);
    let waiters = Waiters::start(&sandbox, 60);
    let helper = helper(&sandbox);
    let churn = |_| Talker::start_quiet(command(&helper).arg("churn").arg(sandbox.at(".")));
    let mut churns: Vec<Talker> = (0..3).map(churn).collect();
    assert!(churns.iter_mut().all(|churn| churn.line() == "READY"));
    let ask = sandbox.ask_with(&["--quick"]);
    for _ in 0..8 * runs() {
        let mut nobody = NOBODY.split(' ');
        let mut status = command(nobody.next().unwrap());
        let said = status.args(nobody).arg(ask.get_program()).args(ask.get_args()).output().unwrap();
        assert_ne!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stdout));
    }
    drop(churns);
    holder.end();
    waiters.end();
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
