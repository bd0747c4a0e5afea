//! Finding 3: a lock is its inode. What happens to its name proves nothing, and the same name
//! may be another archive's.

use super::{Case, MOUNTS, Sandbox, assert_told, helper, no_cc, no_mounts, no_root, none, script};
use crate::places::can_inspect_all;
use crate::sandbox::obstacle;

pub(crate) const CASES: &[Case] = &[
    ("a_lock_file_moved_to_another_name_is_held", none, moved_to_another_name),
    ("a_lock_file_moved_within_its_folder_by_a_dead_shell_is_held", none, moved_within_its_folder),
    ("a_lock_file_moved_to_another_folder_is_held", none, moved_to_another_folder),
    ("a_lock_file_moved_and_then_deleted_is_held", none, moved_then_deleted),
    ("a_lock_file_moved_under_the_writers_child_is_held", none, moved_under_a_child),
    ("a_lock_file_whose_folder_was_moved_is_held", none, folder_moved),
    ("a_lock_file_deleted_through_a_bind_mount_is_held", no_mounts, deleted_through_a_bind_mount),
    ("a_lock_file_deleted_under_another_mount_namespace_is_held", no_mounts, deleted_under_another_namespace),
    ("a_lock_file_deleted_under_a_chroot_is_held", no_root_or_perl, deleted_under_a_chroot),
    ("a_refused_lock_run_leaves_no_lock_file_behind", no_root, refused_again),
    ("a_lock_of_the_callers_own_in_the_archive_is_another_lock", no_root, callers_own_lock),
    ("the_same_path_in_another_mount_namespace_is_another_lock", no_mounts, another_mount_namespace),
    ("the_same_path_on_the_same_device_is_another_lock", no_mounts, another_mount_of_the_same_device),
    ("a_neighbour_with_a_sidecar_of_its_own_is_another_lock", no_root, neighbour),
    ("another_archive_on_the_same_device_is_another_lock", no_root, another_archive),
    ("a_btrfs_snapshot_of_a_held_archive_is_told_from_it", no_btrfs, btrfs_snapshot),
    ("a_holder_that_no_process_shows_is_not_another_file_on_btrfs", no_btrfs_or_cc, unseen_holder),
];

/// An archive in a btrfs subvolume.
const MOUNT_BTRFS: &str = r#"
truncate -s 128M "$ROOT/image"
mkfs.btrfs -q "$ROOT/image"
mount -o loop "$ROOT/image" "$ROOT/archive"
btrfs -q subvolume create "$ROOT/archive/original"
lock=$ROOT/archive/original/.dce-scrape.lock meta=$lock.meta
export DCE_SCRAPE_LOCK_FILE=$lock
"#;

/// Something that can be looked at in place of process 1, which a sandbox may hide.
const SHOW_INIT: &str = "mount -t tmpfs tmpfs /proc/1; mkdir -p /proc/1/fd /proc/1/fdinfo /proc/1/task/1";

fn no_root_or_perl() -> Option<String> {
    obstacle(&[], "perl -e 1").or_else(no_root)
}

fn no_btrfs() -> Option<String> {
    obstacle(MOUNTS, MOUNT_BTRFS)
}

fn no_btrfs_or_cc() -> Option<String> {
    no_btrfs().or_else(no_cc)
}

/// Runs `change` after a shell took the lock and was recorded; it is held, with no lock file
/// and with a new one.
#[track_caller]
fn assert_held_after(wrapper: &[&str], change: &str) {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        wrapper,
        &format!(
            r#"{change}
            [ ! -e "$lock" ]; cp "$meta" "$ROOT/meta"
            status gone; attempt gone
            : >"$lock"; cp "$ROOT/meta" "$meta"
            status new; attempt new"#
        ),
    );
    assert_told(&sandbox, &[("gone", "held"), ("new", "held")]);
}

fn moved_to_another_name() {
    assert_held_after(&[], r#"hold "$lock"; record $$; mv "$lock" "$ROOT/archive/aside""#);
}

fn moved_within_its_folder() {
    assert_held_after(&[], r#"leave_child "$lock"; mv "$lock" "$ROOT/archive/aside""#);
}

fn moved_to_another_folder() {
    assert_held_after(&[], r#"hold "$lock"; record $$; mkdir "$ROOT/other"; mv "$lock" "$ROOT/other/aside""#);
}

fn moved_then_deleted() {
    assert_held_after(&[], r#"hold "$lock"; record $$; mv "$lock" "$ROOT/aside"; rm "$ROOT/aside""#);
}

/// The recorded shell has closed its descriptor; a child of it scrapes.
fn moved_under_a_child() {
    assert_held_after(
        &[],
        r#"hold "$lock"; record $$; cat "$ROOT/end" 8>&- 2>/dev/null & exec 9>&-; mv "$lock" "$ROOT/aside""#,
    );
}

/// What it holds comes back from a backup, and so does the sidecar.
fn folder_moved() {
    assert_held_after(
        &[],
        r#"hold "$lock"; record $$; mv "$ROOT/archive" "$ROOT/moved"; mkdir "$ROOT/archive"
        cp "$ROOT/moved/.dce-scrape.lock.meta" "$meta""#,
    );
}

/// The lock was taken by its other path, which is the one that the kernel shows.
fn deleted_through_a_bind_mount() {
    assert_held_after(
        MOUNTS,
        r#"mkdir "$ROOT/mirror"; mount --bind "$ROOT/archive" "$ROOT/mirror"
        leave_child "$ROOT/mirror/.dce-scrape.lock"; rm "$ROOT/mirror/.dce-scrape.lock""#,
    );
}

/// The kernel shows the holder's own path, where this namespace has another folder.
fn deleted_under_another_namespace() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        r#"mkdir "$ROOT/mirror"; export lock; cat >"$ROOT/mounted" <<'END'
        mount --bind "$ROOT/archive" "$ROOT/mirror"
        exec "$@"
END
        hold_elsewhere "$ROOT/mirror/.dce-scrape.lock" unshare --mount sh -eu "$ROOT/mounted"
        rm "$lock"
        status gone; attempt gone
        : >"$lock"
        status new; attempt new"#,
    );
    assert_told(&sandbox, &[("gone", "held"), ("new", "held")]);
}

/// The kernel shows a path from this process's root, not from the holder's.
fn deleted_under_a_chroot() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        r#"exec 9>>"$lock"; flock -n 9
        perl -e 'open READY, ">", "$ENV{ROOT}/ready" or die; chroot "$ENV{ROOT}/archive" or die; chdir "/";
            print READY "\n"; close READY; <STDIN>' <"$ROOT/end" 8>&- &
        read -r _ <"$ROOT/ready"
        exec 9>&-; rm "$lock"
        status gone; attempt gone
        : >"$lock"; record 99999999
        status new; attempt new"#,
    );
    assert_told(&sandbox, &[("gone", "held"), ("new", "held")]);
}

/// With a new one in its place, the next would not look for the moved one.
fn refused_again() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        r#"hold_elsewhere "$lock"; mv "$lock" "$ROOT/archive/aside"
        attempt first; attempt second
        [ ! -e "$lock" ]
        status second; status first"#,
    );
    assert_told(&sandbox, &[("first", "held"), ("second", "held")]);
}

/// A nightly script runs under a lock of its own, which its children inherit.
fn callers_own_lock() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        r#"exec 7>>"$ROOT/archive/cron.lock"; flock -n 7
        cat "$ROOT/end" 8>&- 2>/dev/null &
        status no_file; attempt no_file
        : >"$lock"; record 99999999; status stale; attempt stale"#,
    );
    assert_told(&sandbox, &[("no_file", "free"), ("stale", "stale")]);
}

/// `mount` makes another folder of the archive's path, in another mount namespace, and there
/// the lock is held. Here it is not: with no file, with a file, with a sidecar.
fn held_in_another_namespace(mount: &str) {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        &format!(
            r#"export lock; cat >"$ROOT/mounted" <<'END'
            {mount}
            exec "$@"
END
            hold_elsewhere "$lock" unshare --mount sh -eu "$ROOT/mounted"
            [ ! -e "$lock" ]
            record 99999999
            status no_file; attempt no_file
            : >"$lock"; record 99999999
            status stale; attempt stale
            idle; record $idle
            status live; attempt live"#
        ),
    );
    assert_told(&sandbox, &[("no_file", "free"), ("stale", "stale"), ("live", "free")]);
}

fn another_mount_namespace() {
    held_in_another_namespace(r#"mount -t tmpfs tmpfs "$ROOT/archive""#);
}

fn another_mount_of_the_same_device() {
    held_in_another_namespace(r#"mkdir "$ROOT/other"; mount --bind "$ROOT/other" "$ROOT/archive""#);
}

/// Its name is what an operator may call a lock file that is moved aside.
fn neighbour() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        r#"hold_elsewhere "$lock.2"; echo "pid=$holder" >"$lock.2.meta"
        status alone; attempt alone
        rm "$lock"; record 99999999
        status no_file; attempt no_file
        : >"$lock"; record 99999999
        status stale; attempt stale
        idle; record $idle
        status live; attempt live"#,
    );
    assert_told(&sandbox, &[("alone", "free"), ("no_file", "free"), ("stale", "stale"), ("live", "free")]);
}

fn another_archive() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        &[],
        r#"mkdir "$ROOT/other"; hold_elsewhere "$ROOT/other/.dce-scrape.lock"
        echo "pid=$holder" >"$ROOT/other/.dce-scrape.lock.meta"
        status alone
        record 99999999
        status no_file; attempt no_file"#,
    );
    assert_told(&sandbox, &[("alone", "free"), ("no_file", "free")]);
}

/// Its lock file has the device and the inode of the original in the kernel's table, and its
/// sidecar names the original's holder.
fn btrfs_snapshot() {
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        MOUNTS,
        &format!(
            r#"{MOUNT_BTRFS}
            hold_elsewhere "$lock"; record $holder
            btrfs -q subvolume snapshot "$ROOT/archive/original" "$ROOT/archive/snapshot"
            status original; attempt original
            export DCE_SCRAPE_LOCK_FILE=$ROOT/archive/snapshot/.dce-scrape.lock
            status snapshot
            rm -f "$DCE_SCRAPE_LOCK_FILE.meta"
            status without_sidecar
            {SHOW_INIT}
            status with_first_process"#
        ),
    );
    // Only a look at every process tells which of the two is locked.
    let snapshot = if can_inspect_all() { "free" } else { "held" };
    assert_told(&sandbox, &[("original", "held"), ("snapshot", snapshot), ("without_sidecar", snapshot)]);
    let shown = sandbox.status("with_first_process");
    assert!(["free", "held"].contains(&&shown.state[..]), "it is known whose lock it is: {shown:?}");
}

fn unseen_holder() {
    let sandbox = Sandbox::new();
    let helper = helper(&sandbox);
    script(
        &sandbox,
        MOUNTS,
        &format!(
            r#"{MOUNT_BTRFS}
            {SHOW_INIT}
            send() {{ "{}" in-flight "$lock" <"$ROOT/end" >"$ROOT/ready" 8>&- & read -r _ <"$ROOT/ready"; }}
            send
            ! flock -n "$lock" true
            status on_btrfs
            lock=$ROOT/scrape.lock; export DCE_SCRAPE_LOCK_FILE=$lock
            send
            status elsewhere"#,
            helper.display()
        ),
    );
    for held in ["on_btrfs", "elsewhere"].map(|name| sandbox.status(name)) {
        assert!(held.state != "free" && held.exit != 0, "{held:?}");
    }
}
