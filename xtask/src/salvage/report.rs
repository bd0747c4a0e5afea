//! What a salvage did, leftover by leftover. Serialized, this is the JSON report: fields are only added.

use crate::config::targets::OutputDir;
use crate::target::Resolved;
use crate::text::{self, count, path, printable};
use crate::verdict::Verdict;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
pub(crate) struct Report {
    schema: u32,
    /// Nothing failed.
    complete: bool,
    dry_run: bool,
    #[serde(serialize_with = "crate::text::lossy")]
    config: PathBuf,
    targets: Vec<Target>,
}

#[derive(Serialize)]
pub(crate) struct Target {
    name: String,
    output_dir: String,
    channels: Vec<Channel>,
    /// Why nothing was looked at.
    error: Option<String>,
}

/// A channel that has leftovers, or was named.
#[derive(Serialize)]
pub(crate) struct Channel {
    pub(crate) channel: String,
    pub(crate) leftovers: Vec<Leftover>,
}

#[derive(Serialize)]
pub(crate) struct Leftover {
    /// Where it was; None where the archive itself was to be repaired.
    pub(crate) path: Option<String>,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

#[derive(Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub(crate) enum Outcome {
    Salvaged(Salvaged),
    /// Written too recently: it may be in use.
    Active {
        age_seconds: u64,
    },
    /// There is nothing in it that could go into an archive.
    Left {
        why: String,
    },
    Failed {
        why: String,
    },
}

#[derive(Serialize)]
pub(crate) struct Salvaged {
    #[serde(serialize_with = "crate::text::lossy")]
    pub(crate) archive: PathBuf,
    /// Number of messages; None without an archive.
    pub(crate) before: Option<usize>,
    pub(crate) after: usize,
    /// Why the leftover stays nevertheless.
    pub(crate) kept: Option<String>,
    /// The archive as it was before it was repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) original: Option<String>,
}

impl Report {
    pub(crate) fn new(resolved: &Resolved, dry_run: bool, targets: Vec<Target>) -> Report {
        let complete = targets.iter().all(Target::is_complete);
        Report { schema: 1, complete, dry_run, config: resolved.source.path.clone(), targets }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        if self.complete { Verdict::Yes } else { Verdict::No }
    }

    pub(crate) fn text(&self) -> String {
        self.targets.iter().map(|target| target.text(self.dry_run)).collect()
    }
}

impl Target {
    pub(crate) fn new(name: &str, folder: &OutputDir, channels: Result<Vec<Channel>, String>) -> Target {
        let (channels, error) = channels.map_or_else(|why| (Vec::new(), Some(why)), |channels| (channels, None));
        Target { name: text::whole(name), output_dir: text::whole(&folder.path.to_string_lossy()), channels, error }
    }

    fn is_complete(&self) -> bool {
        let mut leftovers = self.channels.iter().flat_map(|channel| &channel.leftovers);
        self.error.is_none()
            && leftovers.all(|leftover| match &leftover.outcome {
                Outcome::Salvaged(done) => done.kept.is_none(),
                Outcome::Active { .. } | Outcome::Left { .. } => true,
                Outcome::Failed { .. } => false,
            })
    }

    /// The shell original's lines, and ours.
    fn text(&self, is_dry_run: bool) -> String {
        let (name, folder, channels) = (printable(&self.name), printable(&self.output_dir), self.channels.len());
        let mut text = format!(
            "Target '{name}': salvaging stale temp exports for {channels} channel(s) under {folder} (no Discord export).\n"
        );
        text += &self.channels.iter().map(|channel| channel.text(is_dry_run)).collect::<String>();
        if let Some(why) = &self.error {
            text += &format!("  FAIL: {why}\n");
        }
        let how = if self.is_complete() { "completed" } else { "not complete" };
        text + &format!("Target '{name}': salvage {how}.\n")
    }
}

impl Channel {
    fn text(&self, is_dry_run: bool) -> String {
        let mut text: String = self.leftovers.iter().map(|leftover| leftover.text(is_dry_run)).collect();
        let adds = |leftover: &Leftover| matches!(&leftover.outcome, Outcome::Salvaged(done) if done.added() > 0);
        if !self.leftovers.iter().any(adds) {
            text += &format!("  No salvage merge for channel {}.\n", self.channel);
        }
        text
    }
}

impl Leftover {
    fn text(&self, is_dry_run: bool) -> String {
        let from = printable(self.path.as_deref().unwrap_or("the archive"));
        match &self.outcome {
            Outcome::Salvaged(done) => done.text(&from, is_dry_run),
            Outcome::Active { age_seconds } => {
                format!("  Stale temp still active (written {age_seconds} s ago), skipping salvage: {from}\n")
            }
            Outcome::Left { why } => format!("  left: {from}: {why}\n"),
            Outcome::Failed { why } => format!("  FAIL: {from}: {why}\n"),
        }
    }
}

impl Salvaged {
    fn added(&self) -> usize {
        self.after - self.before.unwrap_or_default()
    }

    fn text(&self, from: &str, is_dry_run: bool) -> String {
        let (archive, after, added) = (path(&self.archive), self.after, self.added());
        let word = if is_dry_run { "WOULD SALVAGE" } else { "SALVAGED" };
        let mut text = match self.before {
            Some(before) if added > 0 => {
                format!("  {word} {archive} (+{added} messages from stale temp, {before} → {after})\n")
            }
            Some(_) if is_dry_run || self.kept.is_some() => format!("  no new messages: {from}\n"),
            Some(_) if self.original.is_some() => format!("  REPAIRED {archive} ({})\n", count(after, "message")),
            Some(_) => format!("  Stale temp merged with no new messages, discarding: {from}\n"),
            None => format!("  {word} {archive} ({} from stale temp, new archive)\n", count(after, "message")),
        };
        if let Some(original) = &self.original {
            text += &format!("  the archive as it was: {}\n", printable(original));
        }
        if let Some(why) = &self.kept {
            text += &format!("  FAIL: kept: {from}: {why}\n");
        }
        text
    }
}
