//! The smokes' own test: programs that are wrong in one way each, and each must be caught.

use crate::sandbox::{Sandbox, command};
use std::io::Write;
use std::process::Stdio;

/// Name, and a shell script around the right program, `$X`. `filter SED "$@"` changes what
/// it prints and keeps its exit code.
const MUTANTS: [(&str, &str); 16] = [
    ("always free", r#"filter 's/^state: .*/state: free (lock file present but not held)/' "$@"; exit 0"#),
    ("always held", r#"filter 's/^state: .*/state: held (active scrape)/' "$@"; exit 1"#),
    ("exit codes swapped", r#""$X" "$@"; case $? in 0) exit 1;; 1) exit 0;; *) exit 2;; esac"#),
    ("unknown taken for free", r#""$X" "$@"; code=$?; [ $code = 2 ] && exit 0; exit $code"#),
    ("held taken for unknown", r#""$X" "$@"; code=$?; [ $code = 1 ] && exit 2; exit $code"#),
    ("override ignored", r#"unset DCE_SCRAPE_LOCK_FILE; exec "$X" "$@""#),
    (
        "empty override taken for one",
        r#"[ "${DCE_SCRAPE_LOCK_FILE-x}" ] || export DCE_SCRAPE_LOCK_FILE=./; exec "$X" "$@""#,
    ),
    (
        "sidecar trusted over the kernel",
        r#"out=$("$X" "$@"); code=$?
           case $out in *'state: held'*'(not running'*) echo "$out" | /bin/sed 's/^state: .*/state: stale/'; exit 0;; esac
           [ -z "$out" ] || echo "$out"; exit $code"#,
    ),
    ("lock file created by a look", r#": >>archive/.dce-scrape.lock; exec "$X" "$@""#),
    ("sidecar removed by a look", r#"/bin/rm -f archive/.dce-scrape.lock.meta; exec "$X" "$@""#),
    ("holder line missing", r#"filter '/^holder:/d' "$@""#),
    ("real holders missing", r#"filter '/^open in:/d' "$@""#),
    ("escapes let through", r#"filter 's/\\x1b/\x1b/g' "$@""#),
    ("errors on standard output", r#"exec "$X" "$@" 2>&1"#),
    ("called safe while held", r#"filter 's/^Handoff complete, but.*/Handoff complete. Safe to run:/' "$@""#),
    ("a process left behind", r#"/usr/bin/setsid /bin/sleep 60 >/dev/null 2>&1 & exec "$X" "$@""#),
];

pub(crate) fn every_mutant_is_caught() {
    let sandbox = Sandbox::new();
    let escaped: Vec<&str> =
        MUTANTS.iter().filter(|(_, script)| passes(&sandbox, script)).map(|(name, _)| *name).collect();
    assert!(escaped.is_empty(), "no smoke catches these: {escaped:?}");
}

/// Else the mutants might be caught for the wrapping alone.
pub(crate) fn the_wrapped_program_passes() {
    assert!(passes(&Sandbox::new(), r#"exec "$X" "$@""#));
    assert!(passes(&Sandbox::new(), r#"filter '' "$@""#));
}

/// Whatever the person has set who runs them.
pub(crate) fn the_callers_environment_does_not_leak() {
    let sandbox = Sandbox::new();
    let mut smokes = command(&sandbox.bin);
    smokes.args(["smokes", "lock-status-*", "lock-run*", "handoff-*"]);
    for name in ["DCE_SCRAPE_LOCK_FILE", "DCE_CONFIG_FILE", "DCE_ENV_FILE", "DCE_COMPOSE_BIN", "DISCORD_TOKEN_FILE"] {
        smokes.env(name, "/nonexistent/leaked");
    }
    smokes.env("DISCORD_TOKEN", "leaked").env("DCE_SKIP_SCRAPE_LOCK", "1").env("DCE_MIN_FREE_MB", "x");
    let output = smokes.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Whether the smokes find nothing wrong with a program.
fn passes(sandbox: &Sandbox, script: &str) -> bool {
    let mutant = sandbox.at("mutant");
    let text = format!(
        "#!/bin/sh\nX='{}'\nfilter() {{ {}; }}\n{}\n",
        sandbox.bin.display(),
        r#"sed=$1; shift; out=$("$X" "$@"); code=$?; [ -z "$out" ] || printf '%s\n' "$out" | /bin/sed "$sed"; (exit $code)"#,
        script
    );
    // By another process: see `Sandbox::new`.
    let mut writer = command("sh");
    writer.args(["-c", r#"cat >"$0"; chmod +x "$0""#]).arg(&mutant).stdin(Stdio::piped());
    let mut writer = writer.spawn().unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
    let mut smokes = command(&sandbox.bin);
    let output =
        smokes.args(["smokes", "lock-status-", "handoff-held", "--fail-fast", "--bin"]).arg(&mutant).output().unwrap();
    match output.status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
    }
}
