//! Which targets and channels a scrape would work on.

use crate::config::targets::{ScrapeConfig, Target};
use crate::handoff::archives::{Found, Row, is_channel_id};
use crate::text::{path, printable, shell_word};
use anyhow::bail;
use std::fmt::Write;
use std::path::Path;

/// Which targets were asked for.
pub(crate) enum Selection<'a> {
    /// All that are enabled.
    All,
    One {
        target: &'a Target,
        channels: &'a [String],
    },
}

impl<'a> Selection<'a> {
    /// Resolves `--target` and `--channel`.
    pub(crate) fn new(
        name: Option<&str>,
        channels: &'a [String],
        config: &'a ScrapeConfig,
    ) -> anyhow::Result<Selection<'a>> {
        let Some(name) = name else {
            if !channels.is_empty() {
                bail!("--channel needs a --target\nhint: name the target that the channel belongs to");
            }
            return Ok(Selection::All);
        };
        let Some(target) = config.targets.iter().find(|target| target.name == name) else {
            bail!("no target is called `{}`{}", printable(name.as_bytes()), closest(name, config));
        };
        if !target.is_enabled {
            let why = target.disabled_reason.as_deref().map(|why| format!(": {}", printable(why.as_bytes())));
            bail!(
                "target `{}` is disabled{}\nhint: set `enabled` to true in the config to scrape it",
                printable(name.as_bytes()),
                why.unwrap_or_default()
            );
        }
        for channel in channels {
            if !is_channel_id(channel) {
                bail!("`{}` is not a channel id\nhint: an id has 16 to 22 digits", printable(channel.as_bytes()));
            }
            if !target.channel_ids.is_empty() && !target.channel_ids.contains(channel) {
                bail!(outside(channel, target, "its channel_ids in the config"));
            }
        }
        Ok(Selection::One { target, channels })
    }

    /// Without `channel_ids`, refuses channels that the archive has no export of.
    pub(crate) fn check_seeded(&self, rows: &[Row]) -> anyhow::Result<()> {
        let Selection::One { target, channels } = self else { return Ok(()) };
        if !target.channel_ids.is_empty() {
            return Ok(());
        }
        let row = rows.iter().find(|row| std::ptr::eq(row.target, *target));
        // An archive that is missing or unreadable is reported as such.
        let Some(Found::Archive(archive)) = row.map(|row| &row.found) else { return Ok(()) };
        match channels.iter().find(|channel| archive.faults.is_empty() && !archive.has(channel)) {
            Some(channel) => bail!(outside(channel, target, "the channels that its archive has exports of")),
            None => Ok(()),
        }
    }

    /// The plan with its title, as the shell originals print it.
    pub(crate) fn text(&self, title: &str, config_path: &Path, config: &ScrapeConfig) -> String {
        let mut text = format!("=== {title} run plan ===\nConfig: {}\n", path(config_path));
        let targets: Vec<&Target> = match self {
            Selection::All => config.enabled().collect(),
            Selection::One { target, .. } => vec![target],
        };
        let how = match self {
            Selection::All => "enabled, all will run",
            Selection::One { .. } => "selected",
        };
        _ = writeln!(text, "Targets ({} {how}):", targets.len());
        for target in targets {
            _ = writeln!(text, "  - {} → {}", printable(target.name.as_bytes()), target.shown_dir());
        }
        text
    }

    /// The arguments that select the same in the scraper.
    pub(crate) fn arguments(&self) -> String {
        let Selection::One { target, channels } = self else { return String::new() };
        let channels = channels.iter().map(|channel| format!(" --channel {channel}"));
        // A name may start with a dash.
        let dash = if target.name.starts_with('-') { "=" } else { " " };
        format!(" --target{dash}{}", shell_word(&target.name)) + &channels.collect::<String>()
    }
}

impl Target {
    /// The folder as written in the config, made safe to print.
    pub(crate) fn shown_dir(&self) -> String {
        self.output_dir.as_ref().map_or_else(|| "-".to_owned(), |folder| printable(folder.written.as_bytes()))
    }
}

fn outside(channel: &str, target: &Target, of: &str) -> String {
    format!(
        "channel {channel} is not among {of} (target `{0}`)\nhint: the scraper would refuse it too; \
         name a channel of `{0}`",
        printable(target.name.as_bytes())
    )
}

/// A hint naming the target that was probably meant.
fn closest(name: &str, config: &ScrapeConfig) -> String {
    let likeness = |target: &&Target| (strsim::jaro_winkler(name, &target.name) * 1e6) as u64;
    match config.enabled().max_by_key(likeness) {
        Some(target) if likeness(&target) > 700_000 => {
            format!("\nhint: did you mean `{}`?", printable(target.name.as_bytes()))
        }
        _ => {
            let names: Vec<String> =
                config.enabled().take(10).map(|target| format!("`{}`", printable(target.name.as_bytes()))).collect();
            format!("\nhint: the enabled ones are {}", if names.is_empty() { "none".into() } else { names.join(", ") })
        }
    }
}
