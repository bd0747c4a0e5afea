//! What a command answers, and the exit code that says so.

use std::process::ExitCode;

/// The answer of a command. Whatever kept it from answering is an error, and exits like [`Verdict::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Safe, passed, complete: exit 0.
    Yes,
    /// Held, failed, not ready: exit 1.
    No,
    /// The question could not be answered: exit 2.
    Unknown,
    /// The exit code of somebody else's command, or one that the user chose.
    Code(u8),
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        ExitCode::from(match verdict {
            Verdict::Yes => 0,
            Verdict::No => 1,
            Verdict::Unknown => 2,
            Verdict::Code(code) => code,
        })
    }
}
