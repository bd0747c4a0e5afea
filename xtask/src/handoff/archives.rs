//! The archives of all targets, looked at several at once, and what is wrong with them.

use crate::config::channel_map;
use crate::config::targets::Target;
use crate::handoff::archive::{Archive, Place, Question, Reads, Scraped, look};
use crate::handoff::check::{Finding, edit, fail, note};
use crate::handoff::plan::{Asked, Selection, target_option};
use crate::handoff::watch::{ANSWER_TIMEOUT, Watch};
use crate::text::{self, count, path, quoted, shell_path};
use serde::Serialize;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::Builder;
use std::time::{Duration, Instant, SystemTime};

/// Maximum number of findings of one kind named for one archive.
const MAX_SHOWN: usize = 5;

/// How often signals and the progress of the walks are checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A target's row. The counts are None where nothing was counted.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    name: String,
    output_dir: Option<String>,
    enabled: bool,
    selected: bool,
    pub(crate) json: Option<usize>,
    pub(crate) seeded: Option<usize>,
    pub(crate) map: Option<usize>,
    pub(crate) status: &'static str,
    #[serde(skip)]
    pub(crate) target: &'a Target,
    /// None if it is not looked at.
    #[serde(skip)]
    place: Option<Place>,
}

/// Looks at the archives of the targets that are enabled or asked for. Without `reads`, none of them answers.
pub(crate) fn rows<'a>(
    selection: &Selection<'a>,
    reads: Option<Reads>,
    watch: &Arc<Watch>,
) -> io::Result<Vec<Row<'a>>> {
    let targets = &selection.config.targets;
    let question = |target: &Target| {
        let is_asked = selection.asked.includes(target);
        let is_looked_at = is_asked || target.is_enabled && !matches!(selection.asked, Asked::Nothing);
        let folder = target.output_dir.clone().filter(|_| is_looked_at)?;
        let scraped = if is_asked { selection.channels_of(target) } else { Scraped::Nothing };
        Some(Question { folder, reads: reads.unwrap_or(Reads::Names), scraped })
    };
    let questions: Vec<Option<Question>> = targets.iter().map(question).collect();
    let mut places: Vec<Option<Place>> = questions.iter().map(|asked| asked.as_ref().map(|_| Place::Silent)).collect();
    if reads.is_some() {
        let asked = questions.into_iter().enumerate().filter_map(|(index, question)| Some((index, question?)));
        answer(asked.collect(), &mut places, watch)?;
    }
    Ok(targets.iter().zip(places).map(|(target, place)| Row::new(target, place, selection)).collect())
}

/// Answers the questions in threads that are left behind when their file systems do not answer.
fn answer(questions: Vec<(usize, Question)>, places: &mut [Option<Place>], watch: &Arc<Watch>) -> io::Result<()> {
    let workers = std::thread::available_parallelism().map_or(1, |number| number.get()).min(questions.len());
    let work = Arc::new(Mutex::new(questions.into_iter()));
    let (found, answers) = mpsc::channel();
    for found in vec![found; workers] {
        let (work, watch) = (Arc::clone(&work), Arc::clone(watch));
        let next = move || work.lock().ok()?.next();
        Builder::new().spawn(move || {
            while let Some((index, question)) = next() {
                if found.send((index, look(&question, &watch))).is_err() {
                    return;
                }
            }
        })?;
    }
    let (mut entries, mut since) = (0, Instant::now());
    loop {
        match answers.recv_timeout(LOOK_INTERVAL) {
            Ok((index, place)) => {
                places[index] = Some(place);
                since = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                let now = watch.entries.load(Ordering::Relaxed);
                if now != entries {
                    (entries, since) = (now, Instant::now());
                }
                if watch.is_over() || since.elapsed() >= ANSWER_TIMEOUT {
                    watch.is_over.store(true, Ordering::Relaxed);
                    return Ok(());
                }
            }
        }
    }
}

impl<'a> Row<'a> {
    fn new(target: &'a Target, place: Option<Place>, selection: &Selection) -> Row<'a> {
        let status = match &place {
            None if target.output_dir.is_none() => "no output_dir",
            None if !target.is_enabled => "disabled",
            None => "not looked at",
            Some(Place::Silent) => "cannot be read",
            Some(Place::Missing(_)) => "missing output_dir",
            Some(Place::Link(_)) => "no json archives",
            Some(Place::Found(archive)) => archive.status(),
        };
        let count = |number: fn(&Archive) -> usize| match place.as_ref()? {
            Place::Silent => None,
            Place::Missing(_) | Place::Link(_) => Some(0),
            Place::Found(archive) => Some(number(archive)),
        };
        Row {
            name: text::whole(&target.name),
            output_dir: target.output_dir.as_ref().map(|folder| text::whole(&folder.path.to_string_lossy())),
            enabled: target.is_enabled,
            selected: selection.asked.includes(target),
            json: count(|archive| archive.json),
            seeded: count(|archive| archive.ids.len()),
            map: count(|archive| archive.map_keys),
            status,
            target,
            place,
        }
    }

    /// The channels it has exports of, sorted.
    pub(crate) fn ids(&self) -> Option<&[u128]> {
        self.archive().map(|archive| &archive.ids[..])
    }

    pub(crate) fn archive(&self) -> Option<&Archive> {
        match &self.place {
            Some(Place::Found(archive)) => Some(archive),
            _ => None,
        }
    }

    fn folder(&self) -> &Path {
        self.target.output_dir.as_ref().map_or(Path::new(""), |folder| &folder.path)
    }

    /// A failure for each of the first few, and one for the rest.
    fn fails(&self, found: &[String], hint: &str) -> Vec<Finding> {
        let more = found.len().saturating_sub(MAX_SHOWN);
        let more = (more > 0).then(|| format!("{more} more of the same kind"));
        found.iter().take(MAX_SHOWN).chain(&more).map(|what| fail(self.line(what), hint)).collect()
    }

    fn line(&self, what: &str) -> String {
        format!("target {}: {what}", quoted(&self.target.name))
    }
}

impl Archive {
    fn status(&self) -> &'static str {
        match self {
            _ if !self.unreadable.is_empty() || self.map_problem.is_some() => "cannot be read",
            Archive { json: 0, .. } => "no json archives",
            _ if self.ids.is_empty() => "no seeded channel ids",
            Archive { map_keys: 0, .. } => "ok (map will bootstrap on first run)",
            _ => "ok",
        }
    }
}

/// Whether there is something to add to: the scraper's own verification asks it of every enabled target.
pub(crate) fn seeded(row: &Row) -> Vec<Finding> {
    let command = match row.status {
        "missing output_dir" => "findmnt --target",
        "no json archives" | "no seeded channel ids" if row.archive().is_some() => "ls -la",
        _ => return Vec::new(),
    };
    let target = row.target;
    let what = match target.is_enabled {
        true => "",
        false if target.is_dms || target.has_guilds || !target.channel_ids.is_empty() => return Vec::new(),
        false => ", and neither channel_ids nor guild_ids: there is nothing to scrape",
    };
    let line = row.line(&format!("{} ({}){what}", row.status, path(row.folder())));
    vec![fail(line, format!("{command} {}", shell_path(row.folder())))]
}

pub(crate) fn readable(row: &Row) -> Vec<Finding> {
    let (shown, word) = (path(row.folder()), shell_path(row.folder()));
    match &row.place {
        Some(Place::Silent) => {
            let seconds = ANSWER_TIMEOUT.as_secs();
            let line = row.line(&format!("{shown}: its file system does not answer within {seconds} s"));
            vec![fail(line, format!("findmnt --target {word}"))]
        }
        Some(Place::Found(archive)) => row.fails(&archive.unreadable, &format!("ls -ld {word}; id")),
        _ => Vec::new(),
    }
}

pub(crate) fn linked(row: &Row) -> Vec<Finding> {
    let Some(Place::Link(to)) = &row.place else { return Vec::new() };
    let (folder, to) = (path(row.folder()), path(to));
    let line = format!("its output_dir {folder} is a symbolic link to {to}: the scraper does not look behind it");
    let hint = format!("readlink -f {}   # write this in the config", shell_path(row.folder()));
    vec![fail(row.line(&line), hint)]
}

/// Folders that several targets share by different names.
pub(crate) fn shared(rows: &[Row]) -> Vec<Finding> {
    let mut seen: HashMap<(u64, u64), &Row> = HashMap::new();
    let mut findings = Vec::new();
    for row in rows {
        let Some(archive) = row.archive() else { continue };
        let other = seen.insert(archive.identity, row);
        let Some(other) = other.filter(|other| other.folder() != row.folder()) else { continue };
        let (folder, name) = (path(row.folder()), quoted(&other.target.name));
        let line = row.line(&format!("{folder} is also the folder of target {name}"));
        findings.push(match other.selected && row.selected {
            true => fail(line, format!("ls -ldi {} {}", shell_path(other.folder()), shell_path(row.folder()))),
            false => note(line),
        });
    }
    findings
}

pub(crate) fn mapped(row: &Row, archive: &Archive) -> Vec<Finding> {
    let hint = edit(&channel_map::path_in(row.folder()));
    let problem = archive.map_problem.iter().map(|problem| fail(row.line(problem), &hint));
    problem.chain(row.fails(&archive.misplaced, &hint)).collect()
}

pub(crate) fn truncated(row: &Row, archive: &Archive) -> Vec<Finding> {
    let line = |(export, problem): &(PathBuf, String)| format!("{} {problem}", path(export));
    let broken: Vec<String> = archive.broken.iter().map(line).collect();
    let hint = archive.broken.first().map(|(export, _)| format!("tail -c 300 {}", shell_path(export)));
    let spare = |export| note(row.line(&format!("{}; the scraper will take another one", line(export))));
    let spare = archive.spare.iter().take(MAX_SHOWN).map(spare);
    row.fails(&broken, &hint.unwrap_or_default()).into_iter().chain(spare).collect()
}

pub(crate) fn writable(row: &Row) -> Vec<Finding> {
    let unwritable = match &row.place {
        Some(Place::Found(archive)) => &archive.unwritable[..],
        Some(Place::Missing(why)) => why.as_slice(),
        _ => &[],
    };
    row.fails(unwritable, &format!("ls -ld {}; id", shell_path(row.folder())))
}

/// What killed scrapes left.
pub(crate) fn leftovers(row: &Row, archive: &Archive, config: &Path) -> Vec<Finding> {
    let found = &archive.leftovers;
    if found.number == 0 {
        return Vec::new();
    }
    let age = found.newest.and_then(|newest| SystemTime::now().duration_since(newest).ok()).unwrap_or_default();
    let line = format!(
        "{} of interrupted scrapes in .dce-temp, {}, last written {} ago; to put the complete ones into the archive: \
         cargo xtask salvage --config {} {}",
        count(found.number, "leftover"),
        text::size(found.bytes),
        text::duration(age),
        shell_path(config),
        target_option(row.target)
    );
    vec![note(row.line(&line))]
}
