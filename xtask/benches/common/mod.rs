//! What the benchmarks share.

#![allow(dead_code, reason = "not every benchmark uses all of it")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

pub(crate) const TIMED_RUNS: usize = 300;

/// Nothing of the machine's own set-up is timed.
const ENVIRONMENT: [(&str, &str); 2] = [("DCE_COMPOSE_BIN", "true"), ("DISCORD_TOKEN", "none")];

/// Times two commands in turn as whole processes, [`TIMED_RUNS`] times, and prints the medians.
pub(crate) fn compare(situation: &str, words: &[PathBuf], name: &str, other: &[PathBuf]) {
    compare_runs(TIMED_RUNS, situation, words, name, other);
}

/// The same with another number of runs; gives the first command's median in milliseconds.
pub(crate) fn compare_runs(runs: usize, situation: &str, words: &[PathBuf], name: &str, other: &[PathBuf]) -> f64 {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (words, times) in [words, other].into_iter().zip(&mut times) {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).envs(ENVIRONMENT).stdout(Stdio::null()).stderr(Stdio::null());
            let started = Instant::now();
            command.status().unwrap();
            times.push(started.elapsed());
        }
    }
    let [ours_ms, other_ms] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    println!("  {situation}: {ours_ms:.2} ms, {name}: {other_ms:.2} ms, ratio {:.2}", ours_ms / other_ms);
    ours_ms
}
