//! A smoke, how it ended, and what all smokes of a run share.

use crate::cli::{self, Via};
use crate::env::Env;
use crate::smokes::case::Case;
use crate::sys::signals::Signals;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Mutex;

pub(crate) struct Smoke {
    /// Its file's name without the extension, or the name of its block in README.md.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Case(Box<Case>),
    Script,
}

/// Whether this can be a smoke's name: it needs no quotes, and cannot be taken for an option or a pattern.
pub(crate) fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.bytes().all(is_plain) && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

impl Smoke {
    /// Whether it is an example in README.md.
    pub(crate) fn is_readme(&self) -> bool {
        self.file.ends_with("README.md")
    }
}

/// How a smoke ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// What all smokes of a run share.
pub(crate) struct Setup<'a> {
    pub(crate) options: &'a cli::Smokes,
    pub(crate) env: &'a Env,
    /// The program under test.
    pub(crate) bin: PathBuf,
    /// This program: the holders run it, whatever is tested.
    pub(crate) xtask: PathBuf,
    /// The folder of the programs that cases use.
    pub(crate) programs: PathBuf,
    /// The checkout whose scripts are run.
    pub(crate) repo_root: PathBuf,
    pub(crate) cancel: &'a Signals,
    /// The stages whose processes did not remove them.
    pub(crate) stages_left: Mutex<Vec<PathBuf>>,
}

/// The options that select what is run, as words of a command line.
pub(crate) fn selection(options: &cli::Smokes) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    if options.via == Via::Scripts {
        words.extend(["--via".into(), "scripts".into()]);
    }
    words.extend(options.bin.iter().flat_map(|bin| ["--bin".into(), bin.into()]));
    words.extend(options.include_container.then(|| "--include-container".into()));
    words.extend(options.include_vm.then(|| "--include-vm".into()));
    words
}
