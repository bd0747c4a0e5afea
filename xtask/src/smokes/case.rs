//! What a case file may say. Serde's enums here are externally tagged, because the
//! others lose the places of their errors.

use crate::config::Position;
use crate::smokes::stage::Names;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One smoke: how to set the stage, what to run, what must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The command line after `cargo xtask`.
    pub(crate) args: Vec<String>,
    /// Environment variables besides the clean few that every case has.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// It makes sense only where all processes can be seen: not in a container.
    #[serde(default)]
    pub(crate) host_only: bool,
    #[serde(default)]
    pub(crate) stage: StagePlan,
    pub(crate) expect: Expect,
}

/// What the stage holds besides the empty folders `archive`, `bin`, `home` and `tmp`
/// and, unless `files` has another, a config that names `archive`. Paths start at the stage's root.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StagePlan {
    pub(crate) folders: Vec<String>,
    /// Path and text.
    pub(crate) files: BTreeMap<String, String>,
    /// Path and where the link leads.
    pub(crate) links: BTreeMap<String, String>,
    pub(crate) fifos: Vec<String>,
    /// Path and permissions, as in `0o600`; set last.
    pub(crate) modes: BTreeMap<String, u32>,
    /// Path and size in bytes of files that hold nothing but a hole.
    pub(crate) holes: BTreeMap<String, u64>,
    pub(crate) lock: Option<LockPlan>,
}

/// The situation that the lock is in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum LockPlan {
    /// The file, and nobody who holds it.
    Unheld(UnheldPlan),
    /// A live child has it.
    Held(HeldPlan),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnheldPlan {
    #[serde(default = "usual_lock")]
    pub(crate) at: String,
    /// The text of the sidecar, if there is to be one.
    pub(crate) sidecar: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeldPlan {
    #[serde(default = "usual_lock")]
    pub(crate) at: String,
    pub(crate) by: HolderKind,
    /// Whoever took the lock is killed, and only a child of it has the descriptor.
    #[serde(default)]
    pub(crate) orphaned: bool,
    /// What happens to the lock file while it is held.
    pub(crate) lost: Option<Loss>,
    /// Put in the sidecar's place once the lock is held.
    pub(crate) sidecar: Option<String>,
}

/// How a lock file is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Loss {
    Deleted,
    Moved,
    /// Deleted, and made anew.
    Replaced,
}

/// Who holds the lock. They look different to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HolderKind {
    /// util-linux's `flock LOCK COMMAND`; writes no sidecar.
    Flock,
    /// Bash with the lock on a descriptor of its own, and a sidecar.
    HostRunner,
}

/// What must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) exit: i32,
    #[serde(default)]
    pub(crate) stdout: TextExpect,
    #[serde(default)]
    pub(crate) stderr: TextExpect,
    /// The case may create, write and remove files on its stage.
    #[serde(default)]
    pub(crate) writes: bool,
}

/// What a text must be. With nothing said, it must be empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TextExpect {
    /// The whole text; `[..]` stands for any part of a line, a line `...` for any lines.
    pub(crate) is: Option<String>,
    /// Lines that must be there, with `[..]`.
    pub(crate) has: Vec<String>,
    /// Lines that must not be there, with `[..]`.
    pub(crate) lacks: Vec<String>,
}

impl TextExpect {
    /// With the placeholders filled in.
    pub(crate) fn filled(mut self, names: &Names) -> anyhow::Result<TextExpect> {
        for text in self.is.iter_mut().chain(&mut self.has).chain(&mut self.lacks) {
            *text = names.fill(text)?;
        }
        Ok(self)
    }
}

impl Case {
    /// Reads a case file's text; an error says where.
    pub(crate) fn parse(text: &str) -> Result<Case, String> {
        toml::from_str(text).map_err(|error| {
            let position = Position::of(text.as_bytes(), error.span().map_or(0, |span| span.start));
            format!("{}:{}: {}", position.line, position.column, error.message().trim_end())
        })
    }
}

fn usual_lock() -> String {
    "archive/.dce-scrape.lock".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_with_their_place() {
        let mistake = |text| Case::parse(text).unwrap_err();
        assert!(mistake("args = []\nexpcet = 1").starts_with("2:1: unknown field `expcet`"));
        assert!(
            mistake("args = []\n[expect]\nexit = 0\n[stage.lock.held]\nby = \"nobody\"")
                .starts_with("5:6: unknown variant `nobody`")
        );
        assert!(mistake("args = []").contains("missing field `expect`"));
    }
}
