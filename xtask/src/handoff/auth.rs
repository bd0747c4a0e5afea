//! Whether a scrape will find a Discord token, and where. The token itself is looked at
//! and dropped: no value here holds it.

use crate::bounded::{self, Links, ReadError};
use crate::child::{self, Cancel, End};
use crate::env::Env;
use crate::text::path;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A token is short; more of a file than this is not read, in bytes.
const LARGEST: u64 = 1 << 20;

/// How long the discovery script may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Read or written by others than the owner.
const OTHERS: u32 = 0o066;

pub(crate) struct Auth {
    pub(crate) found: Option<TokenSource>,
    pub(crate) notes: Vec<String>,
}

/// Where a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenSource {
    EnvFile(PathBuf),
    Environment,
    File(PathBuf),
    /// What the discovery script finds.
    Discovery,
}

impl TokenSource {
    /// As the report has it.
    pub(crate) fn text(&self) -> String {
        match self {
            TokenSource::EnvFile(file) => {
                format!("{} has DISCORD_TOKEN", path(Path::new(file.file_name().unwrap_or(file.as_os_str()))))
            }
            TokenSource::Environment => "DISCORD_TOKEN exported in environment".to_owned(),
            TokenSource::File(file) => format!("token file {}", path(file)),
            TokenSource::Discovery => "token discoverable (GUI or config paths)".to_owned(),
        }
    }
}

impl Auth {
    /// Looks in all places, in the scraper's order, until there is a token.
    pub(crate) fn look(env: &Env, cancel: &Cancel) -> Auth {
        let mut notes = Vec::new();
        let found = in_env_file(env, &mut notes)
            .or_else(|| env.has_token.then_some(TokenSource::Environment))
            .or_else(|| token_files(env).into_iter().find_map(|file| in_token_file(file, env, &mut notes)))
            .or_else(|| discovered(env, cancel, &mut notes));
        Auth { found, notes }
    }

    pub(crate) fn problem(&self) -> Option<String> {
        let none = "No Discord token: set scrape.env, export DISCORD_TOKEN, or sync from GUI.";
        self.found.is_none().then(|| none.to_owned())
    }
}

fn in_env_file(env: &Env, notes: &mut Vec<String>) -> Option<TokenSource> {
    let text = read(&env.env_file, notes)?;
    has_token(&text).then(|| {
        notes.extend(exposure(&env.env_file));
        TokenSource::EnvFile(env.env_file.clone())
    })
}

fn token_files(env: &Env) -> Vec<PathBuf> {
    let mut files = vec![env.token_file.clone().unwrap_or_else(|| env.repo_root.join(".discord-token"))];
    if env.token_file.is_some() {
        files.push(env.repo_root.join(".discord-token"));
    }
    if let Some(home) = &env.home {
        files.extend([".config/discord-scrape/token", ".config/discord-token"].map(|name| home.join(name)));
    }
    files
}

fn in_token_file(file: PathBuf, env: &Env, notes: &mut Vec<String>) -> Option<TokenSource> {
    if env.token_file.as_ref() == Some(&file) && !file.exists() {
        notes.push(format!("DISCORD_TOKEN_FILE names {}, which is not there", path(&file)));
    }
    let text = read(&file, notes)?;
    let has_first_line = text.split(|&byte| byte == b'\n').next().is_some_and(|line| !line.trim_ascii().is_empty());
    has_first_line.then(|| {
        notes.extend(exposure(&file));
        TokenSource::File(file)
    })
}

fn discovered(env: &Env, cancel: &Cancel, notes: &mut Vec<String>) -> Option<TokenSource> {
    let script = env.repo_root.join("scripts/discover-discord-token.sh");
    env.program(script.to_str()?)?;
    let mut note = |why: &str| notes.push(format!("{}: {why}", path(&script)));
    match child::run(&mut child::command(&script), WITHIN, Some(cancel)) {
        Ok(finished) => match finished.end {
            End::Exited(status) => {
                let has_token = status.success() && !finished.stdout.trim_ascii().is_empty();
                if !has_token {
                    note("it found no token");
                }
                has_token.then_some(TokenSource::Discovery)
            }
            End::TimedOut | End::Cancelled => {
                note(&format!("no answer within {} s", WITHIN.as_secs()));
                None
            }
        },
        Err(error) => {
            note(&bounded::plain(&error));
            None
        }
    }
}

/// A file that may be there; what keeps it from being read is noted.
fn read(file: &Path, notes: &mut Vec<String>) -> Option<Vec<u8>> {
    match bounded::read(file, Links::Follow, LARGEST) {
        Ok(text) => Some(text),
        Err(ReadError::Missing) => None,
        Err(error) => {
            notes.push(format!("{} cannot be read: {error}", path(file)));
            None
        }
    }
}

/// A warning when others can read a file with a token.
fn exposure(file: &Path) -> Option<String> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    let word = || crate::text::shell_word(&file.to_string_lossy());
    (mode & OTHERS != 0).then(|| format!("others can read the token in {}: chmod 600 {}", path(file), word()))
}

/// Whether an env file sets `DISCORD_TOKEN` to something; as in a shell, the last line
/// that sets it counts.
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
