//! A smoke, how it ended, and what all smokes of a run share.

use crate::cli::Via;
use crate::env::Env;
use crate::smokes::case::Case;
use crate::sys::signals::Signals;
use std::path::{Path, PathBuf};

pub(crate) struct Smoke {
    /// Its file's name without the ending.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    /// A case, and the text of its file.
    Case(Box<Case>, String),
    Script,
}

/// How a smoke ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// It failed, and its expectation was rewritten.
    Blessed,
    /// Why it could not run here.
    Skipped(String),
    /// Why the shell original is expected to fail it.
    ExpectedFailure(String),
    /// Everything that was wrong.
    Failed(Vec<String>),
    /// It was interrupted.
    Cancelled,
}

/// What all smokes of a run share.
pub(crate) struct Setup<'a> {
    /// The program under test.
    pub(crate) bin: PathBuf,
    /// This program: holders are real, whatever is tested.
    pub(crate) own: PathBuf,
    pub(crate) via: Via,
    pub(crate) env: &'a Env,
    /// The checkout whose smokes these are.
    pub(crate) workspace: PathBuf,
    /// The checkout whose scripts are run.
    pub(crate) repo_root: PathBuf,
    pub(crate) cancel: &'a Signals,
    pub(crate) containers: Containers,
    pub(crate) on_failure: OnFailure,
}

/// Whether smokes that need a container engine are run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Containers {
    Included,
    Skipped,
}

/// What happens to a case that fails.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    RemoveStage,
    KeepStage,
    /// Rewrite its expectation if it passes then.
    Bless,
}

impl Smoke {
    pub(crate) fn new(file: PathBuf, ending: &str, kind: Kind) -> Smoke {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Smoke { name: name.strip_suffix(ending).unwrap_or(&name).to_owned(), file, kind }
    }
}

/// The folder of the cases.
pub(crate) fn cases(workspace: &Path) -> PathBuf {
    workspace.join("fixtures/smokes")
}

/// The folder of the programs that cases use.
pub(crate) fn programs(workspace: &Path) -> PathBuf {
    cases(workspace).join("programs")
}
