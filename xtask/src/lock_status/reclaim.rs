//! `lock-status --reclaim-stale`: removes the sidecar that a killed scrape left, and never the lock file.

use crate::lock::guard::{Guard, Refusal};
use crate::lock::judge::LockState;
use crate::lock::sidecar::{Claim, Writer};
use crate::lock_status::report::LockReport;
use crate::lock_status::text;
use crate::output::Paint;
use crate::text::path;
use crate::verdict::Verdict;

/// Reclaims a stale sidecar. Gives the text to print and the answer.
pub(crate) fn reclaim(report: &LockReport, paint: Paint) -> anyhow::Result<(String, Verdict)> {
    let ends = |line: &str, verdict| Ok((text::head(report) + line, verdict));
    let nothing = "state: free (nothing to reclaim)\n";
    let pid = match &report.judgement.state {
        LockState::Held | LockState::Unknown(_) => return Ok((text::whole(report, paint), report.verdict())),
        LockState::FreeNoFile | LockState::FreeNotHeld => match &report.seen.claim {
            // A scrape that has just released the lock, or that runs elsewhere.
            Claim::Recorded(recorded)
                if matches!(recorded.writer, Writer::Running | Writer::OtherHost(_) | Writer::Hidden) =>
            {
                anyhow::bail!(
                    "the sidecar is not known to be stale: pid {} may still run\n\
                     hint: nothing was removed; `lock-status` without --reclaim-stale says what is known",
                    recorded.pid
                )
            }
            Claim::Unreadable(why) => anyhow::bail!("the sidecar cannot be read: {why}\nhint: nothing was removed"),
            _ => return ends(nothing, Verdict::Yes),
        },
        LockState::Stale(pid) => *pid,
    };
    // The lock is held until the sidecar is gone: no scrape can start in between.
    match Guard::acquire_existing(&report.lock).and_then(|guard| guard.reclaim(pid)) {
        // Another reclaimer was first, or a scrape that came and went.
        Ok(None) => ends(nothing, Verdict::Yes),
        Ok(Some(removed)) => ends(
            &format!("removed stale lock meta: {}\nstate: free (stale lock reclaimed)\n", path(&removed)),
            Verdict::Yes,
        ),
        Err(Refusal::Held) => ends("state: held (active scrape)\n", Verdict::No),
        Err(Refusal::Failed(why)) => anyhow::bail!("{why}\nhint: look again with `lock-status`"),
    }
}
