//! The acquiring side under stress, and what it costs: `cargo bench --bench lock_run`.
//! Prints figures; exit 1 when two were inside at once, or something was left behind.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints its figures and may give up")]
#![allow(clippy::disallowed_methods, reason = "it starts and times programs as a user would")]

mod common;

use common::{TIMED_RUNS, compare};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SECTIONS: usize = 10_000;
const PROCESSES: usize = 8;
const KILLS: usize = 1_000;
const RELEASES: usize = 20;

/// Who is inside makes a folder that nobody else may find, and takes it away again.
const SECTION: &str = r#"mkdir "$INSIDE" 2>/dev/null || { echo violation; exit 99; }; rmdir "$INSIDE""#;

/// The host runner's way, in bash.
const HOST_RUNNER: &str = r#"exec {fd}>>"$LOCK"; flock -n "$fd" || exit 1
printf 'pid=%s\nstarted=%(%Y-%m-%dT%H:%M:%SZ)T\ncmd=runner\n' $$ -1 >"$LOCK.meta"
mkdir "$INSIDE" 2>/dev/null || { echo violation; exit 99; }; rmdir "$INSIDE"
flock -u "$fd"; exec {fd}>&-; rm -f "$LOCK.meta""#;

fn main() -> ExitCode {
    let bad = stress() + kills();
    waits();
    let bench = Bench::new();
    let run =
        ["lock-run", "--config"].map(PathBuf::from).into_iter().chain([bench.config(), "--".into(), "true".into()]);
    let run: Vec<PathBuf> = [PathBuf::from(env!("CARGO_BIN_EXE_xtask"))].into_iter().chain(run).collect();
    println!("whole-process wall time, medians of {TIMED_RUNS} alternating runs:");
    compare("lock-run -- true", &run, "flock LOCK true", &["flock".into(), bench.lock(), "true".into()]);
    ExitCode::from(u8::from(bad > 0))
}

/// Half `lock-run`, half the host runner's way, with reclaimers and status loops between.
fn stress() -> usize {
    let bench = Bench::new();
    std::fs::write(bench.lock(), "").unwrap();
    let inode = std::fs::metadata(bench.lock()).unwrap().ino();
    let [entered, refused, wrong] = [const { AtomicUsize::new(0) }; 3];
    let goes_on = || entered.load(Ordering::Relaxed) < SECTIONS;
    let count = |code: Option<i32>| match code {
        Some(0) => entered.fetch_add(1, Ordering::Relaxed),
        Some(1) => refused.fetch_add(1, Ordering::Relaxed),
        other => {
            println!("a process ended with {other:?}");
            wrong.fetch_add(1, Ordering::Relaxed)
        }
    };
    std::thread::scope(|scope| {
        for number in 0..PROCESSES {
            let (bench, count, goes_on) = (&bench, &count, &goes_on);
            scope.spawn(move || {
                while goes_on() {
                    let mut command = match number % 2 {
                        0 => bench.xtask("lock-run", &["--", "sh", "-c", SECTION]),
                        _ => bench.command("bash", &["-c", HOST_RUNNER]),
                    };
                    count(command.stderr(Stdio::null()).status().unwrap().code());
                }
            });
        }
        for args in [&["--reclaim-stale"][..], &[]] {
            let (bench, goes_on, wrong) = (&bench, &goes_on, &wrong);
            scope.spawn(move || {
                while goes_on() {
                    let output = bench.xtask("lock-status", args).output().unwrap();
                    // A sidecar that changes meanwhile is refused by the reclaimer: exit 2.
                    if !matches!((output.status.code(), args.len()), (Some(0 | 1), _) | (Some(2), 1)) {
                        println!("lock-status: {}", String::from_utf8_lossy(&output.stdout));
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let is_same = std::fs::metadata(bench.lock()).is_ok_and(|now| now.ino() == inode);
    let left = bench.left();
    println!(
        "{entered:?} critical sections of {PROCESSES} processes, {refused:?} refusals, {wrong:?} anything else; \
         lock file the same: {is_same}; left behind: {left:?}"
    );
    wrong.into_inner() + usize::from(!is_same) + left.len()
}

/// SIGKILL to `lock-run` at random points: what is then said must be so, and the next gets in.
fn kills() -> usize {
    let bench = Bench::new();
    let mut wrong = 0;
    // A run takes about 3 ms: from before the lock to after its release.
    for number in 0..KILLS {
        let mut run = bench.xtask("lock-run", &["--", "true"]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros((number * 7919 % 4000) as u64));
        _ = run.kill();
        run.wait().unwrap();
        // Its command may still hold the lock for a moment; it is waited for, not taken.
        let said = bench.xtask("lock-status", &["--wait=10s"]).output().unwrap();
        let next = bench.xtask("lock-run", &["--wait=10s", "--", "true"]).status().unwrap();
        if said.status.code() != Some(0) || !next.success() || !bench.left().is_empty() {
            wrong += 1;
            println!("{}{:?}", String::from_utf8_lossy(&said.stdout), bench.left());
        }
    }
    println!("{wrong} of {KILLS} kills at random points left a wrong state, or kept the next one out");
    wrong
}

/// How long after the end of a holder somebody who waits for it returns.
fn waits() {
    let bench = Bench::new();
    let mut delays = Vec::new();
    for _ in 0..RELEASES {
        let mut holder = bench.command("flock", &[]);
        let mut holder = holder
            .arg(bench.lock())
            .args(["sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let waiter = bench.xtask("lock-status", &["--wait"]).stdout(Stdio::null()).spawn();
        let mut waiter = waiter.unwrap();
        std::thread::sleep(Duration::from_millis(60));
        drop(holder.stdin.take());
        holder.wait().unwrap();
        let ended = Instant::now();
        waiter.wait().unwrap();
        delays.push(ended.elapsed());
    }
    delays.sort();
    println!(
        "waits return {:?} after the holder's end (median), {:?} at most",
        delays[RELEASES / 2],
        delays[RELEASES - 1]
    );
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Bench {
        let bench = Bench(tempfile::tempdir().unwrap());
        std::fs::create_dir(bench.0.path().join("archive")).unwrap();
        std::fs::write(bench.config(), r#"{ "archive_root": "archive" }"#).unwrap();
        bench
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("scrape.json")
    }

    fn lock(&self) -> PathBuf {
        self.0.path().join("archive/.dce-scrape.lock")
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("LOCK", self.lock()).env("INSIDE", self.0.path().join("inside"));
        command
    }

    fn xtask(&self, name: &str, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_xtask"), &[name, "--config"]);
        command.arg(self.config()).args(args);
        command
    }

    /// What is in the archive besides the lock file.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path().join("archive")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name != ".dce-scrape.lock").collect()
    }
}
