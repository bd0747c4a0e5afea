//! The reports as text: the shell originals' lines, byte for byte, and ours after them.

use crate::handoff::archives::Row;
use crate::handoff::check::Check;
use crate::handoff::plan::shown_dir;
use crate::handoff::report::{Conclusion, Handoff, Readiness, Summary};
use crate::lock_status;
use crate::output::Paint;
use crate::text::{indented, path};
use crate::verdict::Verdict;

/// What to run next, in the host runner's checkout.
const SCRAPE: &str = "  ./scripts/run-documents-scrape.sh";
const CRON: &str = "  ./scripts/setup-cron.sh --dry-run\n";

/// The whole handoff.
pub(crate) fn handoff(report: &Handoff, disk_table: Option<String>, paint: Paint) -> String {
    let ready = &report.ready;
    let config = &ready.summary.config;
    let plan = |title: &str| report.selection.text(title, config, ready.scrape_config);
    let mut text = format!("Operator handoff\n================\nconfig: {}\n\n", path(config));
    text += &(plan("Operator handoff") + "\n");
    text.extend(disk_table.map(|table| format!("Disk summary\n============\n{table}\n")));
    text += &readiness(ready);
    if ready.summary.ready {
        text += &conclusion(&ready.summary);
    }
    text += &format!("\n{}\n", lock_status::text::whole(&report.lock, paint));
    text += match report.lock.verdict() {
        Verdict::Yes => "",
        Verdict::No => {
            "WARN: scrape lock is held; wait for the active scrape or confirm it is stale before starting another \
             run.\n\n"
        }
        Verdict::Unknown | Verdict::Code(_) => {
            "WARN: whether the scrape lock is held is unknown; do not start a run before it is known.\n\n"
        }
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
        Conclusion::Failed => return text + &failed("Handoff failed", &ready.summary.problems),
    };
    text + &format!("\n{start}\n{commands}")
}

/// The readiness checks, without a conclusion.
pub(crate) fn readiness(report: &Readiness) -> String {
    let mut text = String::from("Operator readiness checks\n=========================\n");
    text.extend(report.summary.checks.iter().map(Check::text));
    let root = report.archive_root.as_ref().map_or_else(|| "(none)".to_owned(), |root| path(root.as_ref()));
    text += &format!("\nArchive root: {root}\n\n{}\n", table(&report.targets));
    text.extend(report.targets.iter().flat_map(|row| &row.problems).map(|problem| Check::Fail(problem.clone()).text()));
    if report.are_archives_ready() {
        text += "All enabled targets have archive directories with seeded channel exports.\n";
    }
    text
}

/// What the checks come to.
pub(crate) fn conclusion(report: &Summary) -> String {
    if report.ready {
        format!("\nOperator ready. Next:\n{SCRAPE}\n{CRON}")
    } else {
        failed("Operator not ready", &report.problems)
    }
}

/// The report of `verify-ready --disk-only`.
pub(crate) fn disk_only(report: &Summary) -> String {
    let lines: String = report.checks.iter().map(Check::text).collect();
    if report.ready { lines + &format!("disk-only: ok (config {})\n", path(&report.config)) } else { lines }
}

fn failed(what: &str, problems: &[String]) -> String {
    format!("\n{what}: {} problem(s)\n{}", problems.len(), indented("  - ", &problems.join("\n")))
}

fn table(rows: &[Row]) -> String {
    let header = ["TARGET", "OUTPUT_DIR", "JSON", "SEEDED", "MAP", "STATUS"].map(str::to_owned);
    let cells = |row: &Row| {
        // A folder that does not exist has nothing in it.
        let none = if row.target.is_enabled && row.target.output_dir.is_some() { "0" } else { "-" };
        let count = |number: Option<usize>| number.map_or_else(|| none.to_owned(), |number| number.to_string());
        let [json, seeded, map] = [row.json, row.seeded, row.map].map(count);
        [row.name.clone(), shown_dir(row.target), json, seeded, map, row.status.to_owned()]
    };
    let lines: Vec<[String; 6]> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    crate::text::table(&lines, [28, 40, 8, 8, 8, 0], 2..5)
}
