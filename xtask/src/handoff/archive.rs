//! What one target's archive contains: one walk of its folder, in which symbolic links are not followed.

use crate::config::channel::{channel_text, seeded_id};
use crate::config::channel_map::{self, ChannelMap};
use crate::config::is_within;
use crate::config::targets::OutputDir;
use crate::handoff::export::{self, END_BYTES, NO_ID};
use crate::handoff::watch::Watch;
use crate::sys::access;
use crate::sys::file::{self, Links, ReadError, plain};
use crate::text::path;
use rustix::fs::{AtFlags, FileType, Statx, fstat, statat};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// The names that every folder lists.
const DOTS: [&[u8]; 2] = [b".", b".."];

/// The scraper's own folders, at any depth: what they contain is not counted.
const OWN_FOLDERS: [&[u8]; 2] = [b".dce-meta", b".dce-temp"];

/// Maximum length of an export's name: the scraper writes to `.NAME.dce-replace.XXXXXX` first, and 255 bytes is the limit.
const NAME_MAX_BYTES: usize = 235;

/// What is to be looked at.
pub(crate) struct Question {
    pub(crate) folder: OutputDir,
    pub(crate) reads: Reads,
    pub(crate) scraped: Scraped,
}

/// The channels that will be scraped.
pub(crate) enum Scraped {
    Nothing,
    /// All that there are.
    All,
    Only(HashSet<u128>),
}

/// How much is read of the exports that will be added to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    Names,
    Ends,
    Whole,
}

/// What a target's folder is.
pub(crate) enum Place {
    /// Its file system does not answer.
    Silent,
    /// There is none, and why it cannot be created.
    Missing(Option<String>),
    /// A symbolic link, and where it leads: the scraper's `find` finds nothing behind it.
    Link(PathBuf),
    Found(Box<Archive>),
}

/// What an archive contains.
#[derive(Default)]
pub(crate) struct Archive {
    /// Number of regular files `*.json`.
    pub(crate) json: usize,
    /// The distinct channel ids in their names, sorted.
    pub(crate) ids: Vec<u128>,
    /// Number of keys of the channel map.
    pub(crate) map_keys: usize,
    /// The folder's device and inode.
    pub(crate) identity: (u64, u64),
    pub(crate) leftovers: Leftovers,
    /// A sentence each:
    pub(crate) unreadable: Vec<String>,
    pub(crate) unwritable: Vec<String>,
    pub(crate) map_problem: Option<String>,
    pub(crate) misplaced: Vec<String>,
    pub(crate) broken: Vec<(PathBuf, String)>,
    /// The same of exports that the scraper passes over.
    pub(crate) spare: Vec<(PathBuf, String)>,
}

/// What killed scrapes were downloading.
#[derive(Default)]
pub(crate) struct Leftovers {
    pub(crate) number: usize,
    pub(crate) bytes: u64,
    pub(crate) newest: Option<SystemTime>,
}

struct Walk<'a> {
    question: &'a Question,
    watch: &'a Watch,
    map: ChannelMap,
    folders: Vec<PathBuf>,
    /// The channels whose exports were read, and whether one is sound.
    read: HashMap<u128, bool>,
    /// Those that are not sound.
    broken: Vec<(u128, (PathBuf, String))>,
    found: Archive,
}

pub(crate) fn look(question: &Question, watch: &Watch) -> Place {
    let root = &question.folder.path;
    if let Ok(to) = std::fs::read_link(root) {
        return Place::Link(to);
    }
    let mut found = Archive::default();
    let map = channel_map::read(root).unwrap_or_else(|problem| {
        found.map_problem = Some(problem);
        ChannelMap::default()
    });
    let folders = vec![root.clone()];
    Walk { question, watch, map, folders, read: HashMap::new(), broken: Vec::new(), found }.all()
}

impl Walk<'_> {
    /// Looks at all folders that are queued, and those below them.
    fn all(mut self) -> Place {
        let root = &self.question.folder.path;
        while let Some(folder) = self.folders.pop().filter(|_| !self.watch.is_over()) {
            let is_root = folder == *root;
            let Err(error) = self.add(&folder, is_root) else { continue };
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory if is_root => {
                    // The scraper makes it.
                    let is_scraped = !matches!(self.question.scraped, Scraped::Nothing);
                    return Place::Missing(access::nearest_obstacle(root).filter(|_| is_scraped));
                }
                // A running scrape has removed it since.
                ErrorKind::NotFound => {}
                _ => self.unreadable(&folder, &error),
            }
        }
        Place::Found(Box::new(self.finish()))
    }

    /// Adds what a folder contains, and queues its folders.
    fn add(&mut self, folder: &Path, is_root: bool) -> io::Result<()> {
        let mut opened = file::open_folder(folder, Links::Refuse)?;
        if is_root {
            let stat = fstat(opened.fd()?)?;
            self.found.identity = (stat.st_dev, stat.st_ino);
        }
        let (mut has_exports, mut own_folders, above) = (false, Vec::new(), access::above(opened.fd()?)?);
        while let Some(entry) = opened.next() {
            let entry = entry?;
            let name = entry.file_name();
            self.watch.entries.fetch_add(1, Ordering::Relaxed);
            let kind = match entry.file_type() {
                // Some file systems do not say (readdir(3)).
                FileType::Unknown => statat(opened.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                kind => kind,
            };
            let at = || folder.join(OsStr::from_bytes(name.to_bytes()));
            match kind {
                FileType::Directory if DOTS.contains(&name.to_bytes()) => {}
                FileType::Directory if OWN_FOLDERS.contains(&name.to_bytes()) => own_folders.push(at()),
                FileType::Directory => self.folders.push(at()),
                FileType::RegularFile if name.to_bytes().ends_with(b".json") => {
                    self.found.json += 1;
                    has_exports |= self.export(opened.fd()?, &above, name, at);
                }
                _ => {}
            }
        }
        own_folders.into_iter().for_each(|folder| self.pass_through(folder));
        self.watch.progress.now(format!("looking at {}", path(folder)));
        if has_exports && !is_root {
            self.found.unwritable.extend(access::folder_obstacle(folder));
        }
        Ok(())
    }

    /// Looks for what cannot be read in the scraper's own folders: its `find` goes there too, and fails.
    fn pass_through(&mut self, folder: PathBuf) {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop().filter(|_| !self.watch.is_over()) {
            self.watch.entries.fetch_add(1, Ordering::Relaxed);
            let entries = match std::fs::read_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    self.unreadable(&folder, &error);
                    continue;
                }
                entries => entries.into_iter().flatten().flatten(),
            };
            folders.extend(
                entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
            );
        }
    }

    fn unreadable(&mut self, folder: &Path, error: &io::Error) {
        self.found.unreadable.push(format!("cannot read folder `{}`: {}", path(folder), plain(error)));
    }

    /// Looks at an export; true if the scraper will add to it.
    fn export(&mut self, folder: BorrowedFd, above: &Statx, name: &CStr, at: impl Fn() -> PathBuf) -> bool {
        let Some(id) = seeded_id(name.to_bytes()) else { return false };
        self.found.ids.push(id);
        let is_elsewhere = |to: &String| Path::new(to) != at();
        if !self.question.scrapes(id) || self.map.paths.get(&id).is_some_and(is_elsewhere) {
            return false;
        }
        if name.to_bytes().len() > NAME_MAX_BYTES {
            let length = name.to_bytes().len();
            let what = format!("`{}`: {length} bytes are too long a name: the scraper appends 20", path(&at()));
            self.found.unwritable.push(what);
        }
        let obstacle = access::replace_obstacle(above, folder, name);
        self.found.unwritable.extend(obstacle.map(|why| format!("cannot replace `{}`: {why}", path(&at()))));
        if self.question.reads != Reads::Names {
            let problem = self.question.problem_of(file::open_in(folder, name), id, self.watch);
            *self.read.entry(id).or_default() |= problem.is_none();
            self.broken.extend(problem.map(|problem| (id, (at(), problem))));
        }
        true
    }

    fn finish(mut self) -> Archive {
        self.found.ids.sort_unstable();
        self.found.ids.dedup();
        self.found.map_keys = self.map.keys;
        // Among several exports of one channel that is not in the map, the scraper takes one that is sound.
        for (id, export) in std::mem::take(&mut self.broken) {
            let is_taken = self.map.paths.contains_key(&id) || export.1.starts_with(NO_ID);
            let is_spare = self.read[&id] && !is_taken;
            if is_spare { &mut self.found.spare } else { &mut self.found.broken }.push(export);
        }
        if !matches!(self.question.scraped, Scraped::Nothing) {
            self.follow_map();
            let root = &self.question.folder.path;
            let own = [root.clone(), root.join(".dce-temp"), root.join(".dce-meta")];
            self.found.unwritable.extend(own.iter().filter_map(|folder| access::folder_obstacle(folder)));
            self.found.leftovers = Leftovers::look(root, self.watch, &mut self.found.unwritable);
        }
        self.found
    }

    /// Looks at the exports that only the map leads to.
    fn follow_map(&mut self) {
        // Without a list of channels, those with exports are scraped.
        let ids = Some(&self.found.ids).filter(|ids| matches!(self.question.scraped, Scraped::All) && !ids.is_empty());
        let mut folders = BTreeSet::new();
        let is_scraped = |id| self.question.scrapes(id) && ids.is_none_or(|ids| ids.binary_search(&id).is_ok());
        for (id, to) in self.map.paths.iter().filter(|(id, _)| is_scraped(**id)) {
            if !is_within(&self.question.folder.written, to) {
                self.found.misplaced.push(format!(
                    "channel map: channel {} goes to `{}`, outside its output_dir; the scraper stops there",
                    channel_text(*id),
                    path(to.as_ref())
                ));
            } else if self.question.reads != Reads::Names && !self.read.contains_key(id) {
                // The scraper follows a link here; nothing but an id is shown of what it reads.
                let opened = file::open_regular(to.as_ref(), Links::Follow);
                let problem = self.question.problem_of(opened, *id, self.watch);
                self.found.broken.extend(problem.map(|problem| (to.into(), problem)));
                self.watch.entries.fetch_add(1, Ordering::Relaxed);
            }
            folders.extend(Path::new(to).parent());
        }
        // A map of thousands of channels leads to few folders.
        self.found.unwritable.extend(folders.into_iter().filter_map(access::nearest_obstacle));
        self.found.misplaced.sort_unstable();
        self.found.unwritable.sort_unstable();
        self.found.unwritable.dedup();
    }
}

impl Question {
    fn scrapes(&self, id: u128) -> bool {
        match &self.scraped {
            Scraped::Nothing => false,
            Scraped::All => true,
            Scraped::Only(channels) => channels.contains(&id),
        }
    }

    /// Why the scraper would stop at an export of a channel.
    fn problem_of(&self, export: Result<File, ReadError>, id: u128, watch: &Watch) -> Option<String> {
        let look = |file: File| {
            let problem = export::problem(&file::ends(&file, END_BYTES).map_err(ReadError::Io)?, id);
            let inside =
                || if self.reads == Reads::Whole { export::problem_inside(&file, &watch.entries) } else { None };
            Ok(problem.or_else(inside))
        };
        match export.and_then(look) {
            Ok(problem) => problem,
            // It has not been downloaded yet.
            Err(ReadError::Missing) => None,
            Err(error) => Some(format!("cannot be read: {error}")),
        }
    }
}

impl Leftovers {
    /// Counts `.dce-temp/export.CHANNEL.RANDOM/export.json`.
    fn look(root: &Path, watch: &Watch, unwritable: &mut Vec<String>) -> Leftovers {
        let mut found = Leftovers::default();
        let Ok(mut opened) = file::open_folder(&root.join(".dce-temp"), Links::Refuse) else { return found };
        while let Some(Ok(entry)) = opened.next().filter(|_| !watch.is_over()) {
            watch.entries.fetch_add(1, Ordering::Relaxed);
            let name = entry.file_name().to_bytes();
            let (true, Ok(folder)) = (name.starts_with(b"export."), opened.fd()) else { continue };
            // The scraper removes it in the end.
            unwritable.extend(access::folder_obstacle(&root.join(".dce-temp").join(OsStr::from_bytes(name))));
            let export = [name, b"/export.json"].concat();
            let Ok(stat) = statat(folder, &export[..], AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                found.number += 1;
                found.bytes = found.bytes.saturating_add(stat.st_size.max(0) as u64);
                found.newest = found.newest.max(file::written_at(&stat));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::channel::channel_id;
    use crate::sys::signals::Signals;
    use std::sync::Arc;

    fn question(root: &Path, reads: Reads, scraped: Scraped) -> Question {
        let folder = OutputDir { written: root.to_str().unwrap().to_owned(), path: root.into() };
        Question { folder, reads, scraped }
    }

    fn watch() -> Watch {
        Watch::new(Signals::catch(&[]).unwrap(), Arc::default())
    }

    fn place(root: &Path, reads: Reads, scraped: Scraped) -> Place {
        look(&question(root, reads, scraped), &watch())
    }

    fn walk(root: &Path, scraped: Scraped) -> Archive {
        match place(root, Reads::Ends, scraped) {
            Place::Found(archive) => *archive,
            _ => panic!("not found"),
        }
    }

    #[test]
    fn what_is_in_the_way_of_an_archive_matters_only_if_it_is_scraped() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "file", "");
        let obstacle = |name: &str, scraped: Scraped| match place(&folder.path().join(name), Reads::Ends, scraped) {
            Place::Missing(why) => why,
            _ => panic!("not missing"),
        };
        assert_eq!(obstacle("none/deep", Scraped::All), None);
        let why = obstacle("file/deep", Scraped::All).unwrap();
        assert!(why.ends_with("/file/deep`: not a directory"), "{why}");
        assert_eq!(obstacle("file/deep", Scraped::Nothing), None);
    }

    fn write(root: &Path, name: &str, text: &str) {
        let file = root.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn export(id: u64) -> String {
        format!(r#"{{"channel": {{"id": "{id}"}}, "messages": []}}"#)
    }

    #[test]
    fn a_walk_counts_exports_and_ids() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (name, id) in [
            ("a [1000000000000001].json", 1_000_000_000_000_001),
            ("deep/down/b [1000000000000001].json", 1_000_000_000_000_001),
            ("deep/c [1000000000000002].json", 1_000_000_000_000_002),
            ("plain.json", 7),
            ("other.txt", 7),
            ("deep/.dce-temp/d [1000000000000003].json", 7),
            (".dce-meta/e [1000000000000004].json", 7),
            ("folder.json/f [1000000000000005].json", 1_000_000_000_000_005),
            (".dce-temp/export.1.x/export.json", 7),
            (".dce-temp/export.1.y/other.json", 7),
        ] {
            write(root, name, &export(id));
        }
        std::os::unix::fs::symlink("..", root.join("deep/loop")).unwrap();
        std::os::unix::fs::symlink("plain.json", root.join("link.json")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo.json"), FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        let found = walk(root, Scraped::All);
        assert_eq!((found.json, found.ids.len(), found.map_keys), (5, 3, 0));
        assert_eq!((found.leftovers.number, found.leftovers.bytes), (1, export(7).len() as u64));
        assert!(found.unreadable.is_empty() && found.broken.is_empty(), "{:?}", found.broken);
    }

    #[test]
    fn a_folder_that_vanishes_meanwhile_is_not_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let (root, gone) = (folder.path().to_owned(), folder.path().join("gone"));
        let (question, watch) = (question(&root, Reads::Ends, Scraped::All), watch());
        let (map, read, broken, found) = Default::default();
        let folders = vec![root, gone.clone()];
        let mut walk = Walk { question: &question, watch: &watch, map, folders, read, broken, found };
        walk.pass_through(gone);
        let Place::Found(archive) = walk.all() else { panic!("not found") };
        assert_eq!(archive.unreadable, [""; 0]);
    }

    #[test]
    fn only_what_the_scraper_will_add_to_is_held_against_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let id = |last: u64| 1_000_000_000_000_000 + last;
        let broken = |scraped| {
            let found = walk(root, scraped);
            let name = |(at, _): &(PathBuf, String)| at.file_name().unwrap().to_str().unwrap()[..1].to_owned();
            let mut names: Vec<String> = found.broken.iter().map(name).collect();
            names.sort();
            (names.concat(), found.spare.len(), found.misplaced.len())
        };
        write(root, "a [1000000000000001].json", &export(id(2)));
        write(root, "b [1000000000000002].json", "{\"channel\"");
        write(root, "c [1000000000000002].json", &export(id(2)));
        write(root, "d [1000000000000003].json", "");
        write(root, "f [1000000000000003].json", &export(id(3)));
        write(root, "e/plain.json", &export(id(9)));
        assert_eq!(broken(Scraped::Nothing), (String::new(), 0, 0));
        assert_eq!(broken(Scraped::All), ("ad".to_owned(), 1, 0), "one of channel 2 is sound");
        let only = |last| Scraped::Only(HashSet::from([channel_id(id(last).to_string().as_bytes()).unwrap()]));
        assert_eq!(broken(only(3)), ("d".to_owned(), 0, 0));
        let to = |name: &str| root.join(name).display().to_string();
        let map = serde_json::json!({ id(1).to_string(): to("e/plain.json"), id(2).to_string(): to("b [1000000000000002].json"),
            id(3).to_string(): "/elsewhere/x.json", id(8).to_string(): "/elsewhere/y.json" });
        write(root, ".dce-meta/channel-map.json", &map.to_string());
        assert_eq!(broken(Scraped::All), ("bp".to_owned(), 0, 1), "where the map leads counts");
        assert_eq!(broken(only(8)), (String::new(), 0, 1));
    }

    #[test]
    fn only_a_whole_reading_finds_damage_in_the_middle() {
        let folder = tempfile::tempdir().unwrap();
        let filler = "\"x\",\n".repeat(END_BYTES);
        let damaged = format!(
            r#"{{"channel": {{"id": "1000000000000001"}}, "messages": [{filler} damage {filler} "x"], "messageCount": 1}}"#
        );
        write(folder.path(), "a [1000000000000001].json", &damaged);
        let broken = |reads| match place(folder.path(), reads, Scraped::All) {
            Place::Found(archive) => archive.broken.len(),
            _ => panic!("not found"),
        };
        assert_eq!([broken(Reads::Names), broken(Reads::Ends), broken(Reads::Whole)], [0, 0, 1]);
    }

    #[test]
    fn a_name_must_have_room_for_what_the_scraper_appends() {
        let folder = tempfile::tempdir().unwrap();
        let end = " [1000000000000001].json";
        for length in [NAME_MAX_BYTES, NAME_MAX_BYTES + 1] {
            write(folder.path(), &format!("{}{end}", "x".repeat(length - end.len())), &export(1_000_000_000_000_001));
        }
        let unwritable = walk(folder.path(), Scraped::All).unwritable;
        assert_eq!(unwritable.len(), 1);
        assert!(unwritable[0].contains(&format!("{} bytes are too long", NAME_MAX_BYTES + 1)), "{unwritable:?}");
    }
}
