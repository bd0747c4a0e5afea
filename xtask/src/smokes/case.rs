//! The format of case files. The enums are externally tagged: with serde's other representations errors lose their
//! positions.

use crate::sys::file::{self, Links};
use crate::text;
use anyhow::anyhow;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;

/// Maximum size of a file that is read for a smoke.
const TEXT_MAX_BYTES: u64 = 1 << 20;

/// The base of a case that names none.
pub(crate) const DEFAULT_BASE: &str = "default";

/// How to set the stage, what to run, and what to expect.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The command line after `cargo xtask`.
    pub(crate) args: Vec<String>,
    /// Environment variables besides those that every case has.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// It must see other processes' descriptors, which only root outside containers can.
    #[serde(default)]
    pub(crate) sees_all: bool,
    /// It must see those of all processes, which a sandbox may deny even to root.
    #[serde(default)]
    pub(crate) proves_absence: bool,
    /// Its `PATH` has only the stage's programs, too few for scripts.
    #[serde(default)]
    pub(crate) bare_path: bool,
    /// What the shell original does instead.
    pub(crate) original: Option<Original>,
    #[serde(default)]
    pub(crate) stage: StagePlan,
    pub(crate) expect: Expect,
}

/// How the shell original differs from what a case expects.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Original {
    /// Its exit code, if that differs.
    pub(crate) exit: Option<i32>,
    /// It does not end.
    #[serde(default)]
    pub(crate) hangs: bool,
    /// A line of its output, with `[..]`.
    pub(crate) line: Option<String>,
    /// Why ours differs.
    pub(crate) why: String,
}

/// A set-up shared by several cases: a file in `fixtures/smokes/base`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Base {
    env: BTreeMap<String, String>,
    pub(crate) stage: StagePlan,
}

/// What is on the stage besides the empty folders `archive`, `bin`, `home` and `tmp`. Paths are relative to its root.
/// Files have mode 0600.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StagePlan {
    /// The base to which this is added, by default [`DEFAULT_BASE`].
    pub(crate) base: Option<String>,
    /// Paths of the base that are left out, with everything below them.
    without: Vec<String>,
    /// Path and content.
    pub(crate) files: BTreeMap<String, String>,
    /// Path and target.
    pub(crate) links: BTreeMap<String, String>,
    pub(crate) fifos: Vec<String>,
    pub(crate) folders: Vec<String>,
    /// Path and permissions, such as `0o644`; set last.
    pub(crate) modes: BTreeMap<String, u32>,
    /// Path and time of the last write, in seconds since 1970.
    pub(crate) times: BTreeMap<String, i64>,
    /// Path and size, in bytes, of sparse files without data.
    pub(crate) holes: BTreeMap<String, u64>,
    /// A live child that holds the lock.
    pub(crate) held: Option<HeldPlan>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeldPlan {
    /// The path of the lock file.
    #[serde(default = "default_lock")]
    pub(crate) at: String,
    pub(crate) by: HolderKind,
    /// The process that took the lock is killed, and only a child of it still has the descriptor.
    #[serde(default)]
    pub(crate) orphaned: bool,
    /// What happens to the lock file while it is held.
    pub(crate) unlinked: Option<Unlinked>,
    /// Replaces the sidecar once the lock is held.
    pub(crate) sidecar: Option<String>,
}

/// How a lock file disappears from its path.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unlinked {
    Deleted,
    DeletedWithSidecar,
    Moved,
    /// Deleted and created again.
    Replaced,
}

/// Who holds the lock: each looks different to the kernel.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HolderKind {
    /// util-linux's `flock LOCK COMMAND`; writes no sidecar.
    Flock,
    /// Bash, with the lock on a descriptor of its own and a sidecar.
    HostRunner,
    /// This program itself, as `lock-run`.
    LockRun,
    /// The lock file exists, and a live process does not hold it.
    Nobody,
}

/// The expected result.
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
    /// Path and text of files afterwards.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, TextExpect>,
    /// Paths that must exist afterwards.
    #[serde(default)]
    pub(crate) present: Vec<String>,
    /// Paths that must not.
    #[serde(default)]
    pub(crate) absent: Vec<String>,
}

/// The expected text; empty by default.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TextExpect {
    /// The whole text; `[..]` matches any part of a line, a line `...` any number of lines.
    pub(crate) is: Option<Spanned<String>>,
    /// Lines that must be there, with `[..]`.
    pub(crate) has: Vec<String>,
    /// Lines that must not be there, with `[..]`.
    pub(crate) lacks: Vec<String>,
}

/// The text of a case file, of README.md, or of a file of the demo.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    let cannot = |why: String| anyhow!("{}: {why}", text::path(path));
    let bytes = file::read(path, Links::Follow, TEXT_MAX_BYTES).map_err(|error| cannot(error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text".to_owned()))
}

impl Case {
    /// The case with what it inherits from its base.
    pub(crate) fn on(mut self, base: Base) -> Case {
        let StagePlan { fifos, folders, files, links, modes, times, holes, held, .. } = base.stage;
        let own = &mut self.stage;
        let left_out = &own.without;
        own.fifos.extend(fifos.into_iter().filter(|name| !is_below(name, left_out)));
        own.folders.extend(folders.into_iter().filter(|name| !is_below(name, left_out)));
        inherit(&mut own.files, files, left_out);
        inherit(&mut own.links, links, left_out);
        inherit(&mut own.modes, modes, left_out);
        inherit(&mut own.times, times, left_out);
        inherit(&mut own.holes, holes, left_out);
        inherit(&mut self.env, base.env, &[]);
        own.held = own.held.take().or(held);
        self
    }
}

/// Adds what a base has, except what has a value already or is left out.
fn inherit<T>(own: &mut BTreeMap<String, T>, base: BTreeMap<String, T>, left_out: &[String]) {
    for (name, value) in base.into_iter().filter(|(name, _)| !is_below(name, left_out)) {
        own.entry(name).or_insert(value);
    }
}

fn is_below(name: &str, folders: &[String]) -> bool {
    folders.iter().any(|folder| Path::new(name).starts_with(folder))
}

fn default_lock() -> String {
    "archive/.dce-scrape.lock".to_owned()
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
        let case = case.on(base);
        assert_eq!(case.stage.folders, ["w", "y"]);
        let files = case.stage.files.iter().map(|(name, text)| (&name[..], &text[..]));
        assert_eq!(files.collect::<Vec<_>>(), [("y/1", "a"), ("z", "b")]);
        assert_eq!((&case.env["A"][..], &case.env["B"][..]), ("1", "2"));
    }
}
