//! The handoff for programs. Within a schema fields are only added.

use crate::handoff::archives::{Row, RowState};
use crate::handoff::disk::Disk;
use crate::handoff::plan::Selection;
use crate::handoff::{End, Handoff, Readiness};
use crate::text::printable;
use serde::Serialize;
use std::path::Path;

/// `handoff`, `"schema": 1`.
#[derive(Serialize)]
pub(crate) struct HandoffJson {
    schema: u32,
    /// `complete`, `held`, `lock-unknown` or `failed`.
    verdict: &'static str,
    safe_to_scrape: bool,
    /// The one target that was asked for.
    target: Option<String>,
    channels: Vec<String>,
    #[serde(flatten)]
    ready: Facts,
    lock: crate::lock_status::json::Json,
}

/// `verify-ready`, `"schema": 1`.
#[derive(Serialize)]
pub(crate) struct ReadyJson {
    schema: u32,
    ready: bool,
    #[serde(flatten)]
    facts: Facts,
}

#[derive(Serialize)]
struct Facts {
    config: String,
    archive_root: Option<String>,
    problems: Vec<String>,
    notes: Vec<String>,
    disk: DiskJson,
    /// The compose program that was found.
    compose: Option<String>,
    /// Where a token was found.
    auth: Option<String>,
    targets: Vec<TargetJson>,
}

/// `verify-ready --disk-only`, `"schema": 1`.
#[derive(Serialize)]
pub(crate) struct DiskOnlyJson {
    schema: u32,
    ready: bool,
    config: String,
    problems: Vec<String>,
    disk: DiskJson,
}

#[derive(Serialize)]
struct DiskJson {
    min_free_mib: u64,
    file_systems: Vec<FileSystemJson>,
}

#[derive(Serialize)]
struct FileSystemJson {
    source: String,
    mount: String,
    total_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
}

#[derive(Serialize)]
struct TargetJson {
    name: String,
    output_dir: Option<String>,
    enabled: bool,
    /// Counts are null where nothing was counted.
    json: Option<u64>,
    seeded: Option<usize>,
    map: Option<usize>,
    status: &'static str,
}

impl Handoff<'_> {
    pub(crate) fn json(&self) -> HandoffJson {
        let (target, channels) = match &self.selection {
            Selection::All => (None, Vec::new()),
            Selection::One { target, channels } => (Some(printable(target.name.as_bytes())), channels.to_vec()),
        };
        HandoffJson {
            schema: 1,
            verdict: match self.end() {
                End::Complete => "complete",
                End::Held => "held",
                End::LockUnknown => "lock-unknown",
                End::Failed => "failed",
            },
            safe_to_scrape: self.end() == End::Complete,
            target,
            channels,
            ready: self.ready.facts(),
            lock: self.lock.json(),
        }
    }
}

impl Readiness<'_> {
    pub(crate) fn json(&self) -> ReadyJson {
        ReadyJson { schema: 1, ready: self.problems().is_empty(), facts: self.facts() }
    }

    fn facts(&self) -> Facts {
        let notes = self.compose_notes.iter().chain(&self.auth.notes).chain(&self.config.notes);
        Facts {
            config: self.config_path.to_string_lossy().into_owned(),
            archive_root: self.config.archive_root.as_ref().map(|root| root.path.to_string_lossy().into_owned()),
            problems: self.problems(),
            notes: notes.cloned().collect(),
            disk: disk_json(&self.disk),
            compose: self.compose.found.clone(),
            auth: self.auth.found.as_ref().map(|found| found.text()),
            targets: self.rows.iter().map(target_json).collect(),
        }
    }
}

pub(crate) fn disk_only(config: &Path, disk: &Disk, problems: &[String]) -> DiskOnlyJson {
    DiskOnlyJson {
        schema: 1,
        ready: problems.is_empty(),
        config: config.to_string_lossy().into_owned(),
        problems: problems.to_vec(),
        disk: disk_json(disk),
    }
}

fn disk_json(disk: &Disk) -> DiskJson {
    let file_systems = disk.file_systems.iter().map(|file_system| FileSystemJson {
        source: file_system.source.clone(),
        mount: file_system.mount.to_string_lossy().into_owned(),
        total_bytes: file_system.total,
        used_bytes: file_system.used,
        available_bytes: file_system.available,
    });
    DiskJson { min_free_mib: disk.need_mib, file_systems: file_systems.collect() }
}

fn target_json(row: &Row) -> TargetJson {
    let archive = match &row.state {
        RowState::Looked(archive) => Some(archive),
        RowState::Disabled | RowState::NoOutputDir | RowState::Missing => None,
    };
    TargetJson {
        name: printable(row.target.name.as_bytes()),
        output_dir: row.target.output_dir.as_ref().map(|folder| folder.path.to_string_lossy().into_owned()),
        enabled: row.target.is_enabled,
        json: archive.map(|archive| archive.json),
        seeded: archive.map(|archive| archive.seeded()),
        map: archive.map(|archive| archive.map),
        status: row.status(),
    }
}
