//! The reports as text: the shell originals' lines, byte for byte, and ours after them.

use crate::handoff::archives::Row;
use crate::handoff::check::Check;
use crate::handoff::disk::Disk;
use crate::handoff::plan::{Selection, shown_dir};
use crate::handoff::report::{Conclusion, Handoff, Readiness, Summary};
use crate::lock_status;
use crate::output::Paint;
use crate::text::{path, printable};
use crate::verdict::Verdict;
use std::path::Path;

/// What to run next, in the host runner's checkout.
const SCRAPE: &str = "  ./scripts/run-documents-scrape.sh";
const CRON: &str = "  ./scripts/setup-cron.sh --dry-run\n";

pub(crate) fn handoff(report: &Handoff, selection: &Selection, with_disk_table: bool, paint: Paint) -> String {
    let (ready, summary) = (&report.ready, &report.ready.summary);
    let mut text = opening(&summary.config, selection, with_disk_table.then_some(ready.disk));
    text += &readiness(ready);
    if summary.ready {
        text += &operator_ready();
    }
    text += &format!("\n{}\n", lock_status::text::whole(&report.lock, paint));
    text += match report.lock.verdict() {
        Verdict::Yes => "",
        Verdict::No => {
            "WARN: scrape lock is held; wait for the active scrape or confirm it is stale before starting another \
             run.\n\n"
        }
        Verdict::Unknown | Verdict::Code(_) => {
            "WARN: whether the scrape lock is held is unknown; do not start a run until it is known.\n\n"
        }
    };
    text += &selection.text("Documents scrape", &summary.config);
    text += match ready.auth {
        _ if !summary.has_ready_archives() => "Dry run failed: archive paths are not ready.\n",
        Some(_) => "Dry run complete: archive paths verified.\n",
        None => {
            "Dry run complete: archive paths verified. Export DISCORD_TOKEN or create a token file, then rerun without \
             --dry-run.\n"
        }
    };
    let start = match report.conclusion {
        Conclusion::Complete => "Handoff complete. Safe to run:",
        Conclusion::Held => "Handoff complete, but the scrape lock is held. When it is free, run:",
        Conclusion::LockUnknown => {
            "Handoff complete, but whether the scrape lock is held is unknown. When it is known to be free, run:"
        }
        Conclusion::Failed => return text + &failed("Handoff failed", summary),
    };
    text + &format!("\n{start}\n{SCRAPE}{}\n{CRON}{}", selection.arguments(), lines(summary, is_about_scripts))
}

/// What every handoff begins with.
pub(crate) fn opening(config: &Path, selection: &Selection, disk: Option<&Disk>) -> String {
    let plan = selection.text("Operator handoff", config);
    let disk = disk.map(|disk| format!("Disk summary\n============\n{}\n", disk.table())).unwrap_or_default();
    format!("Operator handoff\n================\nconfig: {}\n\n{plan}\n{disk}", path(config))
}

pub(crate) fn verify_ready(report: &Readiness) -> String {
    let end = match report.summary.ready {
        true => operator_ready() + &lines(&report.summary, is_about_scripts),
        false => failed("Operator not ready", &report.summary),
    };
    readiness(report) + &end
}

pub(crate) fn disk_only(report: &Summary) -> String {
    match report.ready {
        true => lines(report, |_| true) + &format!("disk-only: ok (config {})\n", path(&report.config)),
        false => lines(report, |_| true) + &failed("disk-only: not ready", report),
    }
}

/// Some checks: nothing, unless one has failed.
pub(crate) fn only(report: &Summary) -> String {
    report.problems().map(|check| check.finding.text() + &hint("", check)).collect()
}

/// The readiness checks, without a conclusion.
fn readiness(report: &Readiness) -> String {
    let is_about_archives = |check: &Check| check.id.starts_with("archive.");
    let summary = &report.summary;
    let mut text = String::from("Operator readiness checks\n=========================\n");
    text += &lines(summary, |check| !is_about_archives(check) && !is_about_scripts(check));
    let root = report.archive_root.as_ref().map_or_else(|| "(none)".to_owned(), |root| path(root.as_ref()));
    text += &format!("\nArchive root: {root}\n\n{}\n", table(report.targets));
    text += &lines(summary, is_about_archives);
    if summary.has_ready_archives() {
        text += "All enabled targets have archive directories with seeded channel exports.\n";
    }
    text
}

fn is_about_scripts(check: &Check) -> bool {
    check.id.starts_with("scripts")
}

pub(crate) fn lines(report: &Summary, is_shown: impl Fn(&Check) -> bool) -> String {
    report.checks.iter().filter(|check| is_shown(check)).map(|check| check.finding.text()).collect()
}

fn operator_ready() -> String {
    format!("\nOperator ready. Next:\n{SCRAPE}\n{CRON}")
}

/// All failures once more, each with what to do.
pub(crate) fn failed(what: &str, report: &Summary) -> String {
    let line = |check: &Check| format!("  - {}: {}\n{}", check.id, check.finding.line, hint("    ", check));
    format!("\n{what}: {} problem(s)\n{}", report.problems().count(), report.problems().map(line).collect::<String>())
}

fn hint(indent: &str, check: &Check) -> String {
    check.finding.hint.as_ref().map(|hint| format!("{indent}hint: {hint}\n")).unwrap_or_default()
}

fn table(rows: &[Row]) -> String {
    let header = ["TARGET", "OUTPUT_DIR", "JSON", "SEEDED", "MAP", "STATUS"].map(str::to_owned);
    // As the shell originals draw it.
    let rule = ["------", "----------", "----", "------", "-----", "------"].map(str::to_owned);
    let cells = |row: &Row| {
        let count = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let [json, seeded, map] = [row.json, row.seeded, row.map].map(count);
        let name = printable(&row.target.name);
        [name, shown_dir(row.target), json, seeded, map, row.status.to_owned()]
    };
    let lines: Vec<[String; 6]> = [header, rule].into_iter().chain(rows.iter().map(cells)).collect();
    crate::text::table(&lines, [28, 40, 8, 8, 8, 0], 2..5)
}
