//! The handoff as text: the shell originals' lines, byte for byte, and ours behind them.

use crate::handoff::archives::{Row, RowState};
use crate::handoff::disk::Disk;
use crate::handoff::{End, Handoff, Readiness};
use crate::text::{path, printable};
use std::fmt::Write;
use std::path::Path;

/// What to run next. The host runner's checkout has these.
const SCRAPE: &str = "  ./scripts/run-documents-scrape.sh";
const CRON: &str = "  ./scripts/setup-cron.sh --dry-run\n";

const WARN_HELD: &str = "WARN: scrape lock is held; wait for the active scrape or confirm it is stale before \
                         starting another run.\n\n";
const WARN_UNKNOWN: &str = "WARN: whether the scrape lock is held cannot be told; do not start a run before it is.\n\n";

impl Handoff<'_> {
    /// The whole report.
    pub(crate) fn text(&self, colour: bool) -> String {
        let ready = &self.ready;
        let plan = |title: &str| self.selection.text(title, &ready.config_path, ready.config);
        let mut text = format!("Operator handoff\n================\nconfig: {}\n\n", path(&ready.config_path));
        text += &(plan("Operator handoff") + "\n");
        if !self.skip_df {
            text += &format!("Disk summary\n============\n{}\n", ready.disk.table());
        }
        text += &ready.text();
        if ready.problems().is_empty() {
            text += &ready.conclusion();
        }
        text += &format!("\n{}\n", self.lock.text(colour));
        text += match self.lock.verdict() {
            crate::Verdict::Yes => "",
            crate::Verdict::No => WARN_HELD,
            crate::Verdict::Unknown => WARN_UNKNOWN,
        };
        text += &plan("Documents scrape");
        text += if ready.are_archives_ready() {
            "Dry run complete: archive paths verified. Export DISCORD_TOKEN or create a token file, then rerun without \
             --dry-run.\n"
        } else {
            "Dry run failed: archive paths are not ready.\n"
        };
        text + &self.verdict_text()
    }

    fn verdict_text(&self) -> String {
        let commands = format!("{SCRAPE}{}\n{CRON}", self.selection.arguments());
        match self.end() {
            End::Complete => format!("\nHandoff complete. Safe to run:\n{commands}"),
            End::Held => {
                format!("\nHandoff complete, but the scrape lock is held. When it is free, run:\n{commands}")
            }
            End::LockUnknown => format!(
                "\nHandoff complete, but whether the scrape lock is held cannot be told. When it is known to be free, \
                 run:\n{commands}"
            ),
            End::Failed => failed("Handoff failed", &self.ready.problems()),
        }
    }
}

impl Readiness<'_> {
    /// The checks, without a conclusion.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("Operator readiness checks\n=========================\n");
        let mut all = |start: &str, lines: &[String]| lines.iter().for_each(|line| _ = writeln!(text, "{start}{line}"));
        let one = |line: Option<String>| line.into_iter().collect::<Vec<String>>();
        all("", &self.disk.lines());
        all("FAIL: ", &self.disk.problems());
        all("compose: ", &one(self.compose.found.clone()));
        all("FAIL: ", &one(self.compose.problem()));
        all("note: ", &self.compose_notes);
        all("auth: ", &one(self.auth.found.as_ref().map(|found| found.text())));
        all("FAIL: ", &one(self.auth.problem()));
        all("note: ", &self.auth.notes);
        all("config: ", &[path(&self.config_path)]);
        all("FAIL: ", &self.config.problems);
        all("note: ", &self.config.notes);
        let root = self.config.archive_root.as_ref().map_or_else(|| "(none)".to_owned(), |root| path(&root.path));
        _ = writeln!(text, "\nArchive root: {root}\n");
        text += &table(&self.rows);
        let problems: Vec<String> = self.rows.iter().flat_map(Row::problems).collect();
        text.push('\n');
        problems.iter().for_each(|problem| _ = writeln!(text, "FAIL: {problem}"));
        if self.are_archives_ready() {
            text += "All enabled targets have archive directories with seeded channel exports.\n";
        }
        text
    }

    /// Whether there is something to scrape, and nothing wrong with where it goes.
    fn are_archives_ready(&self) -> bool {
        self.config.problems.is_empty() && self.rows.iter().all(|row| row.problems().is_empty())
    }

    /// What the checks come to.
    pub(crate) fn conclusion(&self) -> String {
        let problems = self.problems();
        if problems.is_empty() {
            format!("\nOperator ready. Next:\n{SCRAPE}\n{CRON}")
        } else {
            failed("Operator not ready", &problems)
        }
    }
}

/// The report of `verify-ready --disk-only`.
pub(crate) fn disk_only(config: &Path, disk: &Disk, problems: &[String]) -> String {
    let lines: String = disk.lines().iter().map(|line| format!("{line}\n")).collect();
    if problems.is_empty() {
        return lines + &format!("disk-only: ok (config {})\n", path(config));
    }
    let problems: String = problems.iter().map(|problem| format!("FAIL: {problem}\n")).collect();
    lines + &problems
}

fn failed(what: &str, problems: &[String]) -> String {
    let mut text = format!("\n{what}: {} problem(s)\n", problems.len());
    problems.iter().for_each(|problem| _ = writeln!(text, "  - {problem}"));
    text
}

fn table(rows: &[Row]) -> String {
    let header = ["TARGET", "OUTPUT_DIR", "JSON", "SEEDED", "MAP", "STATUS"].map(str::to_owned);
    let cells = |row: &Row| {
        let [json, seeded, map] = match &row.state {
            RowState::Looked(archive) => {
                [archive.json.to_string(), archive.seeded().to_string(), archive.map.to_string()]
            }
            RowState::Missing => ["0"; 3].map(str::to_owned),
            RowState::Disabled | RowState::NoOutputDir => ["-"; 3].map(str::to_owned),
        };
        [printable(row.target.name.as_bytes()), row.target.shown_dir(), json, seeded, map, row.status().to_owned()]
    };
    let lines: Vec<[String; 6]> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    crate::text::table(&lines, [28, 40, 8, 8, 8, 0], 2..5)
}
