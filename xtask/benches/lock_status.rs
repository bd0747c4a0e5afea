//! What a look at the lock costs, and that it disturbs nobody:
//! `cargo bench --bench lock_status`. Prints figures; exit 1 when somebody was disturbed
//! or misled.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints its figures and may give up")]
#![allow(clippy::disallowed_methods, reason = "it starts and times programs as a user would")]

mod common;

use common::{TIMED_RUNS, compare};
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const ACQUISITIONS: usize = 20_000;
const STATUS_LOOPS: usize = 3;
const LOOKS: usize = 2_000;
const CHURNING_LOCKS: usize = 200;
const LONG_TABLE: usize = 2_000;
/// As many as on a desktop.
const OTHER_PROCESSES: usize = 300;
/// Below the usual limit of 1,024 descriptors.
const LOCKS_PER_PROCESS: usize = 500;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child", "acquire", lock] => acquire_again_and_again(Path::new(lock)),
        ["child", "churn", folder] => churn(Path::new(folder)),
        ["child", "hold", folder] => hold(Path::new(folder), LOCKS_PER_PROCESS),
        ["child", "ranges", file] => hold_ranges(Path::new(file)),
        ["child", "hold-one", lock] => hold_one(Path::new(lock)),
        ["costs"] => costs(),
        _ => {
            let misled = disturbance();
            costs();
            return ExitCode::from(u8::from(misled > 0));
        }
    }
    ExitCode::SUCCESS
}

/// The number of times that a scrape or an operator would have been misled.
fn disturbance() -> usize {
    let bench = Bench::new();
    let mut acquirer = bench.child("acquire", &bench.lock);
    let failures = bench.beside_status_loops(STATUS_LOOPS, || line(&mut acquirer).parse::<usize>().unwrap());
    println!("{failures} of {ACQUISITIONS} acquisitions failed beside {STATUS_LOOPS} status loops");
    let done = AtomicUsize::new(0);
    let held = bench.count_of("state: held", 4, || done.fetch_add(1, Ordering::Relaxed) < 2 * LOOKS);
    println!("{held} of {} status runs, 4 at a time, called an unheld lock held", 2 * LOOKS);
    let _churn = bench.child("churn", bench.folder.path());
    let _holder = bench.child("hold-one", &bench.lock);
    let done = AtomicUsize::new(0);
    let free = LOOKS - bench.count_of("state: held", 1, || done.fetch_add(1, Ordering::Relaxed) < LOOKS);
    println!("{free} of {LOOKS} status runs missed a held lock while {CHURNING_LOCKS} others came and went");
    failures + held + free
}

/// Prints what a look costs beside programs that everybody knows.
fn costs() {
    let bench = Bench::new();
    drop(File::create(&bench.lock).unwrap());
    let [status, nothing] = [bench.status(), vec!["true".into()]];
    let fuser = vec!["fuser".into(), bench.lock.clone()];
    println!("whole-process wall time, medians of {TIMED_RUNS} alternating runs:");
    compare("short table, not held", &status, "true", &nothing);
    let holder = bench.child("hold-one", &bench.lock);
    compare("short table, held", &status, "fuser LOCK", &fuser);
    let _others: Vec<Held> = (0..OTHER_PROCESSES)
        .map(|_| Held(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()))
        .collect();
    println!("beside {OTHER_PROCESSES} other processes:");
    compare("short table, held", &status, "fuser LOCK", &fuser);
    // As databases do it: many ranges of few files.
    let ranges = bench.child("ranges", &bench.folder.path().join("database"));
    compare("2,000 locks, held", &status, "fuser LOCK", &fuser);
    drop(holder);
    compare("2,000 locks, not held", &status, "fuser LOCK", &fuser);
    drop(ranges);
    let _loads: Vec<Held> = (0..LONG_TABLE / LOCKS_PER_PROCESS)
        .map(|number| {
            let folder = bench.folder.path().join(format!("load-{number}"));
            std::fs::create_dir(&folder).unwrap();
            bench.child("hold", &folder)
        })
        .collect();
    let _holder = bench.child("hold-one", &bench.lock);
    compare("2,000 locks on as many descriptors, held", &status, "fuser LOCK", &fuser);
}

struct Bench {
    folder: tempfile::TempDir,
    config: PathBuf,
    lock: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let (config, lock) = (folder.path().join("scrape.json"), folder.path().join(".dce-scrape.lock"));
        std::fs::write(&config, r#"{ "archive_root": "." }"#).unwrap();
        Bench { folder, config, lock }
    }

    fn status(&self) -> Vec<PathBuf> {
        [env!("CARGO_BIN_EXE_xtask"), "lock-status", "--config"]
            .map(PathBuf::from)
            .into_iter()
            .chain([self.config.clone()])
            .collect()
    }

    /// How many status runs say `line`, `loops` at a time, while there is `more`.
    fn count_of(&self, line: &str, loops: usize, more: impl Fn() -> bool + Sync) -> usize {
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..loops {
                scope.spawn(|| {
                    let words = self.status();
                    while more() {
                        let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
                        let says = String::from_utf8_lossy(&output.stdout).lines().any(|said| said.starts_with(line));
                        count.fetch_add(usize::from(says), Ordering::Relaxed);
                    }
                });
            }
        });
        count.into_inner()
    }

    fn beside_status_loops<T>(&self, loops: usize, work: impl FnOnce() -> T) -> T {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| self.count_of("", loops, || !is_over.load(Ordering::Relaxed)));
            let result = work();
            is_over.store(true, Ordering::Relaxed);
            result
        })
    }

    /// This program again, for what must not be done here: a child started by another
    /// thread shares this process's descriptors, and their locks, until its exec.
    fn child(&self, work: &str, at: &Path) -> Held {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", work]).arg(at).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Held(command.spawn().unwrap());
        assert_eq!(line(&mut child), "READY");
        child
    }
}

/// A child that ends with its standard input.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        _ = self.0.wait();
    }
}

fn line(child: &mut Held) -> String {
    let mut line = Vec::new();
    let stdout = child.0.stdout.as_mut().unwrap();
    BufReader::with_capacity(1, stdout).read_until(b'\n', &mut line).unwrap();
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

fn open(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn acquire_again_and_again(lock: &Path) {
    println!("READY");
    let mut failures = 0;
    for _ in 0..ACQUISITIONS {
        failures += usize::from(Flock::lock(open(lock), FlockArg::LockExclusiveNonblock).is_err());
        std::thread::sleep(Duration::from_micros(500));
    }
    println!("{failures}");
}

fn churn(folder: &Path) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut held: Vec<_> = (0..CHURNING_LOCKS).map(|_| None).collect();
            for number in (0..CHURNING_LOCKS).cycle() {
                // A number with no pattern, so that entries come and go everywhere in the table.
                let number = (number * 7919 + number / 3) % CHURNING_LOCKS;
                held[number] = match held[number].take() {
                    None => Flock::lock(open(&folder.join(number.to_string())), FlockArg::LockExclusive).ok(),
                    Some(lock) => {
                        drop(lock);
                        None
                    }
                };
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        println!("READY");
        wait_for_the_end();
        is_over.store(true, Ordering::Relaxed);
    });
}

fn hold(folder: &Path, count: usize) {
    let lock = |number: usize| Flock::lock(open(&folder.join(number.to_string())), FlockArg::LockExclusive).unwrap();
    let _held: Vec<_> = (0..count).map(lock).collect();
    println!("READY");
    wait_for_the_end();
}

fn hold_ranges(file: &Path) {
    let file = open(file);
    for number in 0..LONG_TABLE {
        // Every second byte: neighbours would become one lock.
        let range = nix::libc::flock {
            l_type: nix::libc::F_WRLCK as i16,
            l_whence: nix::libc::SEEK_SET as i16,
            l_start: 2 * number as i64,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&range)).unwrap();
    }
    println!("READY");
    wait_for_the_end();
}

fn hold_one(lock: &Path) {
    let _held = Flock::lock(open(lock), FlockArg::LockExclusive).unwrap();
    println!("READY");
    wait_for_the_end();
}

fn wait_for_the_end() {
    _ = std::io::stdin().read(&mut [0]);
}
