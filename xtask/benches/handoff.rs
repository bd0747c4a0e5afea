//! What a handoff costs beside `find` on the same archives, and how it grows:
//! `cargo bench --bench handoff`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints its figures and may give up")]
#![allow(clippy::disallowed_methods, reason = "it starts and times programs as a user would")]

mod common;

use common::compare_runs;
use std::fmt::Write;
use std::fs::create_dir_all;
use std::path::{Path, PathBuf};
use std::time::Instant;

const TARGETS: usize = 10;
const RUNS: usize = 15;

fn main() {
    for exports in [20, 2_000, 100_000] {
        let folder = tempfile::tempdir().unwrap();
        let config = make_archives(folder.path(), exports);
        let handoff = |only: &str| {
            let words = [env!("CARGO_BIN_EXE_xtask"), "handoff", "--only", only, "--config"].map(PathBuf::from);
            words.into_iter().chain([config.clone()]).collect::<Vec<PathBuf>>()
        };
        let find = format!("find '{}' -name '*.json' | wc -l", folder.path().join("archive").display());
        let find = ["sh", "-c", &find].map(PathBuf::from);
        // Once each, so that the files are in the cache for all.
        compare_runs(1, "first run, not counted", &handoff("archive"), "find", &find);
        compare_runs(
            RUNS,
            &format!("the walk of {exports} exports"),
            &handoff("archive.seeded"),
            "find | wc -l",
            &find,
        );
        compare_runs(RUNS, "the same with both ends of each", &handoff("archive"), "find | wc -l", &find);
    }
    many_problems();
}

/// An archive root with so many exports, spread over the targets; gives its config.
fn make_archives(root: &Path, exports: usize) -> PathBuf {
    let (mut targets, archive) = (String::new(), root.join("archive"));
    for target in 0..TARGETS {
        let folder = archive.join(format!("target-{target}"));
        create_dir_all(&folder).unwrap();
        for export in 0..exports / TARGETS {
            let id = 100_000_000_000_000_000 + target * 1_000_000 + export;
            let file = folder.join(format!("Guild - channel-{export} [{id}].json"));
            std::fs::write(file, export_text(id, if export % 10 == 0 { 60 } else { 4 })).unwrap();
        }
        let comma = if target > 0 { "," } else { "" };
        _ = write!(targets, r#"{comma}{{ "name": "t{target}", "output_dir": "{}" }}"#, folder.display());
    }
    let config = root.join("scrape.json");
    std::fs::write(&config, format!(r#"{{ "archive_root": "{}", "targets": [{targets}] }}"#, archive.display()))
        .unwrap();
    config
}

/// An export as the exporter writes it.
fn export_text(id: usize, messages: usize) -> String {
    let message = r#"{
      "id": "1234567890123456789",
      "type": "Default",
      "timestamp": "2026-01-01T00:00:00+00:00",
      "isPinned": false,
      "content": "Something that somebody has said, some time ago.",
      "author": { "id": "1", "name": "somebody" },
      "attachments": [], "embeds": [], "stickers": [], "reactions": [], "mentions": [], "inlineEmojis": []
    }"#;
    let messages_text = vec![message; messages].join(",\n    ");
    format!(
        "{{\n  \"guild\": {{ \"id\": \"1\", \"name\": \"Guild\" }},\n  \"channel\": {{ \"id\": \"{id}\", \"name\": \"general\" }},\n  \
         \"messages\": [\n    {messages_text}\n  ],\n  \"messageCount\": {messages}\n}}\n"
    )
}

/// Ten thousand targets that are wrong in every way, without a single archive.
fn many_problems() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("scrape.json");
    let target = |index: usize| {
        let kind = if index.is_multiple_of(2) { r#""dm""# } else { "5" };
        format!(
            r#"{{ "name": "{}", "kind": {kind}, "output_dir": "/outside/../{}", "enabled": "no", "channel_ids": 7 }}"#,
            index / 2,
            index / 3
        )
    };
    let targets: Vec<String> = (0..10_000).map(target).collect();
    std::fs::write(&config, format!(r#"{{ "archive_root": "none/", "targets": [{}] }}"#, targets.join(","))).unwrap();
    let started = Instant::now();
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_xtask")).args(["handoff", "--config"]).arg(&config).output();
    let lines = output.unwrap().stdout.iter().filter(|byte| **byte == b'\n').count();
    println!("10,000 targets with every problem: {:.0} ms, {lines} lines", started.elapsed().as_secs_f64() * 1e3);
}
