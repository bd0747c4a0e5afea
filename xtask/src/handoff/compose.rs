//! Which compose program works.

use crate::env::Env;
use crate::handoff::check::Check;
use crate::sys::child::{self, End};
use crate::sys::file::plain;
use crate::sys::signals::Signals;
use crate::text::printable;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// How long a program may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A compose program, and the command that shows whether it works.
struct Candidate {
    words: String,
    check: Vec<String>,
    /// A program that must exist although the check does not run it.
    also_needs: Option<&'static str>,
}

/// Tries the candidates in the scraper's order; gives the first that works.
pub(crate) fn look(env: &Env, cancel: &Signals, checks: &mut Vec<Check>) -> Option<String> {
    let mut failed = Vec::new();
    for candidate in candidates(env) {
        let Some(why) = candidate.obstacle(env, cancel) else {
            checks.push(Check::Ok(format!("compose: {}", candidate.words)));
            let chosen = failed.first().filter(|_| env.compose_bin.is_some());
            checks.extend(chosen.map(|why| Check::Note(format!("DCE_COMPOSE_BIN does not work: {why}"))));
            return Some(candidate.words);
        };
        failed.push(format!("`{}`: {why}", candidate.words));
    }
    checks.push(Check::Fail("Install Docker or Podman with compose support.".to_owned()));
    checks.extend(failed.into_iter().map(|why| Check::Note(format!("no compose: {why}"))));
    None
}

fn candidates(env: &Env) -> Vec<Candidate> {
    let own = |words: &str| {
        let check = words.split_whitespace().chain(["version"]).map(str::to_owned).collect();
        Candidate { words: words.to_owned(), check, also_needs: None }
    };
    let chosen = env.compose_bin.as_ref().map(|chosen| {
        let words = chosen.to_string_lossy();
        let is_a_program = env.program(&words).is_some();
        // A path with blanks is one word; `docker compose` is two.
        let check = if is_a_program { vec![words.to_string(), "version".to_owned()] } else { own(&words).check };
        Candidate { words: printable(chosen.as_bytes()), check, also_needs: None }
    });
    let podman_compose = Candidate {
        words: "podman-compose".to_owned(),
        check: vec!["podman".to_owned(), "info".to_owned()],
        also_needs: Some("podman-compose"),
    };
    let usual = [podman_compose, own("docker compose"), own("docker-compose"), own("podman compose")];
    chosen.into_iter().chain(usual).collect()
}

impl Candidate {
    /// Why it does not work; None when it does.
    fn obstacle(&self, env: &Env, cancel: &Signals) -> Option<String> {
        let program = self.check.first()?;
        if let Some(missing) =
            [Some(&program[..]), self.also_needs].into_iter().flatten().find(|name| env.program(name).is_none())
        {
            return Some(format!("no program `{missing}`"));
        }
        let mut command = child::command(program);
        command.args(&self.check[1..]).env_remove("DISCORD_TOKEN");
        let finished = match child::run(&mut command, ANSWER_TIMEOUT, cancel) {
            Ok(finished) => finished,
            Err(error) => return Some(plain(&error)),
        };
        let call = self.check.join(" ");
        match finished.end {
            End::Exited(status) if status.success() => None,
            End::Exited(status) => Some(format!("`{call}` failed with {}", child::status_text(status))),
            End::TimedOut | End::Cancelled => {
                Some(format!("`{call}` did not answer within {} s", ANSWER_TIMEOUT.as_secs()))
            }
        }
    }
}
