//! Archives that cannot be written, are full or do not answer: a handoff says so, and says the rest.

use crate::findings::Case;
use crate::places::NOBODY;
use crate::sandbox::{MOUNTS, Sandbox, obstacle};

pub(crate) const CASES: &[Case] = &[
    ("handoff_of_a_read_only_archive", no_tmpfs, read_only_archive),
    ("handoff_of_another_users_archive", no_other_user, another_users_archive),
    ("handoff_with_another_users_lock_file", no_other_user, another_users_lock_file),
    ("handoff_with_another_users_folder_of_exports", no_other_user, another_users_folder_of_exports),
    ("handoff_with_another_users_export_in_a_sticky_folder", no_other_user, another_users_export),
    ("handoff_with_an_export_that_is_immutable", no_chattr, immutable_export),
    ("handoff_with_an_unreadable_folder", no_other_user, unreadable_folder_in_an_archive),
    ("handoff_with_another_users_leftovers", no_other_user, another_users_leftovers),
    ("handoff_of_a_slow_archive", no_slow_reads, slow_archive),
    ("handoff_without_inodes", no_tmpfs, no_inodes),
    ("handoff_with_a_full_output_dir", no_tmpfs, full_output_dir),
    ("handoff_of_an_archive_that_does_not_answer", no_fuse, silent_archive),
    ("a_terminal_shows_what_is_waited_for", no_terminal, terminal),
];

/// A config with the target `alpha`, and everything that a scrape of it needs. `handoff NAME [WRAPPER]…` keeps
/// what it says.
const READY: &str = r#"
mkdir -p "$ROOT/archive/alpha" "$ROOT/repo/scripts" "$ROOT/bin"
echo '{ "channel": { "id": "100000000000000001" } }' >"$ROOT/archive/alpha/a [100000000000000001].json"
cat >"$ROOT/scrape.json" <<JSON
{ "archive_root": "$ROOT/archive", "targets": [ { "name": "alpha", "output_dir": "$ROOT/archive/alpha" } ] }
JSON
echo 'DISCORD_TOKEN=x' >"$ROOT/repo/scrape.env"
ln -sf /bin/true "$ROOT/bin/docker"
ln -sf /bin/true "$ROOT/bin/jq"
export DCE_REPO_ROOT=$ROOT/repo DCE_MIN_FREE_MB=1 PATH=$ROOT/bin:$PATH
chmod -R a+rwX "$ROOT/archive" "$ROOT/repo"
handoff() {
    name=$1; shift
    set +e
    "$@" "$XTASK" handoff --config "$ROOT/scrape.json" >"$ROOT/$name"
    echo "exit $?" >>"$ROOT/$name"
    set -e
}
"#;

const MOUNT_TMPFS: &str = r#"mount -t tmpfs tmpfs "$ROOT/archive""#;

/// A file system whose daemon has not even said hello.
pub(crate) const MOUNT_SILENT: &str = r#"
exec 7<>/dev/fuse
mount -i -t fuse -o fd=7,rootmode=40000,user_id=0,group_id=0 silent "$ROOT/archive"
"#;

/// Runs the script on what is ready, and checks that this is all that has failed.
#[track_caller]
fn assert_fails(wrapper: &[&str], script: &str, expected: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.script(wrapper, &format!("{READY}\nhandoff before\n{script}"));
    let text = |name: &str| std::fs::read_to_string(sandbox.at(name)).unwrap();
    assert!(text("before").contains("Safe to run") && text("before").ends_with("exit 0\n"), "{}", text("before"));
    let after = text("after");
    let failed: Vec<&str> = after.lines().filter(|line| line.starts_with("FAIL: ")).collect();
    assert_eq!(failed.len(), expected.len(), "{after}");
    for (line, expected) in failed.iter().zip(expected) {
        assert!(line.contains(expected), "{expected}: {after}");
    }
    assert!(!after.contains("Safe to run") && after.ends_with("exit 1\n"), "{after}");
    assert!(after.contains("Scrape lock status") && after.contains("auth: scrape.env has DISCORD_TOKEN"), "{after}");
}

/// The same of a handoff that another user runs.
#[track_caller]
fn assert_fails_for_nobody(setup: &str, expected: &[&str]) {
    assert_fails(&[], &format!("{setup}\nhandoff after {}", NOBODY.join(" ")), expected);
}

fn no_other_user() -> Option<String> {
    obstacle(&[], &format!("{} true", NOBODY.join(" ")))
}

fn no_tmpfs() -> Option<String> {
    obstacle(MOUNTS, MOUNT_TMPFS)
}

pub(crate) fn no_fuse() -> Option<String> {
    obstacle(MOUNTS, MOUNT_SILENT)
}

fn read_only_archive() {
    let script =
        r#"mount --bind "$ROOT/archive" "$ROOT/archive"; mount -o remount,bind,ro "$ROOT/archive"; handoff after"#;
    let read_only = "it is on a read-only file system";
    assert_fails(MOUNTS, script, &[read_only, read_only]);
}

fn another_users_archive() {
    let setup = r#"chmod 755 "$ROOT/archive" "$ROOT/archive/alpha""#;
    assert_fails_for_nobody(setup, &["/archive`: permission denied", "target `alpha`: cannot write in `"]);
}

fn another_users_lock_file() {
    assert_fails_for_nobody(r#": >"$lock"; chmod 644 "$lock""#, &["cannot write in `"]);
}

fn another_users_folder_of_exports() {
    let setup = r#"mkdir "$ROOT/archive/alpha/sub"; mv "$ROOT/archive/alpha/"*.json "$ROOT/archive/alpha/sub""#;
    assert_fails_for_nobody(setup, &["alpha/sub`: permission denied"]);
}

fn another_users_export() {
    let sticky = "it is another user's, in a folder with the sticky bit";
    assert_fails_for_nobody(r#"chmod 1777 "$ROOT/archive/alpha""#, &[sticky]);
}

fn no_chattr() -> Option<String> {
    obstacle(&[], r#": >"$ROOT/x"; chattr +i "$ROOT/x" && chattr -i "$ROOT/x""#)
}

fn immutable_export() {
    let script = r#"chattr +i "$ROOT/archive/alpha/"*.json; handoff after; chattr -i "$ROOT/archive/alpha/"*.json"#;
    assert_fails(&[], script, &["it or its folder is immutable or append-only (chattr)"]);
    let script = r#"chattr +a "$ROOT/archive/alpha"; handoff after; chattr -a "$ROOT/archive/alpha""#;
    assert_fails(&[], script, &["it or its folder is immutable or append-only (chattr)"]);
}

fn unreadable_folder_in_an_archive() {
    assert_fails_for_nobody(r#"mkdir -m 700 "$ROOT/archive/alpha/sub""#, &["cannot read folder `"]);
}

/// Puts alpha on a tmpfs of its own.
fn on_own_tmpfs(options: &str, fill: &str) -> String {
    format!(
        r#"mv "$ROOT/archive/alpha/"*.json "$ROOT"; mount -t tmpfs -o {options} tmpfs "$ROOT/archive/alpha"
        mv "$ROOT/"*.json "$ROOT/archive/alpha"; mv "$ROOT/archive/alpha/scrape.json" "$ROOT"; {fill}; handoff after"#
    )
}

fn no_inodes() {
    let fill = r#"i=0; while : 2>/dev/null >"$ROOT/archive/alpha/$i"; do i=$((i + 1)); done"#;
    let script = on_own_tmpfs("size=8m,nr_inodes=64", &format!("sh -c '{fill}' || :"));
    assert_fails(MOUNTS, &script, &["no inodes left on "]);
}

fn full_output_dir() {
    let fill = r#"dd if=/dev/zero of="$ROOT/archive/alpha/full" 2>/dev/null || :"#;
    let short = "0 MiB free, need at least 1 MiB under output_dir (";
    assert_fails(MOUNTS, &on_own_tmpfs("size=8m", fill), &[short]);
}

/// The rest of the report comes nevertheless, and nothing is waited for twice but the lock.
fn silent_archive() {
    let script = format!("{MOUNT_SILENT}\nhandoff after timeout -s KILL 30");
    let silent = "does not answer within 10 s";
    assert_fails(MOUNTS, &script, &[silent, silent, silent]);
}

fn no_terminal() -> Option<String> {
    obstacle(&[], r#"script -qefc true "$ROOT/seen" >/dev/null </dev/null"#)
}

/// The compose program answers once the terminal says that it is waited for.
fn terminal() {
    let sandbox = Sandbox::new();
    sandbox.script(
        &[],
        &format!(
            r#"{READY}
            rm "$ROOT/bin/docker"
            cat >"$ROOT/bin/docker" <<'SH'
#!/bin/sh
exec timeout 9 sh -c 'until grep -q "waiting for .docker compose version" "$ROOT/seen"; do :; done'
SH
            chmod +x "$ROOT/bin/docker"
            export ROOT TERM=xterm; unset CI
            : >"$ROOT/seen"
            script -qefc '"$XTASK" handoff --config "$ROOT/scrape.json"' "$ROOT/seen" >/dev/null </dev/null"#
        ),
    );
    let seen = std::fs::read_to_string(sandbox.at("seen")).unwrap();
    assert!(seen.contains("Safe to run"), "{seen}");
}

fn another_users_leftovers() {
    let leftover =
        r#"mkdir -p "$ROOT/archive/alpha/.dce-temp/export.1.abc"; chmod a+rwx "$ROOT/archive/alpha/.dce-temp""#;
    let nobody = NOBODY.join(" ");
    let closed =
        format!(r#"{leftover}; chmod 700 "$ROOT/archive/alpha/.dce-temp/export.1.abc"; handoff after {nobody}"#);
    assert_fails(&[], &closed, &["cannot read folder `", "export.1.abc`: permission denied"]);
    let open = format!(r#"{leftover}; chmod 755 "$ROOT/archive/alpha/.dce-temp/export.1.abc"; handoff after {nobody}"#);
    assert_fails(&[], &open, &["export.1.abc`: permission denied"]);
}

fn no_slow_reads() -> Option<String> {
    obstacle(&[], "strace -f -o /dev/null -e trace=pread64 -e inject=pread64:delay_enter=10 true")
}

/// What goes on, however slowly, is waited for.
fn slow_archive() {
    let sandbox = Sandbox::new();
    sandbox.script(
        &[],
        &format!(
            r#"{READY}
            i=0; while [ $i -lt 300 ]; do
                echo '{{ "channel": {{ "id": "1000000000000'$((10000 + i))'" }} }}' >"$ROOT/archive/alpha/a [1000000000000$((10000 + i))].json"
                i=$((i + 1))
            done
            handoff slow strace -f -o /dev/null -e trace=pread64 -e inject=pread64:delay_enter=40000"#
        ),
    );
    let seen = std::fs::read_to_string(sandbox.at("slow")).unwrap();
    assert!(seen.contains("Safe to run"), "{seen}");
}
