//! `lock-status --reclaim-stale`: removes the sidecar that a killed scrape left, and
//! never the lock file.

use crate::Verdict;
use crate::lock::guard::{Guard, Refusal};
use crate::lock::state::LockState;
use crate::lock::{Claim, Writer};
use crate::lock_status::LockReport;
use crate::text::path;

impl LockReport {
    /// Reclaims what is stale; the text to print and the answer.
    pub(crate) fn reclaim(&self, colour: bool) -> anyhow::Result<(String, Verdict)> {
        match &self.judgement.state {
            LockState::Stale(pid) => self.reclaim_from(*pid),
            LockState::Held | LockState::Unknown(_) => Ok((self.text(colour), self.verdict())),
            LockState::FreeNoFile | LockState::FreeNotHeld => match &self.facts.claim {
                // It may be a scrape's that has only let go of the lock, or runs elsewhere.
                Claim::Recorded(recorded)
                    if matches!(recorded.writer, Writer::Running(_) | Writer::Elsewhere(_) | Writer::OutOfSight) =>
                {
                    anyhow::bail!(
                        "the sidecar is not known to be stale: pid {} may still run\n\
                         hint: nothing was removed; `lock-status` without --reclaim-stale tells what is known",
                        recorded.pid
                    )
                }
                _ => Ok((self.head() + "state: free (nothing to reclaim)\n", Verdict::Yes)),
            },
        }
    }

    fn reclaim_from(&self, pid: u64) -> anyhow::Result<(String, Verdict)> {
        // The lock is held until the sidecar is gone: no scrape can start in between.
        match Guard::acquire_existing(&self.lock).and_then(|guard| guard.reclaim(pid)) {
            // Another reclaimer, or a scrape that came and went, was first.
            Ok(None) => Ok((self.head() + "state: free (nothing to reclaim)\n", Verdict::Yes)),
            Ok(Some(removed)) => {
                let told = format!("removed stale lock meta: {}\nstate: free (stale lock reclaimed)\n", path(&removed));
                Ok((self.head() + &told, Verdict::Yes))
            }
            Err(Refusal::Held) => Ok((self.head() + "state: held (active scrape)\n", Verdict::No)),
            Err(Refusal::Failed(why)) => anyhow::bail!("{why}\nhint: look again with `lock-status`"),
        }
    }
}
