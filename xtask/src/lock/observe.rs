//! Everything that can be seen of the lock, before it is judged.

use crate::lock::holders::{Holder, Search};
use crate::lock::kernel::{self, KernelLock, Sighting};
use crate::lock::sidecar::{Claim, Descriptors, Recorded, Writer};
use crate::lock::unlinked;
use serde::{Serialize, Serializer};
use std::path::Path;
use std::time::SystemTime;

/// What was seen of a lock and its sidecar.
#[derive(Debug, Serialize)]
pub(crate) struct Observation {
    #[serde(rename = "recorded", serialize_with = "recorded")]
    pub(crate) claim: Claim,
    #[serde(flatten)]
    pub(crate) sighting: Sighting,
    /// There is a file at the lock's path.
    #[serde(skip)]
    pub(crate) has_file: bool,
    /// The lock's folder exists.
    #[serde(skip)]
    pub(crate) has_folder: bool,
    #[serde(skip)]
    pub(crate) looked_at: SystemTime,
}

fn recorded<S: Serializer>(claim: &Claim, serializer: S) -> Result<S::Ok, S::Error> {
    claim.recorded().serialize(serializer)
}

impl Observation {
    /// Whether the recorded process runs and yet is certainly not one of the holders.
    pub(crate) fn denies(&self, recorded: &Recorded) -> bool {
        let Search { holders, is_complete } = &self.sighting.search;
        let is_holder = |holder: &Holder| u64::try_from(holder.pid) == Ok(recorded.pid);
        let has_others = *is_complete && !holders.is_empty() && !holders.iter().any(is_holder);
        recorded.writer.is_running() == Some(true) && has_others
    }
}

/// Looks at the lock at `lock`, an absolute path, and at its sidecar. Takes, creates, writes and signals
/// nothing.
pub(crate) fn observe(lock: &Path) -> Observation {
    let mut sighting = kernel::look(lock);
    let has_file = sighting.lock != KernelLock::NoFile;
    let mut claim = Claim::read(lock);
    // The runner never removes its lock file: if there is none, somebody may have deleted it.
    if sighting.lock == KernelLock::NoFile || (sighting.lock == KernelLock::NotHeld && claim.has_sidecar()) {
        look_for_unlinked(lock, &mut sighting, &mut claim);
    }
    Observation {
        has_file: has_file || sighting.lock == KernelLock::Held,
        has_folder: has_file || lock.parent().is_none_or(Path::is_dir),
        looked_at: SystemTime::now(),
        claim,
        sighting,
    }
}

fn look_for_unlinked(lock: &Path, sighting: &mut Sighting, claim: &mut Claim) {
    let found = unlinked::search(lock, claim);
    if found.is_taken || !found.search.holders.is_empty() {
        let again = kernel::look(lock);
        if again.lock == KernelLock::Held {
            *sighting = again;
            return;
        }
    }
    if !found.search.holders.is_empty() {
        *sighting = Sighting::unlinked(found.search);
        return;
    }
    sighting.search.is_complete = found.search.is_complete;
    if let Claim::Recorded(Recorded { writer: Writer::Running(descriptors), .. }) = claim {
        *descriptors = found.recorded_unreadable.map_or(Descriptors::NoLock, Descriptors::Unreadable);
    }
}
