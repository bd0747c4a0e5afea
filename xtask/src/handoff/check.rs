//! What a check finds, as a value. The text report, the JSON and the list at the end are views of these.

use crate::text::shell_path;
use serde::Serialize;
use std::path::Path;

/// A finding, and the id of its check, such as `disk.free`.
#[derive(Serialize)]
pub(crate) struct Check {
    pub(crate) id: &'static str,
    #[serde(flatten)]
    pub(crate) finding: Finding,
}

/// What a check says, in one line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) outcome: Outcome,
    pub(crate) line: String,
    /// After a failure: the next command.
    pub(crate) hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    /// The scraper would refuse, or could not write.
    Fail,
    Note,
}

pub(crate) fn ok(line: impl Into<String>) -> Finding {
    Finding { outcome: Outcome::Ok, line: line.into(), hint: None }
}

pub(crate) fn fail(line: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { outcome: Outcome::Fail, line: line.into(), hint: Some(hint.into()) }
}

pub(crate) fn note(line: impl Into<String>) -> Finding {
    Finding { outcome: Outcome::Note, line: line.into(), hint: None }
}

/// The command that opens a file in an editor.
pub(crate) fn edit(file: &Path) -> String {
    format!("\"${{EDITOR:-vi}}\" {}", shell_path(file))
}

impl Finding {
    pub(crate) fn has_failed(&self) -> bool {
        self.outcome == Outcome::Fail
    }

    /// Its line in the text report.
    pub(crate) fn text(&self) -> String {
        let prefix = match self.outcome {
            Outcome::Ok => "",
            Outcome::Fail => "FAIL: ",
            Outcome::Note => "note: ",
        };
        format!("{prefix}{}\n", self.line)
    }
}
