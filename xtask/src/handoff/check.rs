//! What a check found, in one line. The text report, the JSON and the list of problems are views of these.

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Ok(String),
    /// A scrape would fail.
    Fail(String),
    Note(String),
}

impl Check {
    /// The line of the text report.
    pub(crate) fn text(&self) -> String {
        match self {
            Check::Ok(line) => format!("{line}\n"),
            Check::Fail(line) => format!("FAIL: {line}\n"),
            Check::Note(line) => format!("note: {line}\n"),
        }
    }
}

/// The lines of the failures.
pub(crate) fn problems(checks: &[Check]) -> Vec<String> {
    let line = |check: &Check| if let Check::Fail(line) = check { Some(line.clone()) } else { None };
    checks.iter().filter_map(line).collect()
}

/// The lines of the notes.
pub(crate) fn notes(checks: &[Check]) -> Vec<String> {
    let line = |check: &Check| if let Check::Note(line) = check { Some(line.clone()) } else { None };
    checks.iter().filter_map(line).collect()
}
