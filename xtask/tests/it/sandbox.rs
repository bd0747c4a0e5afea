//! A folder with an archive, a config and the program, for scripts to run in.

use serde::Deserialize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// What precedes every script. `hold FILE` takes a lock as the host runner does, on a descriptor of the
/// shell's own; `status NAME [WRAPPER]…` asks about the lock, perhaps as another user or from a container,
/// and keeps the answer.
const PRELUDE: &str = r#"
lock=$ROOT/archive/.dce-scrape.lock
hold() { exec 9>>"$1"; flock -n 9; }
release() { exec 9>&-; }
status() {
    name=$1; shift
    set +e
    "$@" "$XTASK" lock-status --config "$ROOT/scrape.json" --format json 9>&- >"$ROOT/$name.json"
    echo $? >"$ROOT/$name.exit"
    set -e
}
"#;

/// How long a script may take, be the machine ever so busy.
const SCRIPT_TIMEOUT_SECONDS: &str = "300";

/// In a mount namespace of its own: its mounts go with the script.
pub(crate) const MOUNTS: &[&str] = &["unshare", "--mount"];

/// In a PID namespace of its own too.
pub(crate) const CONTAINER: &[&str] = &["unshare", "--mount", "--pid", "--fork", "--mount-proc"];

pub(crate) struct Sandbox {
    folder: TempDir,
    pub(crate) bin: PathBuf,
}

/// An answer of `lock-status --format json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) exit: i32,
    pub(crate) state: String,
    pub(crate) summary: String,
    pub(crate) holders: Vec<Holder>,
    pub(crate) holders_complete: bool,
    pub(crate) waiters: usize,
    pub(crate) observed_via: String,
    pub(crate) notes: Vec<String>,
    pub(crate) next: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

impl Sandbox {
    pub(crate) fn new() -> Sandbox {
        let folder = open_folder();
        let sandbox = Sandbox { bin: folder.path().join("xtask"), folder };
        // Not by this process: a child of another thread would have the program open for writing too, and
        // nobody could run it (ETXTBSY, execve(2)).
        assert!(command("cp").arg(env!("CARGO_BIN_EXE_xtask")).arg(&sandbox.bin).status().unwrap().success());
        std::fs::create_dir(sandbox.at("archive")).unwrap();
        std::fs::write(sandbox.at("scrape.json"), r#"{ "archive_root": "archive" }"#).unwrap();
        // Other users come here too, and some write.
        std::fs::set_permissions(sandbox.at("."), PermissionsExt::from_mode(0o777)).unwrap();
        sandbox
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.at("archive/.dce-scrape.lock")
    }

    /// Runs a script behind `wrapper`; it must succeed.
    pub(crate) fn script(&self, wrapper: &[&str], script: &str) {
        if let Err(why) = run(self.folder.path(), &self.bin, wrapper, script) {
            panic!("the script failed: {why}");
        }
    }

    /// What `status NAME` in a script was told.
    pub(crate) fn status(&self, name: &str) -> Status {
        let json = std::fs::read(self.at(&format!("{name}.json"))).unwrap();
        let exit = std::fs::read_to_string(self.at(&format!("{name}.exit"))).unwrap();
        let status = serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{name}: {error}, exit {exit}"));
        Status { exit: exit.trim().parse().unwrap(), ..status }
    }

    /// `lock-status` in the ordinary way.
    pub(crate) fn ask(&self) -> Status {
        let output = self.ask_with(&["--format", "json"]).output().unwrap();
        let status = serde_json::from_slice(&output.stdout).unwrap();
        Status { exit: output.status.code().unwrap(), ..status }
    }

    pub(crate) fn ask_with(&self, args: &[&str]) -> Command {
        let mut ask = command(&self.bin);
        ask.arg("lock-status").arg("--config").arg(self.at("scrape.json")).args(args);
        ask
    }
}

/// A temporary folder that other users may come to, even where the usual place is root's own.
fn open_folder() -> TempDir {
    let usual = std::env::temp_dir();
    let is_open = |folder: &Path| folder.metadata().is_ok_and(|folder| folder.permissions().mode() & 1 == 1);
    let place = if usual.ancestors().all(is_open) { &usual } else { Path::new("/tmp") };
    tempfile::tempdir_in(place).or_else(|_| tempfile::tempdir()).unwrap()
}

/// Why a script cannot run here; None when it can.
pub(crate) fn obstacle(wrapper: &[&str], script: &str) -> Option<String> {
    let folder = open_folder();
    std::fs::create_dir(folder.path().join("archive")).unwrap();
    run(folder.path(), Path::new("true"), wrapper, script).err()
}

fn run(root: &Path, bin: &Path, wrapper: &[&str], script: &str) -> Result<(), String> {
    let script = format!("set -eu\n{PRELUDE}\n{script}");
    let words: Vec<&str> =
        ["timeout", SCRIPT_TIMEOUT_SECONDS].iter().chain(wrapper).copied().chain(["sh", "-c", &script]).collect();
    let mut shell = command(words[0]);
    let Output { status, stderr, .. } = shell
        .args(&words[1..])
        .env("ROOT", root)
        .env("XTASK", bin)
        .output()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    let said = String::from_utf8_lossy(&stderr).trim().replace('\n', "; ");
    if status.success() { Ok(()) } else { Err(format!("{status}: {said}")) }
}

pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in ["DCE_SCRAPE_LOCK_FILE", "DCE_CONFIG_FILE", "DCE_REPO_ROOT", "DCE_SKIP_SCRAPE_LOCK"] {
        command.env_remove(name);
    }
    command
}
