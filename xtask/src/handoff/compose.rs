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

/// The usual programs in the scraper's order, each with the command that shows whether it works.
const USUAL: [(&str, &str); 4] = [
    ("podman-compose", "podman info"),
    ("docker compose", "docker compose version"),
    ("docker-compose", "docker-compose version"),
    ("podman compose", "podman compose version"),
];

/// Tries `DCE_COMPOSE_BIN` and the usual programs; gives the first that works.
pub(crate) fn look(env: &Env, cancel: &Signals, checks: &mut Vec<Check>) -> Option<String> {
    let chosen = env.compose_bin.as_ref().map(|chosen| {
        let words = chosen.to_string_lossy();
        // A path with blanks is one word; `docker compose` is two.
        let call = if env.program(&words).is_some() { vec![&*words] } else { words.split_whitespace().collect() };
        (printable(chosen.as_bytes()), obstacle(&[&call[..], &["version"]].concat(), None, env, cancel))
    });
    // Each is tried only when the loop below comes to it.
    let usual = USUAL.iter().map(|(name, call)| {
        let call: Vec<&str> = call.split(' ').collect();
        (name.to_string(), obstacle(&call, name.split(' ').next(), env, cancel))
    });
    let mut failed = Vec::new();
    for (name, obstacle) in chosen.into_iter().chain(usual) {
        let Some(why) = obstacle else {
            checks.push(Check::Ok(format!("compose: {name}")));
            let chosen = failed.first().filter(|_| env.compose_bin.is_some());
            checks.extend(chosen.map(|why| Check::Note(format!("DCE_COMPOSE_BIN does not work: {why}"))));
            return Some(name);
        };
        failed.push(format!("`{name}`: {why}"));
    }
    checks.push(Check::Fail("Install Docker or Podman with compose support.".to_owned()));
    checks.extend(failed.into_iter().map(|why| Check::Note(format!("no compose: {why}"))));
    None
}

/// Why a call does not work; None when it does. `also_needs` must exist although the call may not run it.
fn obstacle(call: &[&str], also_needs: Option<&str>, env: &Env, cancel: &Signals) -> Option<String> {
    let (program, arguments) = call.split_first()?;
    if let Some(missing) = [Some(*program), also_needs].into_iter().flatten().find(|name| env.program(name).is_none()) {
        return Some(format!("no program `{}`", printable(missing.as_bytes())));
    }
    let mut command = child::command(program);
    command.args(arguments).env_remove("DISCORD_TOKEN");
    let call = printable(call.join(" ").as_bytes());
    match child::run(&mut command, ANSWER_TIMEOUT, cancel).map(|finished| finished.end) {
        Ok(End::Exited(status)) if status.success() => None,
        Ok(End::Exited(status)) => Some(format!("`{call}` failed with {}", child::status_text(status))),
        Ok(End::TimedOut | End::Cancelled) => {
            Some(format!("`{call}` did not answer within {} s", ANSWER_TIMEOUT.as_secs()))
        }
        Err(error) => Some(plain(&error)),
    }
}
