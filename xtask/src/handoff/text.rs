//! The reports as text: the shell originals' lines, byte for byte, and ours after them.

use crate::handoff::archives::{Found, Row};
use crate::handoff::check::Check;
use crate::handoff::report::{Conclusion, DiskOnly, Handoff, Readiness};
use crate::lock_status;
use crate::output::Paint;
use crate::text::{indented, path};
use crate::verdict::Verdict;

/// What to run next, in the host runner's checkout.
const SCRAPE: &str = "  ./scripts/run-documents-scrape.sh";
const CRON: &str = "  ./scripts/setup-cron.sh --dry-run\n";

const WARN_HELD: &str = "WARN: scrape lock is held; wait for the active scrape or confirm it is stale before \
                         starting another run.\n\n";
const WARN_UNKNOWN: &str =
    "WARN: whether the scrape lock is held is unknown; do not start a run before it is known.\n\n";

/// Whether the report has a disk summary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskSummary {
    Shown,
    Hidden,
}

/// The whole handoff.
pub(crate) fn handoff(report: &Handoff, disk_summary: DiskSummary, paint: Paint) -> String {
    let ready = &report.ready;
    let plan = |title: &str| report.selection.text(title, &ready.config, ready.scrape_config);
    let mut text = format!("Operator handoff\n================\nconfig: {}\n\n", path(&ready.config));
    text += &(plan("Operator handoff") + "\n");
    if disk_summary == DiskSummary::Shown {
        text += &format!("Disk summary\n============\n{}\n", ready.disk.table());
    }
    text += &readiness(ready);
    if ready.ready {
        text += &conclusion(ready);
    }
    text += &format!("\n{}\n", lock_status::text::whole(&report.lock, paint));
    text += match report.lock.verdict() {
        Verdict::Yes => "",
        Verdict::No => WARN_HELD,
        Verdict::Unknown | Verdict::Code(_) => WARN_UNKNOWN,
    };
    text += &plan("Documents scrape");
    text += if ready.are_archives_ready() {
        "Dry run complete: archive paths verified. Export DISCORD_TOKEN or create a token file, then rerun without \
         --dry-run.\n"
    } else {
        "Dry run failed: archive paths are not ready.\n"
    };
    let commands = format!("{SCRAPE}{}\n{CRON}", report.selection.arguments());
    let start = match report.conclusion {
        Conclusion::Complete => "Handoff complete. Safe to run:",
        Conclusion::Held => "Handoff complete, but the scrape lock is held. When it is free, run:",
        Conclusion::LockUnknown => {
            "Handoff complete, but whether the scrape lock is held is unknown. When it is known to be free, run:"
        }
        Conclusion::Failed => return text + &failed("Handoff failed", &ready.problems),
    };
    text + &format!("\n{start}\n{commands}")
}

/// The readiness checks, without a conclusion.
pub(crate) fn readiness(report: &Readiness) -> String {
    let mut text = String::from("Operator readiness checks\n=========================\n");
    text.extend(report.checks.iter().map(Check::text));
    let root = report.archive_root.as_ref().map_or_else(|| "(none)".to_owned(), |root| path(root.as_ref()));
    text += &format!("\nArchive root: {root}\n\n{}\n", table(&report.targets));
    text.extend(report.targets.iter().flat_map(Row::problems).map(|problem| Check::Fail(problem).text()));
    if report.are_archives_ready() {
        text += "All enabled targets have archive directories with seeded channel exports.\n";
    }
    text
}

/// What the checks come to.
pub(crate) fn conclusion(report: &Readiness) -> String {
    if report.ready {
        format!("\nOperator ready. Next:\n{SCRAPE}\n{CRON}")
    } else {
        failed("Operator not ready", &report.problems)
    }
}

/// The report of `verify-ready --disk-only`.
pub(crate) fn disk_only(report: &DiskOnly) -> String {
    let lines: String = report.checks.iter().map(Check::text).collect();
    if report.ready { lines + &format!("disk-only: ok (config {})\n", path(&report.config)) } else { lines }
}

fn failed(what: &str, problems: &[String]) -> String {
    format!("\n{what}: {} problem(s)\n{}", problems.len(), indented("  - ", &problems.join("\n")))
}

fn table(rows: &[Row]) -> String {
    let header = ["TARGET", "OUTPUT_DIR", "JSON", "SEEDED", "MAP", "STATUS"].map(str::to_owned);
    let cells = |row: &Row| {
        let none = if matches!(row.found, Found::Missing) { "0" } else { "-" };
        let count = |number: Option<usize>| number.map_or_else(|| none.to_owned(), |number| number.to_string());
        let [json, seeded, map] = [row.json, row.seeded, row.map].map(count);
        [row.name.clone(), row.target.shown_dir(), json, seeded, map, row.status.to_owned()]
    };
    let lines: Vec<[String; 6]> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    crate::text::table(&lines, [28, 40, 8, 8, 8, 0], 2..5)
}
