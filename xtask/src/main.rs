//! Scrape lock, operator handoff and their smokes, as `cargo xtask COMMAND`.
//!
//! The words typed ([`cli`]) and the environment they are typed in ([`env`]) go to one
//! command. Its [`verdict`] becomes the exit code here and nowhere else.

mod ci;
mod cli;
mod config;
mod env;
mod handoff;
mod lock;
mod lock_run;
mod lock_status;
mod output;
mod salvage;
mod smokes;
mod sys;
mod target;
mod text;
#[cfg(test)]
mod tidy;
mod verdict;
mod wait;

use clap::Parser;
use cli::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match cli::Xtask::try_parse() {
        Ok(typed) => typed.command,
        Err(usage) => return output::usage(&usage).into(),
    };
    let env = env::Env::read();
    let answer = match command {
        Command::LockStatus(command) => command.run(&env),
        Command::LockRun(command) => command.run(&env),
        Command::Handoff(command) if command.salvage_only => command.salvage(&env),
        Command::Handoff(command) => command.run(&env),
        Command::VerifyReady(command) => command.run(&env),
        Command::Salvage(command) => command.run(&env),
        Command::Smokes(command) => command.run(&env),
        Command::Ci(command) => command.run(&env),
    };
    answer.unwrap_or_else(|error| output::error(&error)).into()
}
