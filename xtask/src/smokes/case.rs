//! What a case file may say. Serde's enums here are externally tagged: the others lose the positions of
//! their errors.

use crate::smokes::names;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path};
use toml::Spanned;

/// A text with its position in the file.
pub(crate) type Text = Spanned<String>;

/// The base of a case that names none.
pub(crate) const DEFAULT_BASE: &str = "default";

/// What can be read from a file and checked.
pub(crate) trait Document: DeserializeOwned {
    /// What is wrong with a document that could be parsed.
    fn mistakes(&self) -> Vec<Mistake>;
}

/// One smoke: how to set the stage, what to run, what must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The command line after `cargo xtask`.
    pub(crate) args: Vec<Text>,
    /// Environment variables besides the clean few that every case has.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, Text>,
    /// It needs to inspect every process: it is run only as root, and not in a container.
    #[serde(default)]
    pub(crate) sees_all: bool,
    /// Its `PATH` has only the stage's programs, which is not enough for scripts.
    #[serde(default)]
    pub(crate) bare_path: bool,
    /// Why the shell original is expected to fail it.
    pub(crate) original: Option<String>,
    #[serde(default)]
    pub(crate) stage: StagePlan,
    pub(crate) expect: Spanned<Expect>,
}

/// A set-up that several cases share: a file in `fixtures/smokes/base`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Base {
    env: BTreeMap<String, Text>,
    stage: StagePlan,
}

/// What is on the stage besides the empty folders `archive`, `bin`, `home` and `tmp`. Paths start at the
/// stage's root. Files have mode 0600.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StagePlan {
    /// The base to which this is added; else [`DEFAULT_BASE`].
    pub(crate) base: Option<Text>,
    /// Paths of the base that are left out, with everything below them.
    without: Vec<Text>,
    pub(crate) folders: Vec<Text>,
    /// Path and content.
    pub(crate) files: BTreeMap<Text, Text>,
    /// Path and target.
    pub(crate) links: BTreeMap<Text, Text>,
    pub(crate) fifos: Vec<Text>,
    /// Path and permissions, such as `0o644`; set last.
    pub(crate) modes: BTreeMap<Text, u32>,
    /// Path and size in bytes of files that contain only a hole.
    pub(crate) holes: BTreeMap<Text, u64>,
    pub(crate) lock: Option<LockPlan>,
}

/// The situation that the lock is in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum LockPlan {
    /// There is a lock file, and nobody holds it.
    Unheld(UnheldPlan),
    /// A live child holds it.
    Held(HeldPlan),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnheldPlan {
    #[serde(default = "default_lock")]
    pub(crate) at: Text,
    /// The content of the sidecar, if there is one.
    pub(crate) sidecar: Option<Text>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeldPlan {
    #[serde(default = "default_lock")]
    pub(crate) at: Text,
    pub(crate) by: HolderKind,
    /// The process that took the lock is killed; only a child of it still has the descriptor.
    #[serde(default)]
    pub(crate) orphaned: bool,
    /// What happens to the lock file while it is held.
    pub(crate) unlinked: Option<Unlinked>,
    /// Replaces the sidecar once the lock is held.
    pub(crate) sidecar: Option<Text>,
}

/// How a lock file disappears from its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unlinked {
    Deleted,
    DeletedWithSidecar,
    Moved,
    /// Deleted and created again.
    Replaced,
}

/// Who holds the lock. They look different to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HolderKind {
    /// util-linux's `flock LOCK COMMAND`; writes no sidecar.
    Flock,
    /// Bash, with the lock on a descriptor of its own and a sidecar.
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
    /// The program may change the stage.
    #[serde(default)]
    pub(crate) writes: bool,
    /// Paths that must exist afterwards.
    #[serde(default)]
    pub(crate) present: Vec<Text>,
    /// Paths that must not.
    #[serde(default)]
    pub(crate) absent: Vec<Text>,
}

/// What a text must be; empty, unless something is said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TextExpect {
    /// The whole text; `[..]` matches any part of a line, a line `...` any number of lines.
    pub(crate) is: Option<Text>,
    /// Lines that must be there, with `[..]`.
    pub(crate) has: Vec<Text>,
    /// Lines that must not be there, with `[..]`.
    pub(crate) lacks: Vec<Text>,
}

/// Something wrong in a case file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Where, in bytes.
    pub(crate) span: Range<usize>,
    pub(crate) what: String,
}

impl TextExpect {
    /// Whether the text must be empty.
    pub(crate) fn expects_nothing(&self) -> bool {
        self.is.is_none() && self.has.is_empty() && self.lacks.is_empty()
    }
}

impl Document for Case {
    fn mistakes(&self) -> Vec<Mistake> {
        let expect = self.expect.get_ref();
        let expected = [&expect.stdout, &expect.stderr];
        let expected = expected.into_iter().flat_map(|text| text.is.iter().chain(&text.has).chain(&text.lacks));
        let texts = self.args.iter().chain(self.env.values()).chain(expected);
        let paths = expect.present.iter().chain(&expect.absent);
        self.stage.mistakes(texts, paths)
    }
}

impl Document for Base {
    fn mistakes(&self) -> Vec<Mistake> {
        self.stage.mistakes(self.env.values(), std::iter::empty())
    }
}

impl Case {
    /// The case with everything that its base has and it has not.
    pub(crate) fn on(mut self, base: &Base) -> Case {
        for (name, value) in &base.env {
            self.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let mut stage = base.stage.clone();
        for path in &self.stage.without {
            stage.remove(path.get_ref());
        }
        let own = self.stage;
        stage.folders.extend(own.folders);
        stage.fifos.extend(own.fifos);
        stage.files.extend(own.files);
        stage.links.extend(own.links);
        stage.modes.extend(own.modes);
        stage.holes.extend(own.holes);
        stage.lock = own.lock.or(stage.lock);
        Case { stage, ..self }
    }

    /// The lock's holder, when a live child is to have it.
    pub(crate) fn held(&self) -> Option<&HeldPlan> {
        match &self.stage.lock {
            Some(LockPlan::Held(held)) => Some(held),
            _ => None,
        }
    }
}

impl StagePlan {
    /// Removes `path` and everything below it.
    fn remove(&mut self, path: &str) {
        let stays = |name: &Text| !Path::new(name.get_ref()).starts_with(path);
        self.folders.retain(stays);
        self.fifos.retain(stays);
        self.files.retain(|name, _| stays(name));
        self.links.retain(|name, _| stays(name));
        self.modes.retain(|name, _| stays(name));
        self.holes.retain(|name, _| stays(name));
    }

    /// What is wrong with a plan, and with other texts and paths of its file.
    fn mistakes<'a>(
        &'a self,
        texts: impl Iterator<Item = &'a Text>,
        paths: impl Iterator<Item = &'a Text>,
    ) -> Vec<Mistake> {
        let (at, sidecar, is_held) = match &self.lock {
            Some(LockPlan::Unheld(plan)) => (Some(&plan.at), plan.sidecar.as_ref(), false),
            Some(LockPlan::Held(plan)) => (Some(&plan.at), plan.sidecar.as_ref(), true),
            None => (None, None, false),
        };
        let mistake = |text: &Text, what: String| Mistake { span: text.span(), what };
        let lists = self.folders.iter().chain(&self.fifos).chain(&self.without).chain(at);
        let tables = self.files.keys().chain(self.links.keys()).chain(self.modes.keys()).chain(self.holes.keys());
        let outside = paths.chain(lists).chain(tables).filter(|path| !stays_on_stage(path.get_ref()));
        let mut mistakes: Vec<Mistake> =
            outside.map(|path| mistake(path, format!("`{}` does not stay on the stage", path.get_ref()))).collect();
        let is_known = |name: &str| names::EVERYWHERE.contains(&name) || (is_held && names::HELD.contains(&name));
        for text in texts.chain(self.files.values()).chain(self.links.values()).chain(sidecar) {
            let unknown = names::used_in(text.get_ref()).filter(|name| !is_known(name));
            mistakes.extend(unknown.map(|name| mistake(text, format!("`[{name}]` has no value here"))));
        }
        mistakes
    }
}

/// Whether a path from the stage's root stays below it.
pub(crate) fn stays_on_stage(name: &str) -> bool {
    Path::new(name).components().all(|component| matches!(component, Component::Normal(_)))
}

fn default_lock() -> Text {
    Spanned::new(0..0, "archive/.dce-scrape.lock".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_adds_to_its_base_and_takes_away_from_it() {
        let base: Base = toml::from_str(
            "env = { A = '1', B = '1' }\n[stage]\nfolders = ['x', 'y']\nfiles = { 'x/1' = 'a', 'y/1' = 'a', 'z' = 'a' }",
        )
        .unwrap();
        let case: Case = toml::from_str(
            "args = []\nenv = { B = '2' }\n[stage]\nwithout = ['x']\nfolders = ['w']\nfiles = { 'z' = 'b' }\n\
             [expect]\nexit = 0",
        )
        .unwrap();
        let case = case.on(&base);
        let texts = |texts: &[Text]| texts.iter().map(|text| text.get_ref().clone()).collect::<Vec<_>>();
        assert_eq!(texts(&case.stage.folders), ["y", "w"]);
        let files = case.stage.files.iter().map(|(name, text)| (&name.get_ref()[..], &text.get_ref()[..]));
        assert_eq!(files.collect::<Vec<_>>(), [("y/1", "a"), ("z", "b")]);
        assert_eq!((&case.env["A"].get_ref()[..], &case.env["B"].get_ref()[..]), ("1", "2"));
    }

    #[test]
    fn paths_stay_on_the_stage() {
        for name in ["/etc/passwd", "../x", "a/../../x"] {
            assert!(!stays_on_stage(name), "{name}");
        }
    }
}
