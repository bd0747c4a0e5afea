//! What a salvage costs beside `cat` and `fsync` of the same bytes, and beside jq: `cargo bench --bench salvage`. With
//! `XTASK_HEAVY=1` up to 2 GB.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints its figures and may give up")]
#![allow(clippy::disallowed_methods, reason = "it starts and times programs as a user would")]

use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const RUNS: usize = 5;
const CHANNEL: &str = "100000000000000001";
const MESSAGE_BYTES: usize = 950;

/// Sizes of an archive and a leftover, in MB; jq is tried on the first.
const SIZES: [(usize, usize); 3] = [(12, 20), (30, 50), (300, 500)];

fn main() {
    let is_heavy = std::env::var_os("XTASK_HEAVY").is_some();
    for (archive_mb, leftover_mb) in SIZES.into_iter().chain(is_heavy.then_some((800, 1200))) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let target = root.join("target");
        let temporary = target.join(format!(".dce-temp/export.{CHANNEL}.abc"));
        let (archive, leftover) =
            (target.join(format!("Guild - general [{CHANNEL}].json")), temporary.join("export.json"));
        let config = root.join("scrape.json");
        std::fs::create_dir_all(&temporary).unwrap();
        let text = format!(
            r#"{{ "archive_root": "{0}", "targets": [{{ "name": "t", "output_dir": "{0}/target" }}] }}"#,
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let [archive_messages, leftover_messages] = [archive_mb, leftover_mb].map(|mb| mb * 1_000_000 / MESSAGE_BYTES);
        // A tenth of the archive is in the leftover, too.
        write_export(&root.join("old"), 0, archive_messages, false);
        write_export(&root.join("cut"), archive_messages * 9 / 10, leftover_messages, true);
        let (mut ours_s, mut cat_s, mut peak_kib) = (Vec::new(), Vec::new(), 0);
        for _ in 0..RUNS {
            std::fs::copy(root.join("old"), &archive).unwrap();
            std::fs::create_dir_all(&temporary).unwrap();
            std::fs::copy(root.join("cut"), &leftover).unwrap();
            // What was copied must not be written during the measurement.
            Command::new("sync").status().unwrap();
            let (seconds, kib) =
                timed(&[env!("CARGO_BIN_EXE_xtask"), "salvage", "--config", &config.display().to_string()], root);
            assert!(!leftover.exists(), "not salvaged");
            ours_s.push(seconds);
            peak_kib = peak_kib.max(kib);
            let script = format!("cat '{0}/old' '{0}/cut' >'{0}/new' && sync '{0}/new'", root.display());
            cat_s.push(timed(&["sh", "-c", &script], root).0);
            std::fs::remove_file(root.join("new")).unwrap();
        }
        let messages = archive_messages + leftover_messages;
        let limit_kib = 64 * 1024 + 24 * messages / 1024;
        let [ours, cat] = [ours_s, cat_s].map(median);
        println!(
            "  {archive_mb} + {leftover_mb} MB, {messages} messages: {ours:.2} s, cat + fsync: {cat:.2} s, ratio {:.2}; \
             at most {} MiB of {} allowed",
            ours / cat,
            peak_kib / 1024,
            limit_kib / 1024
        );
        if archive_mb < 100 {
            std::fs::copy(&archive, root.join("whole")).unwrap();
            let script = format!("jq -s '.[0]' '{0}/old' '{0}/whole' >'{0}/new'", root.display());
            let (seconds, kib) = timed(&["sh", "-c", &script], root);
            println!("    jq, which only reads and writes as much: {seconds:.2} s, {} MiB", kib / 1024);
        }
    }
}

/// Seconds and the peak of memory in KiB.
fn timed(words: &[&str], root: &Path) -> (f64, usize) {
    let peak = root.join("peak");
    let started = Instant::now();
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M", "-o"]).arg(&peak).args(words).env("DCE_SALVAGE_ACTIVE_TEMPS", "1");
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    (started.elapsed().as_secs_f64(), std::fs::read_to_string(peak).unwrap().trim().parse().unwrap())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// An export as the exporter writes it, with embeds, attachments, reactions and text that is not ASCII.
fn write_export(path: &Path, first: usize, messages: usize, is_cut: bool) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    write!(out, "{{\n  \"guild\": {{\n    \"id\": \"1\",\n    \"name\": \"Guild\"\n  }},\n  \"channel\": {{\n    \"id\": \"{CHANNEL}\",\n    \"name\": \"general\"\n  }},\n  \"messages\": [").unwrap();
    let mut text = String::new();
    for number in first..first + messages {
        text.clear();
        text.push_str(if number > first { ",\n    " } else { "\n    " });
        _ = write!(
            text,
            "{{\n      \"id\": \"{}\",\n      \"type\": \"Default\",\n      \"timestamp\": \"2024-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}+00:00\",\n      \
            \"timestampEdited\": null,\n      \"isPinned\": false,\n      \"content\": \"Größe {number}, \\\"so\\\" 👍 {}\",\n      ",
            200_000_000_000_000_000 + number * 4096,
            1 + number / 2_419_200 % 12,
            1 + number / 86400 % 28,
            number / 3600 % 24,
            number / 60 % 60,
            number % 60,
            number % 1000,
            "words and words ".repeat(number % 7)
        );
        text.push_str("\"author\": {\n        \"id\": \"7\",\n        \"name\": \"näme\",\n        \"avatarUrl\": \"https://cdn.discordapp.com/avatars/7/abcdef0123456789.png?size=512\"\n      },\n      ");
        text.push_str(match number % 5 {
            0 => "\"attachments\": [\n        {\n          \"id\": \"8\",\n          \"url\": \"https://cdn.discordapp.com/attachments/1/8/image.png\",\n          \"fileName\": \"image.png\",\n          \"fileSizeBytes\": 123456\n        }\n      ],\n      ",
            _ => "\"attachments\": [],\n      ",
        });
        text.push_str(match number % 9 {
            0 => "\"embeds\": [\n        {\n          \"title\": \"A title\",\n          \"url\": \"https://example.org/\",\n          \"description\": \"What it is about, in some words.\",\n          \"fields\": []\n        }\n      ],\n      ",
            _ => "\"embeds\": [],\n      ",
        });
        text.push_str("\"stickers\": [],\n      \"reactions\": [\n        {\n          \"emoji\": {\n            \"id\": \"\",\n            \"name\": \"👍\",\n            \"code\": \"thumbsup\",\n            \"isAnimated\": false\n          },\n          \"count\": 2\n        }\n      ],\n      \"mentions\": [],\n      \"inlineEmojis\": []\n    }");
        out.write_all(text.as_bytes()).unwrap();
    }
    let end = if is_cut {
        ",\n    {\n      \"id\": \"3000".to_owned()
    } else {
        format!("\n  ],\n  \"messageCount\": {messages}\n}}\n")
    };
    out.write_all(end.as_bytes()).unwrap();
    out.flush().unwrap();
}
