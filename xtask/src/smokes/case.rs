//! What a case file may say. Serde's enums here are externally tagged, because the
//! others lose the places of their errors.

use crate::smokes::stage::{Names, stays_on_stage};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;

/// A text and where it stands in its file.
pub(crate) type Text = Spanned<String>;

/// One smoke: how to set the stage, what to run, what must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The command line after `cargo xtask`.
    pub(crate) args: Vec<Text>,
    /// Environment variables besides the clean few that every case has.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, Text>,
    /// How long it may take, as in `500ms`; else [`USUAL_TIMEOUT`].
    timeout: Option<Text>,
    /// It makes sense only where every process can be inspected: as root, and not in a container.
    #[serde(default)]
    pub(crate) sees_all: bool,
    /// It needs a `PATH` with nothing but the stage's programs, which scripts cannot do with.
    #[serde(default)]
    pub(crate) bare_path: bool,
    /// Why the shell originals are known to fail it.
    pub(crate) original: Option<String>,
    #[serde(default)]
    pub(crate) stage: StagePlan,
    pub(crate) expect: Spanned<Expect>,
}

/// A case that takes longer has failed.
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What the stage holds besides the empty folders `archive`, `bin`, `home` and `tmp`
/// and, unless `files` has another, a config that names `archive`. Paths start at the stage's root.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StagePlan {
    pub(crate) folders: Vec<Text>,
    /// Path and text.
    pub(crate) files: BTreeMap<Text, Text>,
    /// Path and where the link leads.
    pub(crate) links: BTreeMap<Text, Text>,
    pub(crate) fifos: Vec<Text>,
    /// Path and permissions, as in `0o600`; set last.
    pub(crate) modes: BTreeMap<Text, u32>,
    /// Path and size in bytes of files that hold nothing but a hole.
    pub(crate) holes: BTreeMap<Text, u64>,
    pub(crate) lock: Option<LockPlan>,
}

/// The situation that the lock is in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum LockPlan {
    /// The file, and nobody who holds it.
    Unheld(UnheldPlan),
    /// A live child has it.
    Held(HeldPlan),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnheldPlan {
    #[serde(default = "usual_lock")]
    pub(crate) at: Text,
    /// The text of the sidecar, if there is to be one.
    pub(crate) sidecar: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeldPlan {
    #[serde(default = "usual_lock")]
    pub(crate) at: Text,
    pub(crate) by: HolderKind,
    /// Whoever took the lock is killed, and only a child of it has the descriptor.
    #[serde(default)]
    pub(crate) orphaned: bool,
    /// What happens to the lock file while it is held.
    pub(crate) lost: Option<Loss>,
    /// Put in the sidecar's place once the lock is held.
    pub(crate) sidecar: Option<Text>,
}

/// How a lock file is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Loss {
    Deleted,
    /// Its sidecar too.
    AllDeleted,
    Moved,
    /// Deleted, and made anew.
    Replaced,
}

/// Who holds the lock. They look different to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HolderKind {
    /// util-linux's `flock LOCK COMMAND`; writes no sidecar.
    Flock,
    /// Bash with the lock on a descriptor of its own, and a sidecar.
    HostRunner,
    /// This program itself, as `lock-run`.
    LockRun,
}

/// What must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) exit: Spanned<i32>,
    #[serde(default)]
    pub(crate) stdout: TextExpect,
    #[serde(default)]
    pub(crate) stderr: TextExpect,
    /// The case may create, write and remove files on its stage.
    #[serde(default)]
    pub(crate) writes: bool,
    /// Paths that must be there afterwards, and that must not.
    #[serde(default)]
    pub(crate) there: Vec<Text>,
    #[serde(default)]
    pub(crate) gone: Vec<Text>,
}

/// What a text must be. With nothing said, it must be empty.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TextExpect {
    /// The whole text; `[..]` stands for any part of a line, a line `...` for any lines.
    pub(crate) is: Option<Text>,
    /// Lines that must be there, with `[..]`.
    pub(crate) has: Vec<Text>,
    /// Lines that must not be there, with `[..]`.
    pub(crate) lacks: Vec<Text>,
}

/// Something wrong in a case file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Its bytes in the file.
    pub(crate) span: Range<usize>,
    pub(crate) what: String,
}

impl TextExpect {
    /// Nothing is said of the text: it must be empty.
    pub(crate) fn says_nothing(&self) -> bool {
        self.is.is_none() && self.has.is_empty() && self.lacks.is_empty()
    }
}

impl Case {
    /// What is wrong with a case that could be read.
    pub(crate) fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut mistake = |text: &Text, what: String| mistakes.push(Mistake { span: text.span(), what });
        let expect = self.expect.get_ref();
        let paths = self.stage.paths().chain(&expect.there).chain(&expect.gone);
        for path in paths.filter(|path| !stays_on_stage(path.get_ref())) {
            mistake(path, format!("`{}` does not stay on the stage", path.get_ref()));
        }
        for text in self.texts() {
            let known =
                |name: &str| Names::EVERYWHERE.contains(&name) || (self.is_held() && Names::HELD.contains(&name));
            for name in Names::used_in(text.get_ref()).filter(|name| !known(name)) {
                mistake(text, format!("nothing is known as `[{name}]` here"));
            }
        }
        if let Some(timeout) = &self.timeout
            && let Err(error) = humantime::parse_duration(timeout.get_ref())
        {
            mistake(timeout, format!("`{}` is no duration: {error}", timeout.get_ref()));
        }
        mistakes
    }

    /// How long the program under test may take.
    pub(crate) fn timeout(&self) -> Duration {
        let given = self.timeout.as_ref().and_then(|text| humantime::parse_duration(text.get_ref()).ok());
        given.unwrap_or(USUAL_TIMEOUT)
    }

    /// The lock's holder, when a live child is to have it.
    pub(crate) fn held(&self) -> Option<&HeldPlan> {
        match &self.stage.lock {
            Some(LockPlan::Held(held)) => Some(held),
            _ => None,
        }
    }

    fn is_held(&self) -> bool {
        self.held().is_some()
    }

    /// Every text in which placeholders are filled.
    fn texts(&self) -> impl Iterator<Item = &Text> {
        let expect = self.expect.get_ref();
        let expected = [&expect.stdout, &expect.stderr];
        let expected = expected.into_iter().flat_map(|text| text.is.iter().chain(&text.has).chain(&text.lacks));
        let staged = self.stage.files.values().chain(self.stage.links.values()).chain(self.sidecar());
        self.args.iter().chain(self.env.values()).chain(staged).chain(expected)
    }

    fn sidecar(&self) -> Option<&Text> {
        match self.stage.lock.as_ref()? {
            LockPlan::Unheld(plan) => plan.sidecar.as_ref(),
            LockPlan::Held(plan) => plan.sidecar.as_ref(),
        }
    }
}

impl StagePlan {
    fn paths(&self) -> impl Iterator<Item = &Text> {
        let lock = self.lock.as_ref().map(|lock| match lock {
            LockPlan::Unheld(plan) => &plan.at,
            LockPlan::Held(plan) => &plan.at,
        });
        let lists = self.folders.iter().chain(&self.fifos).chain(lock);
        let tables = self.files.keys().chain(self.links.keys()).chain(self.modes.keys()).chain(self.holes.keys());
        lists.chain(tables)
    }
}

fn usual_lock() -> Text {
    Spanned::new(0..0, "archive/.dce-scrape.lock".to_owned())
}
