//! Whether a scrape will find a Discord token, and where. The token itself is looked at and dropped: no
//! value here holds it.

use crate::env::Env;
use crate::handoff::check::Check;
use crate::sys::child::{self, End};
use crate::sys::file::{self, Links, ReadError, plain};
use crate::sys::signals::Signals;
use crate::text::{path, shell_word};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Maximum size read of a file with a token.
const TOKEN_FILE_MAX_BYTES: u64 = 1 << 20;

/// How long the discovery script may take.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Permission of others to read or write.
const OTHERS_MODE: u32 = 0o066;

/// Looks everywhere, in the scraper's order, until there is a token; says where it is.
pub(crate) fn look(env: &Env, repo_root: &Path, cancel: &Signals, checks: &mut Vec<Check>) -> Option<String> {
    let mut notes = Vec::new();
    let found = in_env_file(env, repo_root, &mut notes)
        .or_else(|| env.has_token.then(|| "DISCORD_TOKEN exported in environment".to_owned()))
        .or_else(|| token_files(env, repo_root).iter().find_map(|file| in_token_file(file, env, &mut notes)))
        .or_else(|| discovered(env, repo_root, cancel, &mut notes));
    checks.push(match &found {
        Some(place) => Check::Ok(format!("auth: {place}")),
        None => Check::Fail("No Discord token: set scrape.env, export DISCORD_TOKEN, or sync from GUI.".to_owned()),
    });
    checks.extend(notes.into_iter().map(Check::Note));
    found
}

fn in_env_file(env: &Env, repo_root: &Path, notes: &mut Vec<String>) -> Option<String> {
    let file = env.env_file.clone().unwrap_or_else(|| repo_root.join("scrape.env"));
    let text = read(&file, notes)?;
    has_token(&text).then(|| {
        notes.extend(exposure(&file));
        format!("{} has DISCORD_TOKEN", path(Path::new(file.file_name().unwrap_or(file.as_os_str()))))
    })
}

fn token_files(env: &Env, repo_root: &Path) -> Vec<PathBuf> {
    let in_home = |name: &str| env.home.as_ref().map(|home| home.join(name));
    let own = env.token_file.clone().into_iter().chain([repo_root.join(".discord-token")]);
    own.chain([".config/discord-scrape/token", ".config/discord-token"].into_iter().filter_map(in_home)).collect()
}

fn in_token_file(file: &Path, env: &Env, notes: &mut Vec<String>) -> Option<String> {
    if env.token_file.as_deref() == Some(file) && !file.exists() {
        notes.push(format!("DISCORD_TOKEN_FILE names {}, which does not exist", path(file)));
    }
    let text = read(file, notes)?;
    let has_first_line = text.split(|&byte| byte == b'\n').next().is_some_and(|line| !line.trim_ascii().is_empty());
    has_first_line.then(|| {
        notes.extend(exposure(file));
        format!("token file {}", path(file))
    })
}

fn discovered(env: &Env, repo_root: &Path, cancel: &Signals, notes: &mut Vec<String>) -> Option<String> {
    let script = repo_root.join("scripts/discover-discord-token.sh");
    env.program(script.to_str()?)?;
    let why = match child::run(&mut child::command(&script), DISCOVERY_TIMEOUT, cancel) {
        Ok(finished) => match finished.end {
            End::Exited(status) if status.success() && !finished.stdout.trim_ascii().is_empty() => {
                return Some("token discoverable (GUI or config paths)".to_owned());
            }
            End::Exited(_) => "it found no token".to_owned(),
            End::TimedOut | End::Cancelled => format!("no answer within {} s", DISCOVERY_TIMEOUT.as_secs()),
        },
        Err(error) => plain(&error),
    };
    notes.push(format!("{}: {why}", path(&script)));
    None
}

/// Reads a file that may exist; if it cannot be read, a note says why.
fn read(file: &Path, notes: &mut Vec<String>) -> Option<Vec<u8>> {
    match file::read(file, Links::Follow, TOKEN_FILE_MAX_BYTES) {
        Ok(text) => Some(text),
        Err(ReadError::Missing) => None,
        Err(error) => {
            notes.push(format!("{} cannot be read: {error}", path(file)));
            None
        }
    }
}

/// A warning if others can read a file with a token.
fn exposure(file: &Path) -> Option<String> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    let word = || shell_word(&file.to_string_lossy());
    (mode & OTHERS_MODE != 0).then(|| format!("others can read the token in {}: chmod 600 {}", path(file), word()))
}

/// Whether an env file sets `DISCORD_TOKEN` to something. As in a shell, the last assignment counts.
fn has_token(env_file: &[u8]) -> bool {
    let value = |line: &[u8]| {
        let line = line.trim_ascii();
        let is_blank = |rest: &&[u8]| rest.first().is_some_and(u8::is_ascii_whitespace);
        let line = line.strip_prefix(b"export").filter(is_blank).unwrap_or(line);
        let value = line.trim_ascii_start().strip_prefix(b"DISCORD_TOKEN=")?;
        let quoted = [b'"', b'\''].iter().find_map(|quote| {
            let inner = value.strip_prefix(std::slice::from_ref(quote))?;
            inner.split(|byte| byte == quote).next()
        });
        // What follows a blank outside quotes is a comment.
        let bare = || value.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        Some(!quoted.unwrap_or_else(bare).trim_ascii().is_empty())
    };
    env_file.split(|&byte| byte == b'\n').filter_map(value).next_back().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_an_env_file_is_seen_as_a_shell_sees_it() {
        for text in [
            "DISCORD_TOKEN=x",
            "A=1\n  export DISCORD_TOKEN=x\r\n",
            "DISCORD_TOKEN=\"x\" # mine",
            "DISCORD_TOKEN='x'",
            "export\tDISCORD_TOKEN=x",
            "DISCORD_TOKEN=\nDISCORD_TOKEN=x",
        ] {
            assert!(has_token(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "DISCORD_TOKEN",
            "DISCORD_TOKEN=",
            "DISCORD_TOKEN=\r",
            "DISCORD_TOKEN=''",
            "DISCORD_TOKEN=\"\"",
            "DISCORD_TOKEN= # none",
            "#DISCORD_TOKEN=x",
            "MY_DISCORD_TOKEN=x",
            "exportDISCORD_TOKEN=x",
            "DISCORD_TOKEN=x\nDISCORD_TOKEN=",
            "DISCORD_TOKEN_FILE=x",
        ] {
            assert!(!has_token(text.as_bytes()), "{text}");
        }
    }
}
