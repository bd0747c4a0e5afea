//! Finding 5: `lock-run` stays with its command, leaves the lock as the host runner would, and
//! removes no sidecar but its own.

use super::{Case, Sandbox, Talker, behind, helper, holder, lock_run, no_cc, no_strace, none};
use crate::sandbox::{CONTAINER, command, obstacle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

pub(crate) const CASES: &[Case] = &[
    ("lock_run_stays_when_no_pidfd_can_be_had", no_strace, no_pidfd),
    ("the_exit_code_is_the_commands_when_sigchld_is_ignored", no_bash, ignored_sigchld),
    ("the_lock_files_mode_follows_the_umask", none, umask),
    ("lock_run_as_pid_1_ends_when_told_to", no_container, pid_1),
    ("another_hosts_sidecar_stays_at_release", none, || rewritten_sidecar("host")),
    ("another_boots_sidecar_stays_at_release", none, || rewritten_sidecar("boot_id")),
    ("a_lease_on_the_lock_file_is_told_or_no_hindrance", no_cc, lease),
    ("no_room_for_a_sidecar_is_told", none, no_file_may_grow),
    ("a_folder_in_the_way_of_the_sidecar_is_told_or_no_hindrance", none, folder_in_the_way),
];

fn no_container() -> Option<String> {
    obstacle(CONTAINER, "true")
}

fn no_bash() -> Option<String> {
    obstacle(&[], "bash -c 'trap \"\" CHLD; exec grep SigIgn:.*1.... /proc/self/status'")
}

fn no_pidfd() {
    for error in ["ENOSYS", "EPERM", "EMFILE"] {
        let sandbox = Sandbox::new();
        let inject = format!("inject=pidfd_open:error={error}");
        let script = r#"echo READY; read -r _; : >"$0"; exit 7"#;
        let done = sandbox.at("done");
        let run = lock_run(&sandbox, &["sh", "-c", script, done.to_str().unwrap()]);
        // Without `-f`: strace ends with `lock-run`, which is what it is about.
        let mut run = Talker::start(&mut behind(&["strace", "-o", "/dev/null", "-e", &inject], &run));
        assert_eq!((sandbox.ask().exit, run.0.try_wait().unwrap()), (1, None), "{error}");
        run.tell("go on");
        assert_eq!((run.end(), done.exists()), (Some(7), true), "{error}");
        assert!(!sandbox.at("archive/.dce-scrape.lock.meta").exists());
    }
}

fn ignored_sigchld() {
    let sandbox = Sandbox::new();
    // Not every shell's `trap` ignores this one.
    let ignoring = ["bash", "-c", r#"trap "" CHLD; exec "$@""#, "bash"];
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)] {
        let output = behind(&ignoring, &lock_run(&sandbox, &["sh", "-c", script])).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
    }
}

/// As the host runner's shell makes it.
fn umask() {
    for (umask, expected) in [("002", 0o664), ("022", 0o644), ("077", 0o600), ("000", 0o666)] {
        let sandbox = Sandbox::new();
        let wrapper = ["sh", "-c", r#"umask "$0"; exec "$@""#, umask];
        assert!(behind(&wrapper, &lock_run(&sandbox, &["true"])).status().unwrap().success());
        let mode = std::fs::metadata(sandbox.lock()).unwrap().permissions().mode() & 0o777;
        assert_eq!(format!("{mode:o}"), format!("{expected:o}"), "umask {umask}");
    }
}

/// The kernel throws away signals for the first process of a PID namespace that has no handler
/// for them (pid_namespaces(7)).
fn pid_1() {
    let sandbox = Sandbox::new();
    let mut holder = holder(&sandbox, &[]);
    let ran = sandbox.at("ran");
    let mut run = command(&sandbox.bin);
    run.arg("lock-run").arg("--config").arg(sandbox.at("scrape.json")).args(["--wait=50s", "--", "touch"]).arg(&ran);
    let mut waiter = behind(&[CONTAINER, &["--kill-child"]].concat(), &run).stdout(Stdio::piped()).spawn().unwrap();
    let ended = waiter.stdout.take().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", waiter.id());
    // Told again and again, as nothing tells when it is ready to be told.
    let has_ended = (0..50).any(|_| {
        let script = format!(r#"kill -TERM $(cat {children}) 2>"{}""#, sandbox.at("kill").display());
        command("sh").args(["-c", &script]).status().unwrap();
        let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(100u8)).unwrap() == 1
    });
    waiter.kill().unwrap();
    waiter.wait().unwrap();
    holder.end();
    assert!(has_ended, "it does not end");
    assert!(!ran.exists());
}

/// The lock file was deleted, or is on a server: another `lock-run` of that pid wrote its own.
fn rewritten_sidecar(key: &str) {
    let sandbox = Sandbox::new();
    let meta = sandbox.at("archive/.dce-scrape.lock.meta");
    let other = "00000000-0000-0000-0000-000000000000";
    for (value, is_kept) in [(r"\1", false), (other, true)] {
        let change = format!(r#"sed 's/^{key}=\(.*\)/{key}={value}/' "$0" >"$0.copy"; mv "$0.copy" "$0""#);
        let output = lock_run(&sandbox, &["sh", "-c", &change, meta.to_str().unwrap()]).output().unwrap();
        assert_eq!((output.status.code(), meta.exists()), (Some(0), is_kept), "{key}={value}: {output:?}");
    }
}

/// Runs a command that leaves a trace: it ran and all is well, or exit 2 says why not.
#[track_caller]
fn assert_works_or_is_told(sandbox: &Sandbox, wrapper: &[&str], why: &str) {
    let ran = sandbox.at("ran");
    let Output { status, stderr, .. } =
        behind(wrapper, &lock_run(sandbox, &["mkdir", ran.to_str().unwrap()])).output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    match status.code() {
        Some(0) => assert!(ran.exists() && said.is_empty(), "{said}"),
        Some(2) => {
            assert!(!ran.exists(), "{said}");
            assert!(said.starts_with("ERROR: ") && said.contains(why) && said.contains("hint: "), "{said}");
        }
        _ => panic!("{status}: {said}"),
    }
    assert!(!sandbox.at("archive/.dce-scrape.lock.meta").exists());
    assert_eq!(sandbox.ask().exit, 0);
}

/// A file server's: whoever opens the file for writing must wait for it to be given up.
fn lease() {
    let sandbox = Sandbox::new();
    let _lease = Talker::start(command(helper(&sandbox)).arg("lease").arg(sandbox.lock()));
    let table = std::fs::read_to_string("/proc/locks").unwrap();
    assert!(table.contains("LEASE"), "{table}");
    assert_eq!(sandbox.ask().summary, "free (lock file present but not held)");
    assert_works_or_is_told(&sandbox, &["timeout", "-s", "KILL", "60"], "lease");
}

fn no_file_may_grow() {
    let sandbox = Sandbox::new();
    assert_works_or_is_told(&sandbox, &["sh", "-c", r#"ulimit -f 0; exec "$@""#, "sh"], "cannot write the sidecar");
    assert!(!sandbox.at("archive/.dce-scrape.lock.meta.new").exists());
}

fn folder_in_the_way() {
    let sandbox = Sandbox::new();
    let folder = sandbox.at("archive/.dce-scrape.lock.meta.new");
    std::fs::create_dir_all(folder.join("not_empty")).unwrap();
    assert_works_or_is_told(&sandbox, &["env"], ".meta.new");
    assert!(folder.join("not_empty").exists(), "it is not ours to remove");
}
