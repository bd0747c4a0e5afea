//! What a status run does to the world: nothing.

use crate::sandbox::Sandbox;
use std::fs::File;
use std::process::Stdio;

pub(crate) fn reader_that_went_away() {
    let sandbox = Sandbox::new();
    sandbox.script(&[], r#"exec 9>>"$lock"; flock -n 9; flock -u 9"#);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = sandbox.ask_with(&[]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

pub(crate) fn full_output() {
    let sandbox = Sandbox::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = sandbox.ask_with(&[]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("ERROR: cannot write to standard output"), "{said}");
}

pub(crate) fn system_calls() {
    let sandbox = Sandbox::new();
    let strace = |name: &str| format!(r#"status {name} strace -f -o "$ROOT/{name}.trace""#);
    let script = [
        &strace("missing"),
        r#"hold "$lock"; echo "pid=$$" >"$lock.meta""#,
        &strace("held"),
        "release",
        &strace("unheld"),
        r#"echo pid=99999999 >"$lock.meta""#,
        &strace("stale"),
    ];
    sandbox.script(&[], &script.join("\n"));
    for (name, state) in [("missing", "free"), ("held", "held"), ("unheld", "free"), ("stale", "stale")] {
        assert_eq!(sandbox.status(name).state, state);
        let trace = std::fs::read_to_string(sandbox.at(&format!("{name}.trace"))).unwrap();
        assert!(trace.contains(".dce-scrape.lock"), "this is no trace of a status run: {trace}");
        let changing: Vec<&str> = trace.lines().filter(|call| changes_something(call)).collect();
        assert!(changing.is_empty(), "{name}: {changing:#?}");
    }
}

/// Whether a line of strace tells of a system call that a status run must not make.
fn changes_something(call: &str) -> bool {
    // `PID call(arguments) = result`
    let call = call.split_once(' ').map_or(call, |(_, call)| call.trim_start());
    let name = call.split('(').next().unwrap_or_default();
    match name {
        "flock" | "creat" | "unlink" | "unlinkat" | "rename" | "renameat" | "renameat2" | "mkdir" | "mkdirat"
        | "link" | "linkat" | "symlink" | "symlinkat" | "truncate" | "ftruncate" | "chmod" | "fchmod" | "fchmodat"
        | "utimensat" | "execveat" | "fork" | "vfork" | "pidfd_send_signal" => true,
        "fcntl" => call.contains("SETLK"),
        // The call may be cut in two by another thread's.
        "kill" | "tkill" | "tgkill" => ![", 0)", ", 0 <unfinished ...>"].iter().any(|end| call.contains(end)),
        "open" | "openat" | "openat2" => ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|f| call.contains(f)),
        _ => false,
    }
}
