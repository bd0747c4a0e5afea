//! Which targets and channels a scrape would work on.

use crate::cli;
use crate::config::targets::{ScrapeConfig, Target};
use crate::handoff::archives::{Row, channel_id};
use crate::text::{path, printable, shell_word};
use anyhow::bail;
use std::path::Path;

/// What was asked for.
pub(crate) struct Selection<'a> {
    /// None: all targets that are enabled.
    pub(crate) target: Option<&'a Target>,
    /// Some of the target's channels, or none for all of them.
    pub(crate) channels: &'a [String],
}

impl<'a> Selection<'a> {
    /// Resolves `--target` and `--channel`.
    pub(crate) fn new(asked: &'a cli::Handoff, config: &'a ScrapeConfig) -> anyhow::Result<Selection<'a>> {
        let channels = &asked.channels[..];
        let Some(name) = &asked.target else {
            if !channels.is_empty() {
                bail!("--channel needs a --target\nhint: name the target that the channel belongs to");
            }
            return Ok(Selection { target: None, channels });
        };
        let shown = printable(name.as_bytes());
        let Some(target) = config.targets.iter().find(|target| target.name == *name) else {
            bail!("no target is called `{shown}`\nhint: {}", closest(name, config));
        };
        if !target.is_enabled {
            let why = target.disabled_reason.as_deref().map(|why| format!(": {}", printable(why.as_bytes())));
            let why = why.unwrap_or_default();
            bail!("target `{shown}` is disabled{why}\nhint: set `enabled` to true in the config to scrape it");
        }
        for channel in channels {
            if channel_id(channel.as_bytes()).is_none() {
                bail!("`{}` is not a channel id\nhint: an id has 16 to 22 digits", printable(channel.as_bytes()));
            }
            if !target.channel_ids.is_empty() && !target.channel_ids.contains(channel) {
                bail!(outside(channel, target, "its channel_ids in the config"));
            }
        }
        Ok(Selection { target: Some(target), channels })
    }

    /// Without `channel_ids`, refuses channels that the archive has no export of.
    pub(crate) fn check_seeded(&self, rows: &[Row]) -> anyhow::Result<()> {
        let Some(target) = self.target.filter(|target| target.channel_ids.is_empty()) else { return Ok(()) };
        let archive = rows.iter().find(|row| std::ptr::eq(row.target, target)).and_then(|row| row.archive.as_ref());
        // One that is missing or unreadable is reported as such.
        let Some(archive) = archive.filter(|archive| archive.faults.is_empty()) else { return Ok(()) };
        match self.channels.iter().find(|channel| !archive.has(channel)) {
            Some(channel) => bail!(outside(channel, target, "the channels that its archive has exports of")),
            None => Ok(()),
        }
    }

    /// The plan with its title, as the shell originals print it.
    pub(crate) fn text(&self, title: &str, config_path: &Path, config: &ScrapeConfig) -> String {
        let (targets, how) = match self.target {
            None => (config.enabled().collect(), "enabled, all will run"),
            Some(target) => (vec![target], "selected"),
        };
        let line = |target: &&Target| format!("  - {} → {}\n", printable(target.name.as_bytes()), shown_dir(target));
        let lines: String = targets.iter().map(line).collect();
        format!("=== {title} run plan ===\nConfig: {}\nTargets ({} {how}):\n{lines}", path(config_path), targets.len())
    }

    /// The arguments that select the same in the scraper.
    pub(crate) fn arguments(&self) -> String {
        let Some(target) = self.target else { return String::new() };
        let channels: String = self.channels.iter().map(|channel| format!(" --channel {channel}")).collect();
        // A name may start with a dash.
        let dash = if target.name.starts_with('-') { "=" } else { " " };
        format!(" --target{dash}{}{channels}", shell_word(&target.name))
    }
}

/// The folder as written in the config, made safe to print.
pub(crate) fn shown_dir(target: &Target) -> String {
    target.output_dir.as_ref().map_or_else(|| "-".to_owned(), |folder| printable(folder.written.as_bytes()))
}

fn outside(channel: &str, target: &Target, of: &str) -> String {
    let target = printable(target.name.as_bytes());
    format!(
        "channel {channel} is not among {of} (target `{target}`)\nhint: the scraper would refuse it too; name a \
         channel of `{target}`"
    )
}

/// Names the target that was probably meant.
fn closest(name: &str, config: &ScrapeConfig) -> String {
    let likeness = |target: &&Target| (strsim::jaro_winkler(name, &target.name) * 1e6) as u64;
    let shown = |target: &Target| format!("`{}`", printable(target.name.as_bytes()));
    match config.enabled().max_by_key(likeness) {
        None => "the enabled ones are none".to_owned(),
        Some(target) if likeness(&target) > 700_000 => format!("did you mean {}?", shown(target)),
        Some(_) => {
            let names: Vec<String> = config.enabled().take(10).map(shown).collect();
            format!("the enabled ones are {}", names.join(", "))
        }
    }
}
