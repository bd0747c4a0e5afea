//! The acquiring side, with the real programs of the other side.

use crate::findings::until;
use crate::sandbox::{Sandbox, command};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

/// Starts `lock-run` with a shell script under it that says when it runs.
fn lock_run(sandbox: &Sandbox, script: &str) -> Child {
    let mut run = command(&sandbox.bin);
    run.arg("lock-run").arg("--config").arg(sandbox.at("scrape.json")).args(["--", "sh", "-c", script]);
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(line(&mut child), "READY");
    child
}

fn line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

const UNTIL_END_OF_INPUT: &str = "echo READY; read -r _";

pub(crate) fn flock_and_lock_run() {
    let sandbox = Sandbox::new();
    let flock = || command("flock").arg("-n").arg(sandbox.lock()).arg("true").status().unwrap().code();
    let mut holder = lock_run(&sandbox, UNTIL_END_OF_INPUT);
    assert_eq!(flock(), Some(1), "lock-run holds it");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(flock(), Some(0));
    sandbox.script(
        &[],
        r#"hold "$lock"; "$XTASK" lock-run --config "$ROOT/scrape.json" -E 9 -- true 9>&- 2>"$ROOT/err" || [ $? = 9 ]
           grep -q '^ERROR: Another scrape is already running (lock: .*)\. Holder pid ' "$ROOT/err""#,
    );
}

pub(crate) fn sidecar_is_the_runners() {
    let sandbox = Sandbox::new();
    let mut holder = lock_run(&sandbox, UNTIL_END_OF_INPUT);
    let read = |key: &str| {
        let script = format!(r#"grep -E '^{key}=' "$0" | head -1 | cut -d= -f2-"#);
        let sidecar = sandbox.at("archive/.dce-scrape.lock.meta");
        let output = command("sh").args(["-c", &script]).arg(sidecar).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(read("pid"), holder.id().to_string());
    assert_eq!(read("cmd"), format!("sh -c {UNTIL_END_OF_INPUT}"));
    assert_eq!((read("started").len(), read("boot_id").len()), (20, 36));
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().code().is_some());
    assert!(!sandbox.at("archive/.dce-scrape.lock.meta").exists());
}

pub(crate) fn signals() {
    let sandbox = Sandbox::new();
    for (signal, code) in [("TERM", 7), ("HUP", 8), ("USR1", 9), ("INT", 10)] {
        let script = format!("trap 'exit {code}' {signal}; echo READY; while :; do read -r _ || :; done");
        let mut holder = lock_run(&sandbox, &script);
        let kill = format!("kill -{signal} {}", holder.id());
        assert!(command("sh").args(["-c", &kill]).status().unwrap().success());
        assert_eq!(holder.wait().unwrap().code(), Some(code), "{signal}");
        assert_eq!(sandbox.ask().state, "free");
    }
    // Not one that reads its input: waiting for a child closes that.
    let mut holder = lock_run(&sandbox, "echo READY; exec sleep 60");
    command("sh").args(["-c", &format!("kill -TERM {}", holder.id())]).status().unwrap();
    assert_eq!(holder.wait().unwrap().code(), Some(128 + 15));
}

/// The waiting program is told of the end, and does not sleep through it.
pub(crate) fn waiting() {
    let sandbox = Sandbox::new();
    let mut holder = lock_run(&sandbox, UNTIL_END_OF_INPUT);
    let mut waiter = sandbox.ask_with(&["--wait=20s"]).stdout(Stdio::piped()).spawn().unwrap();
    until("it watches the holder", || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", waiter.id())).unwrap().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to.to_string_lossy().contains("[pidfd]"))
    });
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let ended = Instant::now();
    let mut said = String::new();
    waiter.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(waiter.wait().unwrap().code(), Some(0), "{said}");
    assert!(said.contains("state: free"), "{said}");
    assert!(ended.elapsed() < Duration::from_secs(5));
}

pub(crate) fn lock_run_waits() {
    let sandbox = Sandbox::new();
    let mut flock = command("flock");
    flock.arg(sandbox.lock()).args(["sh", "-c", UNTIL_END_OF_INPUT]);
    let mut holder = flock.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(line(&mut holder), "READY");
    let mut waiter = command(&sandbox.bin);
    waiter.arg("lock-run").arg("--config").arg(sandbox.at("scrape.json")).args(["--wait=20s", "--", "true"]);
    let mut waiter = waiter.spawn().unwrap();
    assert_eq!(sandbox.ask().state, "held");
    assert_eq!(waiter.try_wait().unwrap(), None, "it does not wait");
    drop(holder.stdin.take());
    assert_eq!(waiter.wait().unwrap().code(), Some(0));
    holder.wait().unwrap();
}

pub(crate) fn cannot_be_taken() {
    let sandbox = Sandbox::new();
    sandbox.script(
        &[],
        &format!(
            r#"code=0
            {NOBODY} "$XTASK" lock-run --config "$ROOT/scrape.json" -- touch "$ROOT/ran" 2>"$ROOT/err" || code=$?
            [ $code = 2 ]
            grep -q '^ERROR: cannot open the lock file .*: permission denied' "$ROOT/err"
            [ ! -e "$ROOT/ran" ]
            [ ! -e "$lock" ]"#
        ),
    );
}
