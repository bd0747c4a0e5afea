//! Places where the truth about a lock is hard to come by.

use crate::sandbox::{CONTAINER, MOUNTS, Sandbox, command, obstacle};
use rustix::fs::FlockOperation;
use std::process::Stdio;
use std::time::{Duration, Instant};

pub(crate) const NOBODY: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// On a tmpfs, as an overlay cannot be an overlay's upper layer.
pub(crate) const MOUNT_OVERLAY: &str = r#"
mkdir "$ROOT/layers"
mount -t tmpfs tmpfs "$ROOT/layers"
mkdir "$ROOT/layers/lower" "$ROOT/layers/upper" "$ROOT/layers/work"
: >"$ROOT/layers/lower/lower.lock"
options=lowerdir=$ROOT/layers/lower,upperdir=$ROOT/layers/upper,workdir=$ROOT/layers/work
mount -t overlay overlay -o "$options" "$ROOT/archive"
"#;

pub(crate) const MOUNT_BTRFS: &str = r#"
truncate -s 128M "$ROOT/image"
mkfs.btrfs -q "$ROOT/image"
mount -o loop "$ROOT/image" "$ROOT/archive"
"#;

pub(crate) const HIDE_TABLE: &str = r#": >"$ROOT/empty"; mount --bind "$ROOT/empty" /proc/locks"#;

pub(crate) const HIDE_PROCESSES: &str = "mount -t proc -o hidepid=2 proc /proc";

const HELD_THEN_FREE: &str = r#"hold "$lock"; status held; release; status free"#;

/// What the kernel's table says where it is the whole truth.
fn assert_held_then_free(sandbox: &Sandbox) {
    let held = sandbox.status("held");
    assert_eq!((&held.state[..], held.exit, &held.observed_via[..]), ("held", 1, "proc-locks"), "{held:?}");
    assert_eq!(held.holders_complete, can_inspect_all(), "{held:?}");
    assert!(held.holders.iter().any(|holder| holder.command == "sh"), "{held:?}");
    let free = sandbox.status("free");
    assert_eq!((&free.state[..], free.exit, &free.observed_via[..]), ("free", 0, "proc-locks"), "{free:?}");
}

/// Even root may be kept from inspecting some process, as in a sandbox.
pub(crate) fn can_inspect_all() -> bool {
    obstacle(&[], "for fd in /proc/[0-9]*/fd; do ls -l $fd >/dev/null 2>&1 || [ ! -e $fd ] || exit 1; done").is_none()
}

pub(crate) fn overlayfs() {
    let sandbox = Sandbox::new();
    sandbox.script(MOUNTS, &format!("{MOUNT_OVERLAY}\n{HELD_THEN_FREE}"));
    assert_held_then_free(&sandbox);
}

pub(crate) fn overlayfs_lower() {
    let sandbox = Sandbox::new();
    let use_lower = "export DCE_SCRAPE_LOCK_FILE=$ROOT/archive/lower.lock; lock=$DCE_SCRAPE_LOCK_FILE";
    sandbox.script(MOUNTS, &format!("{MOUNT_OVERLAY}\n{use_lower}\n{HELD_THEN_FREE}"));
    assert_held_then_free(&sandbox);
}

pub(crate) fn btrfs() {
    let sandbox = Sandbox::new();
    sandbox.script(MOUNTS, &format!("{MOUNT_BTRFS}\n{HELD_THEN_FREE}"));
    assert_held_then_free(&sandbox);
}

pub(crate) fn holder_outside() {
    let sandbox = Sandbox::new();
    let (container, nobody) = (CONTAINER.join(" "), NOBODY.join(" "));
    sandbox.script(
        &[],
        &format!(
            r#"hold "$lock"
            echo pid=4000000 >"$lock.meta"
            status held {container}
            rm "$lock.meta"
            release
            status free {container}
            chmod 600 "$lock"
            status unreadable {container} {nobody}"#
        ),
    );
    let held = sandbox.status("held");
    assert_eq!((&held.state[..], held.exit, &held.observed_via[..]), ("held", 1, "probe"), "{held:?}");
    assert!(!held.holders_complete && held.notes.iter().any(|note| note.contains("shared lock was taken")), "{held:?}");
    let hidden = "pid 4000000, recorded as the holder, cannot be checked from inside a container";
    assert!(held.notes.iter().any(|note| note.starts_with(hidden)), "{held:?}");
    let free = sandbox.status("free");
    assert_eq!((&free.state[..], free.exit, &free.observed_via[..]), ("free", 0, "probe"), "{free:?}");
    assert!(free.notes.iter().any(|note| note.contains("shared lock was taken")), "{free:?}");
    let unreadable = sandbox.status("unreadable");
    assert_eq!((&unreadable.state[..], unreadable.exit), ("unknown", 2), "{unreadable:?}");
}

pub(crate) fn holder_inside() {
    let sandbox = Sandbox::new();
    sandbox.script(CONTAINER, HELD_THEN_FREE);
    let held = sandbox.status("held");
    assert_eq!((&held.state[..], held.exit, &held.observed_via[..]), ("held", 1, "fdinfo"), "{held:?}");
    assert!(held.holders.iter().any(|holder| holder.command == "sh"), "{held:?}");
    assert!(!held.holders_complete, "who is outside cannot be seen: {held:?}");
    assert_eq!(sandbox.status("free").exit, 0);
}

pub(crate) fn hidden_table() {
    let sandbox = Sandbox::new();
    sandbox.script(MOUNTS, &format!("{HIDE_TABLE}\n{HELD_THEN_FREE}"));
    let held = sandbox.status("held");
    assert_eq!((&held.state[..], held.exit, &held.observed_via[..]), ("held", 1, "fdinfo"), "{held:?}");
    let free = sandbox.status("free");
    let proof = if can_inspect_all() { ("free", 0, "fdinfo") } else { ("unknown", 2, "nothing") };
    assert_eq!((&free.state[..], free.exit, &free.observed_via[..]), proof, "{free:?}");
}

pub(crate) fn hidden_processes() {
    let sandbox = Sandbox::new();
    let nobody = NOBODY.join(" ");
    sandbox.script(MOUNTS, &format!("{HIDE_PROCESSES}\nhold \"$lock\"; status held {nobody}"));
    let held = sandbox.status("held");
    assert_eq!((&held.state[..], held.exit, held.holders_complete), ("held", 1, false), "{held:?}");
}

pub(crate) fn another_users_lock() {
    let sandbox = Sandbox::new();
    let nobody = NOBODY.join(" ");
    sandbox.script(
        &[],
        &format!(
            r#"hold "$lock"
            chmod 600 "$lock"
            echo "pid=$$" >"$lock.meta"
            status readable {nobody}
            chmod 600 "$lock.meta"
            status unreadable {nobody}
            release
            status free {nobody}
            chmod 644 "$lock"
            status read_only {nobody}
            chmod 666 "$lock"
            status open {nobody}"#
        ),
    );
    let readable = sandbox.status("readable");
    assert_eq!((&readable.state[..], readable.exit, readable.holders_complete), ("held", 1, false), "{readable:?}");
    let unreadable = sandbox.status("unreadable");
    assert_eq!((&unreadable.state[..], unreadable.exit), ("held", 1), "{unreadable:?}");
    assert!(unreadable.notes.iter().any(|note| note.contains("permission denied")), "{unreadable:?}");
    assert_eq!(sandbox.status("free").exit, 0);
    let next = ["free", "read_only", "open"].map(|name| sandbox.status(name).next);
    assert!(next[..2].iter().all(|next| next.contains("this user cannot start one")), "{next:?}");
    assert!(next[2].starts_with("a scrape can start"), "{next:?}");
}

pub(crate) fn another_users_deleted_lock() {
    let sandbox = Sandbox::new();
    let nobody = NOBODY.join(" ");
    let script = r#"hold "$lock"; echo "pid=$$" >"$lock.meta"; rm "$lock"; status root; status nobody"#;
    sandbox.script(&[], &format!("{script} {nobody}"));
    assert_eq!((&sandbox.status("root").state[..], sandbox.status("root").exit), ("held", 1));
    let nobody = sandbox.status("nobody");
    assert_eq!((&nobody.state[..], nobody.exit), ("unknown", 2), "{nobody:?}");
    assert!(nobody.summary.ends_with(", recorded as the holder, cannot be inspected)"), "{nobody:?}");
}

pub(crate) fn deleted_lock_from_a_container() {
    let sandbox = Sandbox::new();
    let container = CONTAINER.join(" ");
    sandbox.script(&[], &format!(r#"hold "$lock"; echo "pid=$$" >"$lock.meta"; rm "$lock"; status gone {container}"#));
    let gone = sandbox.status("gone");
    assert_eq!((&gone.state[..], gone.exit), ("unknown", 2), "the holder is out of sight there: {gone:?}");
}

pub(crate) fn deleted_lock_with_an_unreadable_sidecar() {
    let sandbox = Sandbox::new();
    let nobody = NOBODY.join(" ");
    let script = r#"hold "$lock"; umask 077; echo "pid=$$" >"$lock.meta"; rm "$lock"; umask 022; status gone"#;
    sandbox.script(&[], &format!("{script} {nobody}"));
    let gone = sandbox.status("gone");
    assert_eq!((&gone.state[..], gone.exit), ("unknown", 2), "{gone:?}");
}

/// Whether the smokes' own files can be read there.
pub(crate) fn smokes_obstacle(wrapper: &[&str]) -> Option<String> {
    obstacle(wrapper, &format!("test -r '{}/../fixtures/smokes/programs/flock.sh'", env!("CARGO_MANIFEST_DIR")))
}

/// Runs the whole suite behind `wrapper`: newcomers are seldom root, and often in a container.
pub(crate) fn smokes(wrapper: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.script(wrapper, r#"export TMPDIR=$ROOT; "$XTASK" smokes 'lock-status-*' 'handoff-*' 'verify-ready-*' >"$ROOT/out" 2>&1 || { grep -A12 FAIL "$ROOT/out" >&2; exit 1; }"#);
}

/// One holder writes, another is stopped: as root, as another user and from a container.
pub(crate) fn activity() {
    let sandbox = Sandbox::new();
    let (container, nobody) = (CONTAINER.join(" "), NOBODY.join(" "));
    sandbox.script(
        &[],
        &format!(
            r#"hold "$lock"; : >"$ROOT/archive/export.json"
            (while :; do echo x >>"$ROOT/archive/export.json"; done) & writer=$!
            status busy; status nobody {nobody}; status container {container}
            kill -STOP $writer
            until grep -q '^State:.T' /proc/$writer/status; do :; done
            status stopped
            kill -KILL $writer"#
        ),
    );
    let told = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(sandbox.at(&format!("{name}.json"))).unwrap()).unwrap()
    };
    let written = |name: &str| told(name)["activity"]["written_bytes"].as_u64();
    assert!(written("busy").is_some_and(|bytes| bytes > 0) && written("stopped") == Some(0), "{}", told("busy"));
    for name in ["busy", "nobody", "container"] {
        assert_eq!(told(name)["activity"]["last_write"]["path"], "export.json", "{name}");
    }
    assert_eq!(told("busy")["holders"][0]["user"], "root");
}

pub(crate) fn shared_lock() {
    let sandbox = Sandbox::new();
    sandbox.script(&[], r#"exec 9>>"$lock"; flock -s -n 9; status held"#);
    let held = sandbox.status("held");
    assert_eq!((&held.state[..], held.exit), ("held", 1), "{held:?}");
}

pub(crate) fn fcntl_lock() {
    let sandbox = Sandbox::new();
    let file = std::fs::File::create(sandbox.lock()).unwrap();
    rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let held = sandbox.ask();
    assert_eq!((&held.state[..], held.exit), ("held", 1), "{held:?}");
    assert!(held.notes.iter().any(|note| note.contains("fcntl")), "{held:?}");
    assert!(held.holders.iter().any(|holder| holder.pid == std::process::id()), "{held:?}");
    let mut scrape = command(&sandbox.bin);
    scrape.arg("lock-run").arg("--config").arg(sandbox.at("scrape.json")).args(["-E", "9", "--", "true"]);
    assert_eq!(scrape.status().unwrap().code(), Some(9));
}

/// Their lines make the lock's entry longer than what one `read` of the table gives.
pub(crate) fn many_waiters() {
    const WAITERS: usize = 100;
    let sandbox = Sandbox::new();
    let mut holder = command("flock").arg(sandbox.lock()).arg("cat").stdin(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while sandbox.ask().exit != 1 {
        assert!(Instant::now() < until, "the holder did not get the lock");
    }
    let wait = || command("flock").arg(sandbox.lock()).arg("true").spawn().unwrap();
    let mut waiters: Vec<_> = (0..WAITERS).map(|_| wait()).collect();
    loop {
        let status = sandbox.ask();
        assert_eq!((&status.state[..], status.exit), ("held", 1), "{status:?}");
        if status.waiters == WAITERS {
            assert_eq!(status.holders.len(), 2, "the waiters hold nothing: {status:?}");
            break;
        }
        assert!(Instant::now() < until, "{} waiters were seen", status.waiters);
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(waiters.iter_mut().all(|waiter| waiter.wait().unwrap().success()));
    assert_eq!(sandbox.ask().exit, 0);
}
