//! Which compose program there is.

use crate::child::{self, Cancel, End};
use crate::env::Env;
use crate::text::printable;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// How long a program may take to answer.
const WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Compose {
    /// The words to call it by.
    pub(crate) found: Option<String>,
    /// What did not work before it, and why.
    pub(crate) tried: Vec<String>,
}

/// Words that name a compose program, and the call that shows whether it works.
struct Candidate {
    words: String,
    check: Vec<String>,
    /// A program that the check does not call and that must be there.
    also_needs: Option<&'static str>,
}

impl Compose {
    /// Tries all there can be, in the scraper's order, until one works.
    pub(crate) fn look(env: &Env, cancel: &Cancel) -> Compose {
        let mut tried = Vec::new();
        for candidate in candidates(env) {
            match candidate.obstacle(env, cancel) {
                None => return Compose { found: Some(candidate.words), tried },
                Some(why) => tried.push(format!("`{}`: {why}", candidate.words)),
            }
        }
        Compose { found: None, tried }
    }

    pub(crate) fn problem(&self) -> Option<String> {
        self.found.is_none().then(|| "Install Docker or Podman with compose support.".to_owned())
    }

    /// What to know besides: why there is none, or why it is not the one that was asked for.
    pub(crate) fn notes(&self, env: &Env) -> Vec<String> {
        match &self.found {
            Some(_) if env.compose_bin.is_some() => {
                self.tried.first().map(|tried| format!("DCE_COMPOSE_BIN does not work: {tried}")).into_iter().collect()
            }
            Some(_) => Vec::new(),
            None => self.tried.iter().map(|tried| format!("no compose: {tried}")).collect(),
        }
    }
}

fn candidates(env: &Env) -> Vec<Candidate> {
    let own = |words: &str| {
        let check = words.split_whitespace().chain(["version"]).map(str::to_owned).collect();
        Candidate { words: words.to_owned(), check, also_needs: None }
    };
    let chosen = env.compose_bin.as_ref().map(|chosen| {
        let words = chosen.to_string_lossy();
        let is_a_program = env.program(&words).is_some();
        // A path with blanks in it is one word; `docker compose` is two.
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
    fn obstacle(&self, env: &Env, cancel: &Cancel) -> Option<String> {
        let program = self.check.first()?;
        if let Some(missing) =
            [Some(&program[..]), self.also_needs].into_iter().flatten().find(|name| env.program(name).is_none())
        {
            return Some(format!("no program `{missing}`"));
        }
        let mut command = child::command(program);
        command.args(&self.check[1..]).env_remove("DISCORD_TOKEN");
        let finished = match child::run(&mut command, WITHIN, Some(cancel)) {
            Ok(finished) => finished,
            Err(error) => return Some(crate::bounded::plain(&error)),
        };
        let call = self.check.join(" ");
        match finished.end {
            End::Exited(status) if status.success() => None,
            End::Exited(status) => Some(match status.code() {
                Some(code) => format!("`{call}` failed with exit code {code}"),
                None => format!("`{call}` was killed by signal {}", status.signal().unwrap_or(0)),
            }),
            End::TimedOut | End::Cancelled => Some(format!("`{call}` did not answer within {} s", WITHIN.as_secs())),
        }
    }
}
