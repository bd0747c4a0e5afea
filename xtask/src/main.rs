//! Scrape lock, operator handoff and their smokes, as `cargo xtask COMMAND`.
//!
//! One way through: the words typed ([`flags`]) and the world they are typed in
//! ([`env`]) go to one command, which answers with a [`Verdict`]; here, and only
//! here, that becomes the exit code.

mod bounded;
mod child;
mod ci;
mod config;
mod env;
mod flags;
mod handoff;
mod lock;
mod lock_run;
mod lock_status;
mod output;
mod smokes;
mod text;
#[cfg(test)]
mod tidy;

use clap::Parser;
use std::process::ExitCode;

/// The answer of a command. Everything that kept it from answering is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Safe, passed, complete: exit 0.
    Yes,
    /// Lock held, a check failed, a smoke failed: exit 1.
    No,
    /// The question could not be answered: exit 2, as for any error.
    Unknown,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        ExitCode::from(match verdict {
            Verdict::Yes => 0,
            Verdict::No => 1,
            Verdict::Unknown => 2,
        })
    }
}

fn main() -> ExitCode {
    let flags = match flags::Xtask::try_parse() {
        Ok(flags) => flags,
        Err(usage) => return output::usage(&usage),
    };
    let env = env::Env::read();
    let answer = match flags.command {
        flags::Command::LockRun(command) => {
            return command.run(&env).unwrap_or_else(|error| output::error(&error).into());
        }
        flags::Command::LockStatus(command) => command.run(&env),
        flags::Command::Handoff(command) => command.run(&env),
        flags::Command::VerifyReady(command) => command.run(&env),
        flags::Command::Smokes(command) => command.run(&env),
        flags::Command::Ci(command) => command.run(&env),
    };
    answer.unwrap_or_else(|error| output::error(&error)).into()
}
