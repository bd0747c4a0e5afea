//! Finding 2: a call that failed is no "no". Beside a lock file that was deleted under its
//! holder, only a walk through all processes tells of the scrape that runs.

use super::{
    Case, NOBODY, Sandbox, Talker, assert_told, behind, is_heavy, lock_run, no_other_user, no_strace, none, script,
};
use crate::sandbox::{command, obstacle};
use std::process::{Command, Stdio};

pub(crate) const CASES: &[Case] = &[
    ("root_without_ptrace_beside_a_deleted_lock", no_other_user, root_without_ptrace),
    ("root_of_a_user_namespace_beside_a_deleted_lock", no_user_namespace, root_of_a_user_namespace),
    ("too_few_descriptors_are_no_answer", none, too_few_descriptors),
    ("a_failed_call_about_the_holder_is_no_answer", no_strace, failed_call_about_the_holder),
    ("calls_that_fail_from_some_point_on_are_no_answer", no_strace, failing_calls),
];

const WITHOUT_PTRACE: &str = "setpriv --inh-caps=-sys_ptrace --bounding-set=-sys_ptrace";
const USER_NAMESPACE: &str = "unshare --user --map-root-user";

fn no_user_namespace() -> Option<String> {
    no_other_user().or_else(|| obstacle(&[], &format!("{USER_NAMESPACE} true")))
}

/// Looks and tries behind `wrapper`, beside a lock that another user's process holds: with its
/// pid in the sidecar, with the pid of a shell that has ended, and with a new lock file there.
fn beside_another_user(wrapper: &str) {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        &format!(
            r#"chmod 777 "$ROOT/archive"
            hold_elsewhere "$lock" {NOBODY}
            record $holder; chmod 666 "$meta"
            status there {wrapper}; attempt there {wrapper}
            rm "$lock"
            status live_writer {wrapper}; attempt live_writer {wrapper}
            rm -f "$lock"; : >"$lock"; record $holder; chmod 666 "$lock"
            status replaced {wrapper}; attempt replaced {wrapper}
            rm -f "$lock"; record 99999999
            status dead_writer {wrapper}; attempt dead_writer {wrapper}"#
        ),
    );
    let names = ["there", "live_writer", "replaced", "dead_writer"];
    assert_told(&sandbox, &names.map(|name| (name, "not free")));
}

fn root_without_ptrace() {
    beside_another_user(WITHOUT_PTRACE);
}

fn root_of_a_user_namespace() {
    beside_another_user(USER_NAMESPACE);
}

/// A lock file that was deleted under its holder, for a `lock-status` and a `lock-run` that are
/// tampered with. The shell that is recorded has ended.
struct Deleted {
    sandbox: Sandbox,
    holder: Talker,
}

impl Deleted {
    fn new() -> Deleted {
        let sandbox = Sandbox::new();
        let mut hold = command("sh");
        hold.args(["-c", r#"exec 9>>"$0"; flock -n 9; echo READY; read -r _"#]).arg(sandbox.lock());
        let deleted = Deleted { holder: Talker::start(&mut hold), sandbox };
        deleted.restore();
        deleted
    }

    fn restore(&self) {
        // A `lock-run` may have made another before it failed.
        _ = std::fs::remove_file(self.sandbox.lock());
        std::fs::write(self.sandbox.at("archive/.dce-scrape.lock.meta"), "pid=99999999\n").unwrap();
    }

    /// Looks and tries behind `wrapper`; what went wrong.
    fn wrong_ends(&self, wrapper: &[&str]) -> Vec<String> {
        let wrapped = wrapper.join(" ");
        let run = |inner: &Command| {
            let output = behind(wrapper, inner).stdin(Stdio::null()).output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let mut wrong = Vec::new();
        let (code, said, _) = run(&self.sandbox.ask_with(&[]));
        if code == Some(0) {
            let state = said.lines().find(|line| line.starts_with("state:")).unwrap_or_default();
            wrong.push(format!("{wrapped}: lock-status said {state}"));
        }
        let ran = self.sandbox.at("ran");
        let (code, _, said) = run(&lock_run(&self.sandbox, &["mkdir", ran.to_str().unwrap()]));
        // The scrape is hit by the same, once it is started.
        let has_run = std::fs::remove_dir(&ran).is_ok();
        if has_run || code == Some(0) || said.lines().any(|line| line.starts_with("mkdir: ")) {
            wrong.push(format!("{wrapped}: lock-run started a second scrape"));
        }
        self.restore();
        wrong
    }
}

#[track_caller]
fn assert_nothing(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} wrong ends:\n{}", wrong.len(), wrong.join("\n"));
}

fn too_few_descriptors() {
    let deleted = Deleted::new();
    let wrong = (3..=20).flat_map(|limit| {
        let script = format!(r#"ulimit -n {limit}; exec "$@""#);
        deleted.wrong_ends(&["sh", "-c", &script, "sh"])
    });
    assert_nothing(&wrong.collect::<Vec<_>>());
}

/// One file or folder of the holder in `/proc`, and one call: as much as a security module or a
/// lack of memory may do.
fn failed_call_about_the_holder() {
    let deleted = Deleted::new();
    let log = deleted.sandbox.at("strace");
    let pid = deleted.holder.0.id();
    let under = |name: &str| [format!("/proc/{pid}/{name}"), format!("{pid}/{name}")];
    let [fd, fd_9, info] = [under("fd"), under("fd/9"), under("fdinfo/9")];
    let cases = [
        ("openat,openat2", fd.to_vec()),
        ("getdents64", fd.to_vec()),
        ("statx,newfstatat,readlinkat", [fd, fd_9].concat()),
        ("openat,openat2,read,pread64", info.to_vec()),
    ];
    let mut wrong = Vec::new();
    for (calls, paths) in &cases {
        for error in ["EACCES", "EPERM", "EIO", "EMFILE", "ENOMEM"] {
            let inject = format!("inject={calls}:error={error}");
            let mut wrapper = vec!["strace", "-f", "-A", "-o", log.to_str().unwrap(), "-e", &inject];
            paths.iter().for_each(|path| wrapper.extend(["-P", path]));
            wrong.extend(deleted.wrong_ends(&wrapper));
        }
        let traced = std::fs::read_to_string(&log).unwrap();
        assert!(traced.contains("(INJECTED)"), "no such call is made about {paths:?}, {calls}: {traced}");
        std::fs::remove_file(&log).unwrap();
    }
    assert_nothing(&wrong);
}

fn failing_calls() {
    let deleted = Deleted::new();
    let (step, errors) = if is_heavy() { (1, &["EIO", "EACCES", "ENOMEM", "EMFILE"][..]) } else { (40, &["EIO"][..]) };
    let mut wrong = Vec::new();
    for call in ["openat", "openat2", "getdents64", "statx", "readlinkat", "read"] {
        for error in errors {
            for first in (1..200).step_by(step) {
                let inject = format!("inject={call}:error={error}:when={first}+");
                wrong.extend(deleted.wrong_ends(&["strace", "-f", "-o", "/dev/null", "-e", &inject]));
            }
        }
    }
    assert_nothing(&wrong);
}
