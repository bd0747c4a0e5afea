//! Whether a scrape will find a Discord token, and where. The token itself is looked at and dropped: no
//! value here holds it.

use crate::env::Env;
use crate::handoff::check::{Finding, edit, fail, note, ok};
use crate::handoff::watch::{ANSWER_TIMEOUT, Watch};
use crate::sys::child::{self, End, Finished};
use crate::sys::file::{self, Links, ReadError, plain};
use crate::text::{path, printable, shell_path};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Maximum size read of a file with a token.
const TOKEN_FILE_MAX_BYTES: u64 = 1 << 20;

/// Permission of others to read or write.
const OTHERS_MODE: u32 = 0o066;

/// What the file that `DCE_ENV_FILE` names sets, as the host runner reads it: line by line, not as a shell does.
#[derive(Default)]
pub(crate) struct EnvFile {
    path: PathBuf,
    /// Whether `DISCORD_TOKEN` is set to something; None if the file does not mention it.
    has_token: Option<bool>,
    token_file: Option<PathBuf>,
    /// `DCE_CONTAINER_MEMORY`, printable.
    pub(crate) container_memory: Option<String>,
    /// Why the host runner stops at it.
    problem: Option<String>,
    /// What it sets for the host runner, which is not looked at here.
    unseen: Vec<&'static str>,
}

/// Variables that this program takes from the environment alone.
const FROM_ENVIRONMENT: [&str; 5] =
    ["DCE_MIN_FREE_MB", "DCE_COMPOSE_BIN", "DCE_DOCKER_BIN", "DCE_SCRAPE_LOCK_FILE", "DCE_SKIP_SCRAPE_LOCK"];

/// Where the token is, or why there is none.
#[derive(Default)]
pub(crate) struct Auth {
    pub(crate) place: Option<String>,
    /// Where there is none, and why.
    tried: Vec<String>,
    /// What others can read.
    pub(crate) exposed: Vec<Finding>,
}

impl EnvFile {
    pub(crate) fn read(env: &Env, repo_root: &Path) -> EnvFile {
        let path = env.env_file.clone().unwrap_or_else(|| repo_root.join("scrape.env"));
        match file::read(&path, Links::Follow, TOKEN_FILE_MAX_BYTES) {
            Ok(text) => EnvFile { path, ..EnvFile::parse(&text) },
            Err(ReadError::Missing | ReadError::NotAFile(_)) => EnvFile { path, ..EnvFile::default() },
            Err(error) => EnvFile { path, problem: Some(format!("cannot be read: {error}")), ..EnvFile::default() },
        }
    }

    fn parse(text: &[u8]) -> EnvFile {
        let mut file = EnvFile::default();
        for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let assignment = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
            let Some((name, value)) = split_assignment(assignment) else {
                // The line itself may be a token.
                file.problem.get_or_insert(format!("line {} is not NAME=VALUE", number + 1));
                continue;
            };
            let value = unquoted(value);
            match name {
                // A comment in place of a value is part of the value there, but no token.
                b"DISCORD_TOKEN" => {
                    file.has_token = Some(is_not_blank(value) && !value.trim_ascii_start().starts_with(b"#"))
                }
                b"DISCORD_TOKEN_FILE" => {
                    file.token_file = Some(OsStr::from_bytes(value).into()).filter(|_| !value.is_empty())
                }
                b"DCE_CONTAINER_MEMORY" => {
                    file.container_memory = Some(printable(value.trim_ascii())).filter(|value| !value.is_empty());
                }
                name => file.unseen.extend(FROM_ENVIRONMENT.iter().filter(|unseen| unseen.as_bytes() == name)),
            }
        }
        file
    }

    /// Whether the host runner can use the file.
    pub(crate) fn check(&self) -> Vec<Finding> {
        let problem = self.problem.iter();
        let problem = problem.map(|why| fail(format!("{}: {why}", path(&self.path)), edit(&self.path)));
        let unseen = self.unseen.iter().map(|name| {
            note(format!("{} sets {name} for the scraper, but only the environment counts here", path(&self.path)))
        });
        problem.chain(unseen).collect()
    }

    /// The hint for a file without a token.
    fn hint(&self) -> String {
        let edit = edit(&self.path) + "   # DISCORD_TOKEN=…";
        if self.path.exists() { edit } else { format!("install -m 600 /dev/null {}; {edit}", shell_path(&self.path)) }
    }
}

/// The name and the value of an assignment.
fn split_assignment(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = line.split_at(line.iter().position(|&byte| byte == b'=')?);
    let is_name =
        !name.first()?.is_ascii_digit() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    is_name.then_some((name, &value[1..]))
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        other => other,
    }
}

impl Auth {
    /// Looks everywhere, in the host runner's order, until there is a token.
    pub(crate) fn look(env: &Env, env_file: &EnvFile, repo_root: &Path, watch: &Watch) -> Auth {
        watch.progress.now("looking for a token".to_owned());
        let mut auth = Auth::default();
        auth.place = auth.find(env, env_file, repo_root, watch);
        auth
    }

    pub(crate) fn check(&self, env_file: &EnvFile) -> Vec<Finding> {
        if let Some(place) = &self.place {
            return vec![ok(format!("auth: {place}"))];
        }
        let line = "No Discord token: set scrape.env, export DISCORD_TOKEN, or sync from GUI.";
        let tried = self.tried.iter().map(|what| note(format!("no token: {what}")));
        std::iter::once(fail(line, env_file.hint())).chain(tried).collect()
    }

    fn find(&mut self, env: &Env, env_file: &EnvFile, repo_root: &Path, watch: &Watch) -> Option<String> {
        let named = env_file.token_file.as_ref().or(env.token_file.as_ref());
        // The host runner reads it first, and stops if it is empty.
        let in_named = match named.filter(|file| file.is_file()) {
            Some(file) => Some(self.in_file(file)?),
            None => None,
        };
        if env_file.has_token == Some(true) {
            self.warn_if_exposed(&env_file.path);
            return Some(format!("{} has DISCORD_TOKEN", path(env_file.path.file_name().unwrap_or_default().as_ref())));
        }
        if in_named.is_some() {
            return in_named;
        }
        self.tried.push(format!("{} sets no DISCORD_TOKEN", path(&env_file.path)));
        if env.has_token && env_file.has_token.is_none() {
            return Some("DISCORD_TOKEN exported in environment".to_owned());
        }
        self.tried.push(match env.has_token {
            true => format!("{} sets DISCORD_TOKEN to nothing, which overrides the environment", path(&env_file.path)),
            false => "DISCORD_TOKEN is not set in the environment".to_owned(),
        });
        let in_home = [".config/discord-scrape/token", ".config/discord-token"];
        let in_home = env.home.iter().flat_map(|home| in_home.map(|name| home.join(name)));
        for file in std::iter::once(repo_root.join(".discord-token")).chain(in_home) {
            if file.is_file() {
                // Again it reads no further, whatever is in it.
                return self.in_file(&file);
            }
            self.tried.push(format!("{} does not exist", path(&file)));
        }
        if let Some(file) = named {
            self.tried.push(format!("DISCORD_TOKEN_FILE names {}, which does not exist", path(file)));
            return None;
        }
        self.discovered(env, repo_root, watch)
    }

    /// Whether the first line of a file is a token.
    fn in_file(&mut self, file: &Path) -> Option<String> {
        let has_first_line = |text: Vec<u8>| text.split(|&byte| byte == b'\n').next().is_some_and(is_not_blank);
        self.tried.push(match file::read(file, Links::Follow, TOKEN_FILE_MAX_BYTES).map(has_first_line) {
            Ok(true) => {
                self.warn_if_exposed(file);
                return Some(format!("token file {}", path(file)));
            }
            Ok(false) => format!("the first line of {} is empty", path(file)),
            Err(error) => format!("{} cannot be read: {error}", path(file)),
        });
        None
    }

    fn discovered(&mut self, env: &Env, repo_root: &Path, watch: &Watch) -> Option<String> {
        let script = repo_root.join("scripts/discover-discord-token.sh");
        if env.program(&script.to_string_lossy()).is_none() {
            self.tried.push(format!("{} does not exist", path(&script)));
            return None;
        }
        let why = match child::run(&mut child::command(&script), ANSWER_TIMEOUT, &watch.cancel) {
            Ok(Finished { end: End::Exited(status), stdout, .. }) if status.success() && is_not_blank(&stdout) => {
                return Some("token discoverable (GUI or config paths)".to_owned());
            }
            Ok(Finished { end: End::Exited(_), .. }) => "found none".to_owned(),
            Ok(_) => format!("did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
            Err(error) => plain(&error),
        };
        self.tried.push(format!("{}: {why}", path(&script)));
        None
    }

    fn warn_if_exposed(&mut self, file: &Path) {
        let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
        if mode & OTHERS_MODE != 0 {
            let line = format!("others can read the token in {}: chmod 600 {}", path(file), shell_path(file));
            self.exposed.push(note(line));
        }
    }
}

fn is_not_blank(text: &[u8]) -> bool {
    !text.trim_ascii().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_an_env_file_is_seen_as_the_host_runner_sees_it() {
        for text in [
            "DISCORD_TOKEN=x",
            "A=1\n  export DISCORD_TOKEN=x\r\n",
            "DISCORD_TOKEN=\"x\"",
            "DISCORD_TOKEN='x'",
            "DISCORD_TOKEN=\nDISCORD_TOKEN=x",
        ] {
            assert_eq!(EnvFile::parse(text.as_bytes()).has_token, Some(true), "{text}");
        }
        for text in [
            "DISCORD_TOKEN=",
            "DISCORD_TOKEN=\r",
            "DISCORD_TOKEN=''",
            "DISCORD_TOKEN= # none",
            "DISCORD_TOKEN=x\nDISCORD_TOKEN=",
        ] {
            assert_eq!(EnvFile::parse(text.as_bytes()).has_token, Some(false), "{text}");
        }
        for text in ["", "#DISCORD_TOKEN=x", "MY_DISCORD_TOKEN=x", "DISCORD_TOKEN_FILE=x"] {
            assert_eq!(EnvFile::parse(text.as_bytes()).has_token, None, "{text}");
        }
    }

    #[test]
    fn lines_that_stop_the_host_runner_are_named_by_number_only() {
        for text in ["\nDISCORD_TOKEN", "# a\n1A=x", "A=1\n  secret words", "\nexport\tA=x", "A=1\n=x"] {
            assert_eq!(EnvFile::parse(text.as_bytes()).problem.as_deref(), Some("line 2 is not NAME=VALUE"), "{text}");
        }
        let sound = EnvFile::parse(b"A=1\n\n # x\nexport B=\"2\"\nDCE_CONTAINER_MEMORY= 8g \nDISCORD_TOKEN_FILE=/t\n");
        assert_eq!((sound.problem, sound.container_memory.as_deref()), (None, Some("8g")));
        assert_eq!(sound.token_file.as_deref(), Some(Path::new("/t")));
    }
}
