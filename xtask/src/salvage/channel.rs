//! The leftovers of one archive, one after the other, the oldest first: read, merged, removed.

use crate::cli;
use crate::config::channel::{channel_id, channel_text};
use crate::config::targets::OutputDir;
use crate::output::Progress;
use crate::salvage::commit::{Place, is_same, is_unwritten, replace};
use crate::salvage::destinations::Destinations;
use crate::salvage::export::{Channel, Ending, Export};
use crate::salvage::leftovers::{self, Leftover};
use crate::salvage::merge::Merged;
use crate::salvage::message::moment;
use crate::salvage::report::{self, Outcome, Salvaged};
use crate::sys::file::{Links, ReadError, open_folder, open_in, plain, remove_if_present};
use crate::sys::signals::Signals;
use crate::text::{path, quoted, size, whole};
use rustix::fs::{AtFlags, Dir, Stat, statat, unlinkat};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, SystemTime};

/// What a salvage works with.
pub(crate) struct Salvage<'a> {
    pub(crate) options: &'a cli::Salvage,
    /// A leftover that was written more recently than this is left alone.
    pub(crate) active_for: Option<Duration>,
    pub(crate) cancel: &'a Signals,
    pub(crate) progress: &'a Progress,
}

/// The archive that a leftover goes into.
struct Archive {
    path: PathBuf,
    /// None if its folder is still to be made.
    place: Option<Place>,
    /// None if it is still to be made.
    export: Option<Export>,
}

impl Salvage<'_> {
    /// Salvages the leftovers of a target's archive.
    ///
    /// # Errors
    /// A sentence: the archive cannot be looked through.
    pub(crate) fn archive(&self, folder: &OutputDir) -> Result<Vec<report::Channel>, String> {
        let root = &folder.path;
        let failed = |error: io::Error| format!("cannot read `{}`: {}", path(&root.join(".dce-temp")), plain(&error));
        let asked: BTreeSet<u128> = self.options.channels.iter().filter_map(|id| channel_id(id.as_bytes())).collect();
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
        for unfinished in destinations.unfinished.iter().filter(|_| !self.options.dry_run) {
            remove_if_present(unfinished)
                .map_err(|error| format!("cannot remove `{}`: {}", path(unfinished), plain(&error)))?;
        }
        let channel = |(channel, leftovers): (u128, Vec<Leftover>)| report::Channel {
            channel: channel_text(channel),
            leftovers: self.channel(channel, &leftovers, &mut destinations),
        };
        Ok(channels.into_iter().map(channel).collect())
    }

    fn channel(&self, channel: u128, leftovers: &[Leftover], destinations: &mut Destinations) -> Vec<report::Leftover> {
        let mut done: Vec<report::Leftover> = Vec::new();
        let failed = |why| Outcome::Failed { why };
        for leftover in leftovers.iter().take_while(|_| !self.cancel.is_caught()) {
            let shown = whole(&leftover.folder.join("export.json").to_string_lossy());
            let outcome = self.leftover(leftover, destinations).unwrap_or_else(failed);
            if let Outcome::Salvaged(done) = &outcome {
                // The next one goes there, too, although the channel may have got another name meanwhile.
                destinations.add(channel, &done.archive);
            }
            done.push(report::Leftover { path: Some(shown), outcome });
        }
        if leftovers.is_empty() && self.options.repair_archive {
            let repaired = self.repair(channel, destinations).unwrap_or_else(|why| Some(failed(why)));
            done.extend(repaired.map(|outcome| report::Leftover { path: None, outcome }));
        }
        done
    }

    fn leftover(&self, leftover: &Leftover, destinations: &Destinations) -> Result<Outcome, String> {
        let age =
            leftover.written.and_then(|written| SystemTime::now().duration_since(written).ok()).unwrap_or_default();
        if self.active_for.is_some_and(|limit| age < limit && leftover.written.is_some()) {
            return Ok(Outcome::Active { age_seconds: age.as_secs() });
        }
        let known = destinations.of(leftover.channel)?;
        let (opened, archive) = thread::scope(|scope| {
            // Each takes a processor for a while.
            let archive = known.map(|to| scope.spawn(|| self.read_archive(to, leftover.channel, destinations)));
            let join =
                |archive: ScopedJoinHandle<Result<_, _>>| archive.join().unwrap_or_else(|why| resume_unwind(why));
            (self.open(leftover), archive.map(join))
        });
        let (mut folder, export) = opened.map_err(|error| format!("it cannot be read: {error}"))?;
        let Some(about) = export.member_as::<Channel>("channel").filter(|_| !export.messages.is_empty()) else {
            let why = match export.ending {
                Ending::Whole => "there is no message of a channel in it",
                Ending::Cut => "it is cut off before the end of the first message",
                Ending::Damaged(why) => return Err(why),
            };
            return Ok(Outcome::Left { why: why.to_owned() });
        };
        if channel_id(about.id.as_bytes()) != Some(leftover.channel) {
            return Err(format!("it belongs to channel {}", quoted(&about.id)));
        }
        let new = || self.read_archive(destinations.new_path(&export, &about), leftover.channel, destinations);
        let archive = archive.unwrap_or_else(new)?;
        let (stat, kept) = (export.stat, export.ending.damage().map(|why| format!("{why}: what follows is not read")));
        let mut done = self.merge(archive, Some(export))?;
        if kept.is_none() && !self.options.dry_run {
            remove(&mut folder, leftover, &stat).map_err(|error| format!("it cannot be removed: {}", plain(&error)))?;
        }
        done.kept = kept;
        Ok(Outcome::Salvaged(done))
    }

    /// Opens a leftover's folder, and reads its export.
    fn open(&self, leftover: &Leftover) -> Result<(Dir, Export), ReadError> {
        let folder = open_folder(&leftover.folder, Links::Refuse).map_err(ReadError::Io)?;
        let file = open_in(folder.fd().map_err(|errno| ReadError::Io(errno.into()))?, c"export.json")?;
        let export = self.read(file).map_err(ReadError::Io)?;
        Ok((folder, export))
    }

    /// Closes an archive that is cut off, with nothing to add; None if there is no such archive.
    fn repair(&self, channel: u128, destinations: &Destinations) -> Result<Option<Outcome>, String> {
        let Some(to) = destinations.of(channel)? else { return Ok(None) };
        let archive = self.read_archive(to, channel, destinations)?;
        match archive.is_cut() {
            true => Ok(Some(Outcome::Salvaged(self.merge(archive, None)?))),
            false => Ok(None),
        }
    }

    /// Reads the export that is added to.
    fn read_archive(&self, to: PathBuf, channel: u128, destinations: &Destinations) -> Result<Archive, String> {
        let (shown, id) = (path(&to), channel_text(channel));
        let cannot_read = |error: &dyn Display| format!("the archive `{shown}` cannot be read: {error}");
        let place = destinations.place(&to, !self.options.dry_run)?;
        let export = match place.as_ref().map(|place| open_in(&place.folder, &place.name)) {
            None | Some(Err(ReadError::Missing)) => return Ok(Archive { path: to, place, export: None }),
            Some(file) => self.read(file.map_err(|error| cannot_read(&error))?),
        };
        let export = export.map_err(|error| cannot_read(&plain(&error)))?;
        match &export.ending {
            Ending::Cut if !self.options.repair_archive => {
                return Err(format!(
                    "the archive `{shown}` is cut off; salvage --channel {id} --repair-archive closes it"
                ));
            }
            Ending::Damaged(why) => return Err(format!("the archive `{shown}` is damaged: {why}; repair it by hand")),
            Ending::Whole | Ending::Cut => {}
        }
        match export.member_as::<Channel>("channel").map(|about| channel_id(about.id.as_bytes())) {
            Some(found) if found == Some(channel) => Ok(Archive { path: to, place, export: Some(export) }),
            _ => Err(format!("the archive `{shown}` is not channel {id}'s")),
        }
    }

    /// Adds an export to an archive.
    fn merge(&self, archive: Archive, export: Option<Export>) -> Result<Salvaged, String> {
        let (is_cut, before) = (archive.is_cut(), archive.export.as_ref().map(|export| export.messages.len()));
        let old = archive.export.as_ref().map(|export| export.stat);
        let mut exports: Vec<Export> = archive.export.into_iter().chain(export).collect();
        if let [older, newer] = &mut exports[..]
            && exported_at(older).zip(exported_at(newer)).is_some_and(|(older, newer)| older > newer)
        {
            std::mem::swap(older, newer);
        }
        let merged = Merged::new(exports);
        let after = merged.count();
        let write = |out: &mut BufWriter<&File>| {
            merged.write(out, self.cancel, &|written| self.progress.now(format!("{} written", size(written))))?;
            match merged.exports.iter().all(is_unwritten) {
                true => Ok(()),
                false => Err(io::Error::other("it was changed meanwhile")),
            }
        };
        let original = match &archive.place {
            _ if self.options.dry_run => Ok(None),
            Some(place) => replace(place, old.as_ref(), is_cut, write),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let original =
            original.map_err(|error| format!("cannot write `{}`: {}", path(&archive.path), plain(&error)))?;
        let beside = |name: CString| archive.path.with_file_name(OsStr::from_bytes(name.as_bytes()));
        let original = original.map(|name| whole(&beside(name).to_string_lossy()));
        Ok(Salvaged { archive: archive.path, before, after, kept: None, original })
    }

    fn read(&self, file: File) -> io::Result<Export> {
        Export::read(file, self.cancel, &|how_far| self.progress.now(how_far))
    }
}

impl Archive {
    fn is_cut(&self) -> bool {
        self.export.as_ref().is_some_and(|export| export.ending == Ending::Cut)
    }
}

/// When an export was made.
fn exported_at(export: &Export) -> Option<SystemTime> {
    moment(&export.member_as::<String>("exportedAt")?)
}

/// Removes a leftover whose messages are in the archive. What else is in its folder stays.
fn remove(folder: &mut Dir, leftover: &Leftover, read: &Stat) -> io::Result<()> {
    let at = folder.fd()?;
    if !is_same(&statat(at, "export.json", AtFlags::SYMLINK_NOFOLLOW)?, read) {
        return Err(io::Error::other("it was changed meanwhile"));
    }
    unlinkat(at, "export.json", AtFlags::empty())?;
    _ = std::fs::remove_dir(&leftover.folder);
    Ok(())
}
