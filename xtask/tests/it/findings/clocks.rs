//! Finding 4: clocks are set, and a process outlives its main thread. Who holds the lock is its
//! holder whatever the times say, and nobody is advised to kill it.

use super::{Case, MOUNTS, NOBODY, Sandbox, Talker, assert_told, helper, json, script};
use super::{no_cc, no_mounts, no_other_user, no_root, none};
use crate::sandbox::command;

pub(crate) const CASES: &[Case] = &[
    ("a_clock_set_forward_does_not_make_the_holder_another", none, clock_set_forward),
    ("nobody_is_advised_to_kill_a_holder_that_started_later", no_mounts, no_advice_to_kill),
    ("a_process_without_its_main_thread_holds_its_lock", no_cc_or_root, without_main_thread),
    ("a_process_without_its_main_thread_holds_a_deleted_lock", no_cc_or_root, deleted_without_main_thread),
    ("a_threads_own_descriptor_of_a_deleted_lock_is_held", no_cc, deleted_under_a_thread),
    ("a_process_without_its_main_thread_keeps_its_sidecar", no_cc, sidecar_without_main_thread),
    ("a_process_without_its_main_thread_cannot_be_inspected_by_others", no_cc_or_other_user, uninspected_threads),
];

/// A process whose main thread has ended shows its descriptors to root only.
fn no_cc_or_root() -> Option<String> {
    no_cc().or_else(no_root)
}

fn no_cc_or_other_user() -> Option<String> {
    no_cc().or_else(no_other_user)
}

/// As an hour later, when the clock was set an hour forward: the kernel tells a start in ticks
/// since it booted, and so an hour after what the sidecar says.
const STARTED_EARLIER: &str = r#"record $$ "started=$(date -u -d '-1 hour' +%Y-%m-%dT%H:%M:%SZ)" "cmd=sh""#;

fn clock_set_forward() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        &format!(
            r#"hold "$lock"; {STARTED_EARLIER}
            status held; attempt held
            "$XTASK" lock-status --config "$ROOT/scrape.json" >"$ROOT/text" 9>&- || [ $? = 1 ]
            rm "$lock"
            status deleted; attempt deleted"#
        ),
    );
    assert_told(&sandbox, &[("held", "held"), ("deleted", "held")]);
    for name in ["held", "deleted"] {
        let told = json(&sandbox, name);
        assert_eq!(told["recorded"]["running"], true, "{told}");
        assert!(!told.to_string().contains("another process"), "{told}");
    }
    let text = std::fs::read_to_string(sandbox.at("text")).unwrap();
    assert!(text.lines().any(|line| line.starts_with("holder: pid ") && line.contains(" (running, ")), "{text}");
    let said = std::fs::read_to_string(sandbox.at("held.err")).unwrap();
    assert!(said.contains(" (running, started "), "{said}");
}

/// Remains of a scrape are only told from a new scrape by their age: this holder has run since
/// the machine was started, by what its `stat` says.
fn no_advice_to_kill() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        MOUNTS,
        r#"hold "$lock"; record $$ started=2001-01-01T00:00:00Z
        awk '{ $22 = 1; print }' /proc/$$/stat >"$ROOT/stat"
        mount --bind "$ROOT/stat" /proc/$$/stat
        status held"#,
    );
    assert_told(&sandbox, &[("held", "held")]);
    let next = json(&sandbox, "held")["next"].to_string();
    assert!(!next.contains("kill"), "{next}");
}

/// A process that holds the lock with another thread than the first, recorded as its holder.
fn threaded_holder(sandbox: &Sandbox) -> Talker {
    let holder = Talker::start(command(helper(sandbox)).arg("without-main-thread").arg(sandbox.lock()));
    std::fs::write(sandbox.at("archive/.dce-scrape.lock.meta"), format!("pid={}\n", holder.0.id())).unwrap();
    holder
}

fn without_main_thread() {
    let sandbox = Sandbox::new();
    let holder = threaded_holder(&sandbox);
    script(&sandbox, &[], "status held; attempt held");
    assert_told(&sandbox, &[("held", "held")]);
    let told = json(&sandbox, "held");
    assert_eq!(told["recorded"]["running"], true, "{told}");
    assert_eq!(told["holders"][0]["pid"], holder.0.id(), "{told}");
}

fn deleted_without_main_thread() {
    let sandbox = Sandbox::new();
    let _holder = threaded_holder(&sandbox);
    script(
        &sandbox,
        &[],
        r#"cp "$meta" "$ROOT/meta"; rm "$lock"; status gone; attempt gone
        rm -f "$lock"; : >"$lock"; cp "$ROOT/meta" "$meta"; status replaced; attempt replaced"#,
    );
    assert_told(&sandbox, &[("gone", "held"), ("replaced", "held")]);
}

fn deleted_under_a_thread() {
    let sandbox = Sandbox::new();
    let mut thread = command(helper(&sandbox));
    let holder = Talker::start(thread.arg("in-a-thread").arg(sandbox.lock()));
    script(&sandbox, &[], &format!(r#"record {}; rm "$lock"; status gone; attempt gone"#, holder.0.id()));
    assert_told(&sandbox, &[("gone", "held")]);
}

fn sidecar_without_main_thread() {
    let sandbox = Sandbox::new();
    let _holder = threaded_holder(&sandbox);
    let meta = sandbox.at("archive/.dce-scrape.lock.meta");
    let mut wrong = Vec::new();
    let mut reclaim = |what: &str| {
        let output = sandbox.ask_with(&["--reclaim-stale"]).output().unwrap();
        if !meta.exists() || !matches!(output.status.code(), Some(1 | 2)) {
            wrong.push(format!("{what}: {}", String::from_utf8_lossy(&output.stdout)));
        }
    };
    reclaim("the lock file is there");
    std::fs::remove_file(sandbox.lock()).unwrap();
    reclaim("the lock file was deleted");
    std::fs::write(sandbox.lock(), "").unwrap();
    reclaim("the lock file was replaced");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Another user sees that it runs, and not what it has open.
fn uninspected_threads() {
    let sandbox = Sandbox::new();
    let _holder = threaded_holder(&sandbox);
    script(
        &sandbox,
        &[],
        &format!(
            r#"chmod 777 "$ROOT/archive"
            rm "$lock"; status gone {NOBODY}; attempt gone {NOBODY}
            rm -f "$lock"; : >"$lock"; chmod 666 "$lock"; status replaced {NOBODY}; attempt replaced {NOBODY}"#
        ),
    );
    assert_told(&sandbox, &[("gone", "not free"), ("replaced", "not free")]);
}
