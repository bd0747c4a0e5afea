//! What a handoff costs beside `find` on the same archives, and how it grows:
//! `cargo bench --bench handoff`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints its figures and may give up")]
#![allow(clippy::disallowed_methods, reason = "it starts and times programs as a user would")]

mod common;

use common::compare_runs;
use std::fmt::Write;
use std::fs::{File, create_dir_all};
use std::path::{Path, PathBuf};

const TARGETS: usize = 10;
const RUNS: usize = 15;

fn main() {
    let [small, large] = [10_000, 100_000].map(|exports| {
        let folder = tempfile::tempdir().unwrap();
        let config = make_archives(folder.path(), exports);
        let handoff = [env!("CARGO_BIN_EXE_xtask"), "handoff", "--config"].map(PathBuf::from);
        let handoff: Vec<PathBuf> = handoff.into_iter().chain([config]).collect();
        // Both once, so that the files are in the cache for both.
        let find = format!("find '{}' -name '*.json' | wc -l", folder.path().join("archive").display());
        let find = ["sh", "-c", &find].map(PathBuf::from);
        compare_runs(1, "first run, not counted", &handoff, "find", &find);
        compare_runs(RUNS, &format!("handoff over {exports} exports"), &handoff, "find | wc -l", &find)
    });
    println!("ten times the exports take {:.1} times as long", large / small);
}

/// An archive root with so many exports, spread over the targets; gives its config.
fn make_archives(root: &Path, exports: usize) -> PathBuf {
    let mut targets = String::new();
    for target in 0..TARGETS {
        let folder = root.join(format!("archive/target-{target}"));
        create_dir_all(&folder).unwrap();
        for export in 0..exports / TARGETS {
            let id = 100_000_000_000_000_000 + target * 1_000_000 + export;
            File::create(folder.join(format!("Guild - channel-{export} [{id}].json"))).unwrap();
        }
        let comma = if target > 0 { "," } else { "" };
        _ = write!(targets, r#"{comma}{{ "name": "t{target}", "output_dir": "archive/target-{target}" }}"#);
    }
    let config = root.join("scrape.json");
    std::fs::write(&config, format!(r#"{{ "archive_root": "archive", "targets": [{targets}] }}"#)).unwrap();
    config
}
