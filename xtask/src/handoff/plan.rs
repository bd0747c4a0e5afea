//! Which targets and channels a scrape would work on.

use crate::config::channel::channel_id;
use crate::config::targets::{ScrapeConfig, Target};
use crate::handoff::archive::Scraped;
use crate::text::{path, printable, quoted, shell_word};
use anyhow::bail;
use std::path::Path;

/// What was asked for.
pub(crate) struct Selection<'a> {
    pub(crate) config: &'a ScrapeConfig,
    pub(crate) asked: Asked<'a>,
    /// Some of the only target's channels, or none for all of them.
    pub(crate) channels: &'a [String],
}

/// Which targets were asked for.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// All targets that are enabled.
    Enabled,
    /// The one that was named.
    Named(&'a Target),
    /// No target: `--disk-only` knows none.
    Nothing,
}

impl<'a> Selection<'a> {
    /// Resolves `--target` and `--channel`.
    ///
    /// # Errors
    /// There is no such target or channel: the scraper would refuse them too.
    pub(crate) fn new(
        config: &'a ScrapeConfig,
        target: Option<&str>,
        channels: &'a [String],
    ) -> anyhow::Result<Selection<'a>> {
        let asked = match target {
            None => Asked::Enabled,
            Some(name) => match config.targets.iter().find(|target| target.name == name) {
                Some(target) => Asked::Named(target),
                None => bail!("no target is called {}\nhint: {}", quoted(name), closest(name, config)),
            },
        };
        let selection = Selection { config, asked, channels };
        selection.check_channels()?;
        Ok(selection)
    }

    fn check_channels(&self) -> anyhow::Result<()> {
        let Some(first) = self.channels.first() else { return Ok(()) };
        let Some(target) = self.only_target() else {
            bail!("--channel {} needs a --target\nhint: {}", printable(first), names(self.config));
        };
        for channel in self.channels {
            if channel_id(channel.as_bytes()).is_none() {
                bail!("{} is not a channel id\nhint: an id has 16 to 22 digits", quoted(channel));
            }
            if !target.is_dms && !target.channel_ids.is_empty() && !target.channel_ids.contains(channel) {
                bail!(outside(channel, target, "its channel_ids in the config"));
            }
        }
        Ok(())
    }

    /// Refuses channels that an archive has no export of, where its exports decide.
    pub(crate) fn check_seeded(&self, ids: Option<&[u128]>) -> anyhow::Result<()> {
        // Without any, Discord is asked. An archive that is missing or unreadable is reported as such.
        let (Some(target), Some(ids @ [_, ..])) = (self.only_target(), ids) else { return Ok(()) };
        let is_seeded = |channel: &String| channel_id(channel.as_bytes()).is_some_and(|id| ids.contains(&id));
        match self.channels.iter().find(|channel| !is_seeded(channel)) {
            Some(channel) if !target.is_dms && target.channel_ids.is_empty() => {
                bail!(outside(channel, target, "the channels that its archive has exports of"))
            }
            _ => Ok(()),
        }
    }

    /// The targets that will be scraped.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &'a Target> {
        let (config, asked) = (self.config, self.asked);
        config.targets.iter().filter(move |target| asked.includes(target))
    }

    /// The target that was named, or the only one that is enabled.
    pub(crate) fn only_target(&self) -> Option<&'a Target> {
        let mut targets = self.targets();
        targets.next().filter(|_| targets.next().is_none())
    }

    /// The channels of a target that will be scraped; all where its archive or Discord decides.
    pub(crate) fn channels_of(&self, target: &Target) -> Scraped {
        let ids = match self.channels {
            [] if target.is_dms || target.channel_ids.is_empty() => return Scraped::All,
            [] => &target.channel_ids,
            channels => channels,
        };
        Scraped::Only(ids.iter().filter_map(|id| channel_id(id.as_bytes())).collect())
    }

    /// The plan with its title, as the shell originals print it.
    pub(crate) fn text(&self, title: &str, config_path: &Path) -> String {
        let is_named = matches!(self.asked, Asked::Named(_));
        let how = if is_named { "selected" } else { "enabled, all will run" };
        let line = |target: &Target| {
            let limit = target.container_memory.as_ref().filter(|_| is_named);
            let limit = limit.map(|limit| format!(" (container_memory: {})", printable(limit)));
            format!("  - {} → {}{}\n", printable(&target.name), shown_dir(target), limit.unwrap_or_default())
        };
        let (lines, number): (String, usize) = (self.targets().map(line).collect(), self.targets().count());
        format!("=== {title} run plan ===\nConfig: {}\nTargets ({number} {how}):\n{lines}", path(config_path))
    }

    /// The arguments that select the same in the scraper.
    pub(crate) fn arguments(&self) -> String {
        let channels: String = self.channels.iter().map(|channel| format!(" --channel {channel}")).collect();
        match self.asked {
            Asked::Named(target) => format!(" {}{channels}", target_option(target)),
            Asked::Enabled | Asked::Nothing => channels,
        }
    }
}

impl Asked<'_> {
    pub(crate) fn includes(&self, target: &Target) -> bool {
        match self {
            Asked::Enabled => target.is_enabled,
            Asked::Named(named) => std::ptr::eq(*named, target),
            Asked::Nothing => false,
        }
    }
}

/// The option that selects a target.
pub(crate) fn target_option(target: &Target) -> String {
    // Always two words: the scraper knows no `--target=NAME`.
    format!("--target {}", shell_word(&target.name))
}

/// The folder as written in the config, made safe to print.
pub(crate) fn shown_dir(target: &Target) -> String {
    target.output_dir.as_ref().map_or_else(|| "-".to_owned(), |folder| printable(&folder.written))
}

fn outside(channel: &str, target: &Target, of: &str) -> String {
    let target = quoted(&target.name);
    format!(
        "channel {channel} is not among {of} (target {target})\nhint: the scraper would refuse it too; name a \
         channel of {target}"
    )
}

/// Names the target that was probably meant.
fn closest(name: &str, config: &ScrapeConfig) -> String {
    let likeness = |target: &&Target| (strsim::jaro_winkler(name, &target.name) * 1e6) as u64;
    let closest = config.targets.iter().max_by_key(likeness).filter(|target| likeness(target) > 700_000);
    closest.map_or_else(|| names(config), |target| format!("did you mean {}?", quoted(&target.name)))
}

fn names(config: &ScrapeConfig) -> String {
    match config.enabled().take(10).map(|target| quoted(&target.name)).collect::<Vec<_>>() {
        names if names.is_empty() => "no target is enabled".to_owned(),
        names => format!("the enabled targets are {}", names.join(", ")),
    }
}
