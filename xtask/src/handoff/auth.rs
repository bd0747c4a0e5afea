//! Whether a scrape will find a Discord token, and where. The token itself is looked at and dropped: no
//! value here holds it.

use crate::env::Env;
use crate::handoff::check::Check;
use crate::sys::child::{self, End, Finished};
use crate::sys::file::{self, Links, ReadError, plain};
use crate::sys::signals::Signals;
use crate::text::{path, shell_word};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Maximum size read of a file with a token.
const TOKEN_FILE_MAX_BYTES: u64 = 1 << 20;

/// How long the discovery script may take.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Permission of others to read or write.
const OTHERS_MODE: u32 = 0o066;

/// Looks everywhere, in the scraper's order, until there is a token; says where it is.
pub(crate) fn look(env: &Env, repo_root: &Path, cancel: &Signals, checks: &mut Vec<Check>) -> Option<String> {
    let env_file = env.env_file.clone().unwrap_or_else(|| repo_root.join("scrape.env"));
    let mut notes = Vec::new();
    let found = if holds_token(&env_file, is_token_set, &mut notes) {
        Some(format!("{} has DISCORD_TOKEN", path(env_file.file_name().unwrap_or(env_file.as_os_str()).as_ref())))
    } else if env.has_token {
        Some("DISCORD_TOKEN exported in environment".to_owned())
    } else {
        in_token_file(env, repo_root, &mut notes).or_else(|| discovered(env, repo_root, cancel, &mut notes))
    };
    checks.push(match &found {
        Some(place) => Check::Ok(format!("auth: {place}")),
        None => Check::Fail("No Discord token: set scrape.env, export DISCORD_TOKEN, or sync from GUI.".to_owned()),
    });
    checks.extend(notes.into_iter().map(Check::Note));
    found
}

fn in_token_file(env: &Env, repo_root: &Path, notes: &mut Vec<String>) -> Option<String> {
    if let Some(named) = env.token_file.as_ref().filter(|named| !named.exists()) {
        notes.push(format!("DISCORD_TOKEN_FILE names {}, which does not exist", path(named)));
    }
    let in_home = |name| Some(env.home.as_ref()?.join(name));
    let files = [
        env.token_file.clone(),
        Some(repo_root.join(".discord-token")),
        in_home(".config/discord-scrape/token"),
        in_home(".config/discord-token"),
    ];
    let has_first_line = |text: &[u8]| text.split(|&byte| byte == b'\n').next().is_some_and(is_not_blank);
    let found = files.into_iter().flatten().find(|file| holds_token(file, has_first_line, notes))?;
    Some(format!("token file {}", path(&found)))
}

fn discovered(env: &Env, repo_root: &Path, cancel: &Signals, notes: &mut Vec<String>) -> Option<String> {
    let script = repo_root.join("scripts/discover-discord-token.sh");
    env.program(script.to_str()?)?;
    let why = match child::run(&mut child::command(&script), DISCOVERY_TIMEOUT, cancel) {
        Ok(Finished { end: End::Exited(status), stdout, .. }) if status.success() && is_not_blank(&stdout) => {
            return Some("token discoverable (GUI or config paths)".to_owned());
        }
        Ok(Finished { end: End::Exited(_), .. }) => "it found no token".to_owned(),
        Ok(_) => format!("no answer within {} s", DISCOVERY_TIMEOUT.as_secs()),
        Err(error) => plain(&error),
    };
    notes.push(format!("{}: {why}", path(&script)));
    None
}

/// Whether a file, which may be missing, has a token by this test; notes what an operator should know about it.
fn holds_token(file: &Path, has_token: fn(&[u8]) -> bool, notes: &mut Vec<String>) -> bool {
    match file::read(file, Links::Follow, TOKEN_FILE_MAX_BYTES) {
        Ok(text) if has_token(&text) => {
            let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
            if mode & OTHERS_MODE != 0 {
                let word = shell_word(&file.to_string_lossy());
                notes.push(format!("others can read the token in {}: chmod 600 {word}", path(file)));
            }
            true
        }
        Ok(_) | Err(ReadError::Missing) => false,
        Err(error) => {
            notes.push(format!("{} cannot be read: {error}", path(file)));
            false
        }
    }
}

/// Whether an env file sets `DISCORD_TOKEN` to something. As in a shell, the last assignment counts.
fn is_token_set(env_file: &[u8]) -> bool {
    let value = |line: &[u8]| {
        let line = line.trim_ascii();
        let is_blank = |rest: &&[u8]| rest.first().is_some_and(u8::is_ascii_whitespace);
        let line = line.strip_prefix(b"export").filter(is_blank).unwrap_or(line);
        let value = line.trim_ascii_start().strip_prefix(b"DISCORD_TOKEN=")?;
        let word = match value {
            [quote @ (b'"' | b'\''), inner @ ..] => inner.split(|byte| byte == quote).next(),
            // What follows a blank outside quotes is a comment.
            bare => bare.split(u8::is_ascii_whitespace).next(),
        };
        word.map(is_not_blank)
    };
    env_file.split(|&byte| byte == b'\n').filter_map(value).next_back().unwrap_or(false)
}

fn is_not_blank(text: &[u8]) -> bool {
    !text.trim_ascii().is_empty()
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
            assert!(is_token_set(text.as_bytes()), "{text}");
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
            assert!(!is_token_set(text.as_bytes()), "{text}");
        }
    }
}
