//! Which compose program works.

use crate::env::Env;
use crate::handoff::check::{Finding, fail, note, ok};
use crate::handoff::trial::Trial;
use crate::handoff::watch::{ANSWER_TIMEOUT, Watch};
use crate::text::printable;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

/// The usual programs in the scraper's order, each with the call that shows whether it works.
const USUAL: [(&str, &str); 4] = [
    ("podman-compose", "podman info"),
    ("docker compose", "docker compose version"),
    ("docker-compose", "docker-compose version"),
    ("podman compose", "podman compose version"),
];

/// The compose program that the scraper will use: what `DCE_COMPOSE_BIN` or `DCE_DOCKER_BIN` names and nothing else,
/// or the first usual one that works.
pub(crate) struct Compose {
    pub(crate) program: Option<String>,
    pub(crate) findings: Vec<Finding>,
}

impl Compose {
    pub(crate) fn look(env: &Env, watch: &Watch) -> Compose {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let (variable, chosen, arguments) = match (&env.compose_bin, &env.docker_bin) {
            (Some(chosen), _) => ("DCE_COMPOSE_BIN", chosen, &["version"][..]),
            (None, Some(chosen)) => ("DCE_DOCKER_BIN", chosen, &["compose", "version"][..]),
            (None, None) => return Compose::usual(env, until, watch),
        };
        let (name, program) = (printable(chosen.as_bytes()), chosen.to_string_lossy());
        let words = [&[&*program], arguments].concat();
        let Some(why) = Trial::start(&words, None, env).obstacle(until, watch) else {
            return Compose { findings: vec![ok(format!("compose: {name}"))], program: Some(name) };
        };
        let has_blank = chosen.as_bytes().trim_ascii().contains(&b' ');
        let word = if has_blank { "; the scraper takes all of it for the program's name" } else { "" };
        let hint = format!("unset {variable}, or set it to a program that answers `{}`", arguments.join(" "));
        let line = format!("{variable} is `{name}`, which does not work: {why}{word}");
        Compose { program: None, findings: vec![fail(line, hint)] }
    }

    /// Starts all the usual programs at once, and takes the first that works.
    fn usual(env: &Env, until: Instant, watch: &Watch) -> Compose {
        let start = |(name, call): (&'static str, &str)| {
            let words: Vec<&str> = call.split(' ').collect();
            (name, Trial::start(&words, name.split(' ').next(), env))
        };
        let hint = "sudo apt-get install docker-compose-v2; docker compose version";
        let mut findings = vec![fail("Install Docker or Podman with compose support.", hint)];
        for (name, trial) in USUAL.map(start) {
            if let Some(why) = trial.obstacle(until, watch) {
                findings.push(note(format!("no compose: `{name}`: {why}")));
                continue;
            }
            findings = vec![ok(format!("compose: {name}"))];
            findings.extend(host_runners_choice(name, env).map(note));
            return Compose { program: Some(name.to_owned()), findings };
        }
        Compose { program: None, findings }
    }
}

/// How the scraper's host runner differs from the order that the scraper itself checks.
fn host_runners_choice(found: &str, env: &Env) -> Option<String> {
    let takes = match ["docker-compose", "docker"].map(|name| env.program(name).is_some()) {
        [false, false] => {
            return Some(
                "the scraper's host runner also looks for `docker` or `docker-compose` on PATH, unless told otherwise: \
                 export DCE_DOCKER_BIN=podman"
                    .to_owned(),
            );
        }
        _ if found == "podman-compose" => found,
        [true, _] => "docker-compose",
        [false, true] => "docker compose",
    };
    // Podman is the last in the scraper's order.
    let is_broken = found == "podman compose";
    let but = if is_broken { ", but does not work: export DCE_DOCKER_BIN=podman" } else { "" };
    (takes != found).then(|| format!("the scraper's host runner takes `{takes}`, which is on PATH too{but}"))
}
