//! The leftovers of one archive, one after the other, the oldest first: read, merged, removed.

use crate::config::channel::{channel_id, channel_text};
use crate::config::targets::OutputDir;
use crate::output::Progress;
use crate::salvage::commit::{is_same, is_unwritten, replace};
use crate::salvage::export::{Channel, Ending, Export};
use crate::salvage::leftovers::{self, Destinations, Leftover};
use crate::salvage::merge::Merged;
use crate::salvage::message::time_key;
use crate::salvage::report::{self, Outcome, Salvaged};
use crate::sys::file::{Links, ReadError, open_folder, open_in, open_regular, plain};
use crate::sys::signals::Signals;
use crate::text::{path, size, whole};
use rustix::fs::{AtFlags, Dir, statat, unlinkat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What was asked for.
pub(crate) struct Asked<'a> {
    pub(crate) target: Option<&'a str>,
    pub(crate) channels: &'a [String],
    pub(crate) is_dry_run: bool,
    pub(crate) repairs: bool,
}

/// What a salvage works with.
pub(crate) struct Salvage<'a> {
    pub(crate) asked: &'a Asked<'a>,
    /// A leftover that was written later than so long ago is left alone.
    pub(crate) active_for: Option<Duration>,
    pub(crate) cancel: &'a Signals,
    pub(crate) progress: &'a Progress,
}

/// What stops the salvage of one leftover.
enum Stop {
    Left(String),
    Failed(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Stop {
        Stop::Failed(why)
    }
}

impl Salvage<'_> {
    /// Salvages the leftovers of a target's archive.
    ///
    /// # Errors
    /// A sentence: the archive cannot be looked through.
    pub(crate) fn archive(&self, folder: &OutputDir) -> Result<Vec<report::Channel>, String> {
        let root = &folder.path;
        let failed = |error: io::Error| format!("cannot read `{}`: {}", path(&root.join(".dce-temp")), plain(&error));
        let asked: BTreeSet<u128> = self.asked.channels.iter().filter_map(|id| channel_id(id.as_bytes())).collect();
        let mut channels: BTreeMap<u128, Vec<Leftover>> = asked.iter().map(|channel| (*channel, Vec::new())).collect();
        for leftover in leftovers::find(root).map_err(failed)? {
            if asked.is_empty() || asked.contains(&leftover.channel) {
                channels.entry(leftover.channel).or_default().push(leftover);
            }
        }
        if channels.is_empty() {
            return Ok(Vec::new());
        }
        let mut destinations = Destinations::find(folder)?;
        let channel = |(channel, leftovers): (u128, Vec<Leftover>)| report::Channel {
            channel: channel_text(channel),
            leftovers: self.channel(channel, &leftovers, &mut destinations),
        };
        Ok(channels.into_iter().map(channel).collect())
    }

    fn channel(&self, channel: u128, leftovers: &[Leftover], destinations: &mut Destinations) -> Vec<report::Leftover> {
        let outcome = |done: Result<Outcome, Stop>| match done {
            Ok(outcome) => outcome,
            Err(Stop::Left(why)) => Outcome::Left { why },
            Err(Stop::Failed(why)) => Outcome::Failed { why },
        };
        let mut done: Vec<report::Leftover> = Vec::new();
        for leftover in leftovers.iter().take_while(|_| !self.cancel.is_caught()) {
            let shown = whole(&leftover.folder.join("export.json").to_string_lossy());
            let outcome = outcome(self.leftover(leftover, destinations));
            if let Outcome::Salvaged(done) = &outcome {
                // The next one goes there, too, although the channel may have got another name meanwhile.
                destinations.add(channel, &done.archive);
            }
            done.push(report::Leftover { path: Some(shown), outcome });
        }
        if leftovers.is_empty() && self.asked.repairs {
            let repaired = self.repair(channel, destinations).transpose();
            done.extend(repaired.map(|repaired| report::Leftover { path: None, outcome: outcome(repaired) }));
        }
        done
    }

    fn leftover(&self, leftover: &Leftover, destinations: &Destinations) -> Result<Outcome, Stop> {
        let age =
            leftover.written.and_then(|written| SystemTime::now().duration_since(written).ok()).unwrap_or_default();
        if self.active_for.is_some_and(|limit| age < limit) {
            return Ok(Outcome::Active { age_seconds: age.as_secs() });
        }
        let cannot = |what: &str, error: &dyn std::fmt::Display| format!("it cannot be {what}: {error}");
        let mut folder =
            open_folder(&leftover.folder, Links::Refuse).map_err(|error| cannot("read", &plain(&error)))?;
        let file =
            folder.fd().map_err(|errno| ReadError::Io(errno.into())).and_then(|folder| open_in(folder, c"export.json"));
        let file = file.map_err(|error| cannot("read", &error))?;
        let mut export = self.read(file).map_err(|error| cannot("read", &plain(&error)))?;
        export.has_message_count |= export.ending != Ending::Whole;
        let Some(about) = export.member_as::<Channel>("channel") else {
            return Err(Stop::Left(match &export.ending {
                Ending::Whole => "it has no channel.id".to_owned(),
                Ending::Cut => "it is cut off before the first message".to_owned(),
                Ending::Damaged(why) => why.clone(),
            }));
        };
        if channel_id(about.id.as_bytes()) != Some(leftover.channel) {
            return Err(Stop::Failed(format!("it belongs to channel {}", crate::text::quoted(&about.id))));
        }
        if export.messages.is_empty() {
            let why = if let Ending::Damaged(why) = &export.ending { why } else { "there is no whole message in it" };
            return Err(Stop::Left(why.to_owned()));
        }
        let guild: Option<BTreeMap<String, serde_json::Value>> = export.member_as("guild");
        let guild = guild.as_ref().and_then(|guild| guild.get("name")?.as_str()).unwrap_or_default();
        let to = destinations.of(leftover.channel, Some((guild, &about)))?;
        let to = to.ok_or_else(|| Stop::Failed("there is no archive for it".to_owned()))?;
        let archive = self.read_archive(&to, leftover.channel)?;
        let mut done = self.merge(&to, archive, Some(&mut export))?;
        done.kept = match (&export.ending, self.asked.is_dry_run) {
            (Ending::Damaged(why), _) => Some(format!("{why}: what comes after it is not read")),
            (_, true) => None,
            (_, false) => {
                remove(&mut folder, leftover, &export).map_err(|error| cannot("removed", &plain(&error)))?;
                None
            }
        };
        Ok(Outcome::Salvaged(done))
    }

    /// Closes an archive that is cut off, with nothing to add; None if it is whole.
    fn repair(&self, channel: u128, destinations: &Destinations) -> Result<Option<Outcome>, Stop> {
        let Some(to) = destinations.of(channel, None)? else { return Ok(None) };
        match self.read_archive(&to, channel)? {
            Some(archive) if archive.ending != Ending::Whole => {
                Ok(Some(Outcome::Salvaged(self.merge(&to, Some(archive), None)?)))
            }
            _ => Ok(None),
        }
    }

    /// Reads the export that is added to; None if there is none yet.
    fn read_archive(&self, to: &Path, channel: u128) -> Result<Option<Export>, Stop> {
        let shown = path(to);
        let file = match open_regular(to, Links::Refuse) {
            Err(ReadError::Missing) => return Ok(None),
            file => file.map_err(|error| format!("the archive `{shown}` cannot be read: {error}"))?,
        };
        let mut archive =
            self.read(file).map_err(|error| format!("the archive `{shown}` cannot be read: {}", plain(&error)))?;
        let what = match &archive.ending {
            Ending::Whole => None,
            Ending::Cut => Some("is cut off".to_owned()),
            Ending::Damaged(why) => Some(format!("is damaged: {why}")),
        };
        if let Some(what) = what {
            if !self.asked.repairs {
                return Err(Stop::Failed(format!("the archive `{shown}` {what}; salvage --repair-archive closes it")));
            }
            archive.has_message_count = true;
        }
        match archive.member_as::<Channel>("channel").map(|about| channel_id(about.id.as_bytes())) {
            Some(found) if found == Some(channel) => Ok(Some(archive)),
            _ => Err(Stop::Failed(format!("the archive `{shown}` is not channel {}'s", channel_text(channel)))),
        }
    }

    /// Writes both into the archive.
    fn merge(&self, to: &Path, mut archive: Option<Export>, mut export: Option<&mut Export>) -> Result<Salvaged, Stop> {
        let before = archive.as_ref().map(|archive| archive.messages.len());
        let take = |export: Option<&mut Export>| export.map(|export| std::mem::take(&mut export.messages));
        let [old, new] = [take(archive.as_mut()), take(export.as_deref_mut())].map(Option::unwrap_or_default);
        let (archive, export) = (archive.as_ref(), export.as_deref());
        let mut pair = [(archive, old), (export, new)];
        if exported_at(archive).zip(exported_at(export)).is_some_and(|(archive, export)| archive > export) {
            pair.reverse();
        }
        let merged = Merged::new(pair);
        let after = merged.count();
        if let Some(before) = before.filter(|before| after < *before) {
            return Err(Stop::Failed(format!("the archive `{}` would shrink ({before} → {after} messages)", path(to))));
        }
        let write = |out: &mut BufWriter<&File>| {
            merged.write(out, self.cancel, &|written| self.progress.now(format!("{} written", size(written))))?;
            match [archive, export].into_iter().flatten().all(is_unwritten) {
                true => Ok(()),
                false => Err(io::Error::other("somebody has written it in the meantime")),
            }
        };
        let is_cut = archive.is_some_and(|archive| archive.ending != Ending::Whole);
        let original = if self.asked.is_dry_run { Ok(None) } else { replace(to, archive, is_cut, write) };
        let original = original.map_err(|error| format!("cannot write `{}`: {}", path(to), plain(&error)))?;
        let original = original.map(|kept| whole(&kept.to_string_lossy()));
        Ok(Salvaged { archive: to.to_path_buf(), before, after, kept: None, original })
    }

    fn read(&self, file: File) -> io::Result<Export> {
        Export::read(file, self.cancel, &|how_far| self.progress.now(how_far))
    }
}

/// When an export was made, as a number to compare.
fn exported_at(export: Option<&Export>) -> Option<u64> {
    time_key(&export?.member_as::<String>("exportedAt")?)
}

/// Removes a leftover whose messages are in the archive. What else is in its folder stays.
fn remove(folder: &mut Dir, leftover: &Leftover, export: &Export) -> io::Result<()> {
    let at = folder.fd()?;
    if !is_same(&statat(at, "export.json", AtFlags::SYMLINK_NOFOLLOW)?, &export.stat) {
        return Err(io::Error::other("somebody has written it in the meantime"));
    }
    unlinkat(at, "export.json", AtFlags::empty())?;
    _ = std::fs::remove_dir(&leftover.folder);
    Ok(())
}
