//! What attacks on the lock found, a test a finding: whatever happens around a scrape that
//! runs, nobody is told that the lock is free, and no second scrape starts.

mod clocks;
mod deadlines;
mod errors;
mod lock_run;
mod names;
mod table;

use crate::places::can_inspect_all;
use crate::sandbox::{MOUNTS, Sandbox, command, obstacle};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A test: its name, what may stand in its way here, and the test itself.
pub(crate) type Case = (&'static str, fn() -> Option<String>, fn());

pub(crate) const CASES: [&[Case]; 6] =
    [table::CASES, errors::CASES, names::CASES, clocks::CASES, lock_run::CASES, deadlines::CASES];

/// Another user than the one who tests, as a command to put before others.
const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

/// What is longer than this hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Shell functions beside the sandbox's own. Whatever they leave in the background ends with
/// the script, which holds the other end of a FIFO.
const PRELUDE: &str = r#"
meta=$lock.meta
mkfifo -m 666 "$ROOT/end" "$ROOT/ready"
exec 8<>"$ROOT/end"

# record PID [LINE]…: a sidecar.
record() { echo "pid=$1" >"$meta"; shift; for line; do echo "$line" >>"$meta"; done; }

# attempt NAME [WRAPPER]…: tries to scrape; keeps the exit code (9: refused) and whether the scrape ran.
attempt() {
    name=$1; shift
    set +e
    "$@" "$XTASK" lock-run --config "$ROOT/scrape.json" -E 9 -- touch "$ROOT/$name.ran" 8>&- 9>&- 2>"$ROOT/$name.err"
    echo $? >"$ROOT/$name.code"
    set -e
}

# hold_elsewhere FILE [WRAPPER]…: another process holds it, until the script ends; $holder is its pid.
hold_elsewhere() {
    file=$1; shift
    "$@" sh -c 'exec 9>>"$1"; flock -n 9; echo $$ >"$ROOT/ready"; read -r _ <"$ROOT/end"' sh "$file" 8>&- &
    read -r holder <"$ROOT/ready"
}

# idle: a process that holds nothing, until the script ends; $idle is its pid.
idle() {
    sh -c 'echo $$ >"$ROOT/ready"; read -r _ <"$ROOT/end"' 8>&- 9>&- 2>/dev/null &
    read -r idle <"$ROOT/ready"
}

# leave_child FILE: a shell takes it, is recorded, and ends; a child of it keeps the descriptor.
leave_child() {
    sh -c 'exec 9>>"$1"; flock -n 9; cat "$ROOT/end" & echo $$' sh "$1" >"$ROOT/gone" 8>&- 2>/dev/null
    record "$(cat "$ROOT/gone")"
}
"#;

/// Runs a script that may use the functions above.
#[track_caller]
fn script(sandbox: &Sandbox, wrapper: &[&str], script: &str) {
    sandbox.script(wrapper, &format!("{PRELUDE}\n{script}"));
}

/// Asserts the state that each `status NAME` was told, with the exit code that belongs to it.
/// An `attempt NAME` ran where that says free or stale, and nowhere else. `not free` is held or
/// unknown. Where some process cannot be inspected, free may be unknown.
#[track_caller]
fn assert_told(sandbox: &Sandbox, expected: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    let may_be_unknown = !can_inspect_all();
    for (name, expected) in expected {
        let status = sandbox.status(name);
        let exit = match &status.state[..] {
            "held" => 1,
            "unknown" => 2,
            _ => 0,
        };
        let is_unproven = may_be_unknown && *expected == "free" && status.state == "unknown";
        let is_as_expected = status.state == *expected || (*expected == "not free" && exit != 0) || is_unproven;
        if !is_as_expected || status.exit != exit {
            wrong.push(format!("{name}: {expected} expected: {status:?}"));
        }
        let may_run = matches!(*expected, "free" | "stale");
        match attempted(sandbox, name) {
            Some((0, true, _)) if may_run => {}
            Some((2 | 9, false, _)) if !may_run => {}
            Some((2, false, _)) if may_be_unknown => {}
            Some(other) => wrong.push(format!("{name}: lock-run (exit code, has run, said): {other:?}")),
            None => {}
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The exit code of `attempt NAME`, whether the scrape ran, and what was said; None without one.
fn attempted(sandbox: &Sandbox, name: &str) -> Option<(i32, bool, String)> {
    let text = |ending| std::fs::read_to_string(sandbox.at(&format!("{name}.{ending}"))).ok();
    Some((text("code")?.trim().parse().unwrap(), sandbox.at(&format!("{name}.ran")).exists(), text("err")?))
}

/// The whole answer that `status NAME` was given.
fn json(sandbox: &Sandbox, name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(sandbox.at(&format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// `lock-run` with a command, not started yet.
fn lock_run(sandbox: &Sandbox, words: &[&str]) -> Command {
    let mut run = command(&sandbox.bin);
    run.arg("lock-run").arg("--config").arg(sandbox.at("scrape.json")).args(["-E", "9", "--"]).args(words);
    run
}

/// Another command behind `wrapper`.
pub(crate) fn behind(wrapper: &[&str], inner: &Command) -> Command {
    let mut outer = command(wrapper[0]);
    outer.args(&wrapper[1..]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// A number that the caller may set, or the default.
fn number_from(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

/// Whether tests may take their full size: gigabytes, thousands of processes, minutes.
fn is_heavy() -> bool {
    number_from("XTASK_HEAVY", 0) > 0
}

/// `helper.c`, compiled.
fn helper(sandbox: &Sandbox) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/findings/helper.c");
    let program = sandbox.at("helper");
    let output = command("cc").args(["-O1", "-pthread", "-o"]).arg(&program).arg(source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// A process that says what it does, line by line, and ends with its input.
struct Talker(Child);

impl Talker {
    /// Starts one, and waits until it is READY.
    #[track_caller]
    fn start(command: &mut Command) -> Talker {
        let mut talker = Talker::start_quiet(command);
        assert_eq!(talker.line(), "READY");
        talker
    }

    fn start_quiet(command: &mut Command) -> Talker {
        Talker(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends its input; gives its exit code.
    fn end(&mut self) -> Option<i32> {
        drop(self.0.stdin.take());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        _ = self.0.wait();
    }
}

/// A process that holds the lock, behind `wrapper`.
#[track_caller]
fn holder(sandbox: &Sandbox, wrapper: &[&str]) -> Talker {
    let mut flock = command("flock");
    flock.arg(sandbox.lock()).args(["sh", "-c", "echo READY; read -r _"]);
    Talker::start(&mut if wrapper.is_empty() { flock } else { behind(wrapper, &flock) })
}

/// Looks until something is so; nothing tells when.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANGS;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {HANGS:?}");
    }
}

fn none() -> Option<String> {
    None
}

/// Others cannot look into every process: what nobody holds is then often unknown.
pub(crate) fn no_root() -> Option<String> {
    obstacle(&[], "[ $(id -u) = 0 ] || { echo needs root >&2; exit 1; }")
}

fn no_mounts() -> Option<String> {
    obstacle(MOUNTS, "mount -t tmpfs tmpfs \"$ROOT/archive\"")
}

fn no_other_user() -> Option<String> {
    obstacle(&[], &format!("{NOBODY} true"))
}

fn no_cc() -> Option<String> {
    obstacle(&[], "cc --version && taskset -c 0 true && flock /dev/null true")
}

fn no_strace() -> Option<String> {
    obstacle(&[], "strace -f -o /dev/null -e inject=pidfd_open:error=ENOSYS true")
}
