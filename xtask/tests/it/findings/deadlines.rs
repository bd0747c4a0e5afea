//! Finding 6: an answer comes in time, also from a file system that does not answer, beside
//! tens of thousands of locks and descriptors, and for little while it waits.

use super::{
    Case, MOUNTS, Sandbox, Talker, assert_told, behind, helper, holder, is_heavy, json, lock_run, no_cc, no_root,
    script,
};
use crate::places::can_inspect_all;
use crate::readiness::{MOUNT_SILENT, no_fuse};
use crate::sandbox::{command, obstacle};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("an_archive_that_does_not_answer_is_unknown_in_time", no_fuse, silent_archive),
    ("an_archive_that_stopped_answering_is_unknown_in_time", no_bindfs, stopped_archive),
    ("another_mount_that_does_not_answer_does_not_matter", no_bindfs, another_stopped_mount),
    ("tens_of_thousands_of_locks_are_read_in_time", no_many_files, many_locks),
    ("many_descriptors_are_looked_at_in_time", no_many_files, many_descriptors),
    ("waiting_costs_little", no_many_processes, waiting_costs_little),
];

/// The contract's 15 seconds, and no later.
const IN_TIME: &str = "timeout -s KILL 15";

/// How long a look may take beside very many locks or descriptors.
const MAX_LOOK: Duration = Duration::from_secs(5);

/// A file system with a daemon, $daemon, that answers until it is stopped.
const MOUNT_BINDFS: &str = r#"
mkdir "$ROOT/real"
mirror() {
    bindfs -f "$ROOT/real" "$1" 8>&- 9>&- >/dev/null 2>&1 &
    daemon=$!
    timeout 20 sh -c 'until mountpoint -q "$1"; do :; done' sh "$1"
}
stop() {
    kill -STOP $daemon
    until grep -q '^State:.T' /proc/$daemon/status; do :; done
}
"#;

fn no_bindfs() -> Option<String> {
    obstacle(MOUNTS, &format!(r#"{MOUNT_BINDFS} mirror "$ROOT/archive"; kill $daemon"#))
}

fn no_many_files() -> Option<String> {
    no_root().or_else(no_cc).or_else(|| obstacle(&[], "ulimit -n 15000"))
}

fn no_many_processes() -> Option<String> {
    no_cc().or_else(|| obstacle(&[], "bash -c 'ulimit -u 10000'"))
}

/// A look and a try at once, as each may take all of its time.
const LOOK_AND_TRY: &str = r#"status look $IN_TIME & look=$!; attempt try $IN_TIME & wait $look $!"#;

#[track_caller]
fn assert_does_not_answer(sandbox: &Sandbox) {
    let exits = ["look.exit", "try.code"].map(|file| std::fs::read_to_string(sandbox.at(file)).unwrap());
    assert_eq!(exits, ["2\n", "2\n"], "lock-status, lock-run; 137 is one that hangs");
    assert_eq!(sandbox.status("look").summary, "unknown (the file system of the lock does not answer)");
    assert!(!sandbox.at("try.ran").exists());
}

fn silent_archive() {
    let sandbox = Sandbox::new();
    script(&sandbox, MOUNTS, &format!("IN_TIME='{IN_TIME}'\n{MOUNT_SILENT}\n{LOOK_AND_TRY}"));
    assert_does_not_answer(&sandbox);
}

/// Whoever has the lock open is still seen.
fn stopped_archive() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        MOUNTS,
        &format!(
            r#"IN_TIME='{IN_TIME}'
            {MOUNT_BINDFS}
            mirror "$ROOT/archive"; hold_elsewhere "$lock"; record $holder; echo $holder >"$ROOT/holder"; stop
            {LOOK_AND_TRY}
            kill -KILL $daemon"#
        ),
    );
    assert_does_not_answer(&sandbox);
    let holder: u32 = std::fs::read_to_string(sandbox.at("holder")).unwrap().trim().parse().unwrap();
    let told = json(&sandbox, "look");
    let pids = told["holders"].as_array().unwrap().iter().map(|holder| &holder["pid"]);
    assert!(pids.clone().any(|pid| *pid == holder), "pid {holder}: {told}");
}

/// A process has a file of it open, and the walk comes by.
fn another_stopped_mount() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        MOUNTS,
        &format!(
            r#"{MOUNT_BINDFS}
            mkdir "$ROOT/other"; mirror "$ROOT/other"; hold_elsewhere "$ROOT/other/file"; stop
            record 99999999
            status free {IN_TIME}; attempt free {IN_TIME}
            hold "$lock"; record $$; rm "$lock"
            status held {IN_TIME}; attempt held {IN_TIME}
            kill -KILL $daemon"#
        ),
    );
    assert_told(&sandbox, &[("free", "free"), ("held", "held")]);
}

/// Our program with as many descriptors as it may have.
fn unlimited(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut run = command("sh");
    run.args(["-c", r#"ulimit -n $(ulimit -H -n); exec "$0" "$@""#]).arg(helper(sandbox)).args(args);
    run
}

/// Asks and tries with the lock stale, held, and held and deleted: each is answered in time, and
/// never wrong. Beyond the contract's numbers, and where some process cannot be inspected, it may be that
/// nothing is known.
#[track_caller]
fn assert_right_in_time(sandbox: &Sandbox) {
    let is_hard = is_heavy() || !can_inspect_all();
    let ask = |what: &str, state: &str| {
        let started = Instant::now();
        let status = sandbox.ask();
        let took = started.elapsed();
        let is_right = status.state == state || (is_hard && status.state == "unknown");
        assert!(is_right, "{what}: {status:?}");
        let output = lock_run(sandbox, &["true"]).output().unwrap();
        // Who has the lock knows more than who only looks.
        assert!(!output.status.success() || matches!(state, "free" | "stale"), "{what}: {output:?}");
        assert!(took < MAX_LOOK && started.elapsed() < 2 * MAX_LOOK, "{what}: {took:?}, {:?}", started.elapsed());
    };
    let record =
        |pid: u32| std::fs::write(sandbox.at("archive/.dce-scrape.lock.meta"), format!("pid={pid}\n")).unwrap();
    std::fs::write(sandbox.lock(), "").unwrap();
    if is_heavy() {
        ask("free", "free");
    }
    record(99_999_999);
    ask("stale", "stale");
    let _holder = holder(sandbox, &[]);
    record(99_999_999);
    ask("held", "held");
    std::fs::remove_file(sandbox.lock()).unwrap();
    ask("deleted", "held");
}

/// 10,000 of them, or 58,000. All are on deleted files of the lock's own device, so that the walk may not
/// skip them.
fn many_locks() {
    let sandbox = Sandbox::new();
    let folder = sandbox.at(".");
    let start = || Talker::start_quiet(&mut unlimited(&sandbox, &["flocks", folder.to_str().unwrap()]));
    let mut processes = [start(), start(), start(), start()];
    let each = if is_heavy() { "14500" } else { "2500" };
    processes.iter_mut().for_each(|process| process.tell(each));
    assert!(processes.iter_mut().all(|process| process.line() == "READY"));
    assert_right_in_time(&sandbox);
}

fn many_descriptors() {
    let sandbox = Sandbox::new();
    let descriptors = if is_heavy() { "19900" } else { "1500" };
    let file = sandbox.at("file");
    let _crowd = Talker::start(&mut unlimited(&sandbox, &["crowd", file.to_str().unwrap(), "50", descriptors]));
    assert_right_in_time(&sandbox);
}

/// As much as a few looks, and not as much as the looks of all that time.
fn waiting_costs_little() {
    let sandbox = Sandbox::new();
    let (processes, wait) = if is_heavy() { ("3000", "--wait=10s") } else { ("1000", "--wait=2s") };
    let file = sandbox.at("file");
    let _crowd = Talker::start(&mut unlimited(&sandbox, &["crowd", file.to_str().unwrap(), processes, "1"]));
    let _holder = holder(&sandbox, &[]);
    let seconds = |args: &[&str]| -> f64 {
        let time = r#"TIMEFORMAT="%U %S"; time "$@" >/dev/null"#;
        let mut timed = behind(&["bash", "-c", time, "bash"], &sandbox.ask_with(args));
        let output = timed.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said.split_whitespace().map(|number| number.parse::<f64>().unwrap()).sum()
    };
    let (look, waited) = (seconds(&[]), seconds(&[wait]));
    assert!(waited <= 4.0 * look + 0.02, "a look {look} s, {wait} {waited} s");
}
