//! What a salvage did, leftover by leftover. Serialized, this is the JSON report: fields are only added.

use crate::config::targets;
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
    output_dir: Option<String>,
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
        let failed =
            |target: &Target| target.error.is_some() || target.leftovers().any(|left| left.outcome.has_failed());
        let complete = !targets.iter().any(failed);
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
    pub(crate) fn new(target: &targets::Target, channels: Result<Vec<Channel>, String>) -> Target {
        let folder = target.output_dir.as_ref().map(|folder| text::whole(&folder.path.to_string_lossy()));
        let (channels, error) = channels.map_or_else(|why| (Vec::new(), Some(why)), |channels| (channels, None));
        Target { name: text::whole(&target.name), output_dir: folder, channels, error }
    }

    fn leftovers(&self) -> impl Iterator<Item = &Leftover> {
        self.channels.iter().flat_map(|channel| &channel.leftovers)
    }

    /// The shell original's lines, and ours.
    fn text(&self, is_dry_run: bool) -> String {
        let (name, channels) = (printable(&self.name), self.channels.len());
        let folder = printable(self.output_dir.as_deref().unwrap_or("-"));
        let mut text = format!(
            "Target '{name}': salvaging stale temp exports for {channels} channel(s) under {folder} (no Discord export).\n"
        );
        text += &self.channels.iter().map(|channel| channel.text(is_dry_run)).collect::<String>();
        match &self.error {
            Some(why) => text + &format!("  FAIL: {why}\n"),
            None => text + &format!("Target '{name}': salvage completed.\n"),
        }
    }
}

impl Channel {
    fn text(&self, is_dry_run: bool) -> String {
        let mut text: String = self.leftovers.iter().map(|leftover| leftover.text(is_dry_run)).collect();
        if !self
            .leftovers
            .iter()
            .any(|leftover| matches!(&leftover.outcome, Outcome::Salvaged(done) if done.added() > 0))
        {
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

impl Outcome {
    fn has_failed(&self) -> bool {
        matches!(self, Outcome::Failed { .. })
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
            Some(_) if is_dry_run => format!("  no new messages: {from}\n"),
            Some(_) => format!("  Stale temp merged with no new messages, discarding: {from}\n"),
            None => format!("  {word} {archive} ({} from stale temp, new archive)\n", count(after, "message")),
        };
        text += &self
            .original
            .iter()
            .map(|kept| format!("  the archive as it was: {}\n", printable(kept)))
            .collect::<String>();
        text + &self.kept.iter().map(|why| format!("  kept: {from}: {why}\n")).collect::<String>()
    }
}
