//! The lock in hard places: file systems where `stat` misleads, other users, containers,
//! a kernel table that cannot be read. A place that cannot be had here is skipped with
//! the reason.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "all of it is tests")]
#![allow(clippy::disallowed_methods, reason = "tests drive programs as users do, in folders of their own")]

mod acquiring;
mod mutants;
mod places;
mod stand;
mod untouched;

use libtest_mimic::{Arguments, Trial};
use places::{NOBODY, smokes, smokes_obstacle};
use stand::{CONTAINER, MOUNTS, obstacle};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let test = |name: &str, obstacle: fn() -> Option<String>, run: fn()| {
        let obstacle = obstacle();
        if let Some(why) = obstacle.as_ref().filter(|_| !arguments.list) {
            println!("SKIP: {name} ({why})");
        }
        let passes = move || {
            run();
            Ok(())
        };
        // Decided while listing: what is ignored at run time counts as passed with some runners.
        Trial::test(name, passes).with_ignored_flag(obstacle.is_some())
    };
    let overlay = || obstacle(MOUNTS, places::MOUNT_OVERLAY);
    let btrfs = || obstacle(MOUNTS, places::MOUNT_BTRFS);
    let container = || obstacle(CONTAINER, "true");
    let hidden_table = || obstacle(MOUNTS, places::HIDE_TABLE);
    let hidden_processes = || obstacle(MOUNTS, places::HIDE_PROCESSES);
    let other_user = || obstacle(&[], &format!("{} true", NOBODY.join(" ")));
    let strace = || obstacle(&[], "strace -o /dev/null true");
    let flock = || obstacle(&[], "flock /dev/null true && bash -c true");
    let none = || None;
    let tests = vec![
        test("overlayfs", overlay, places::overlayfs),
        test("overlayfs_with_the_lock_file_in_the_lower_layer", overlay, places::overlayfs_lower),
        test("btrfs", btrfs, places::btrfs),
        test("holder_outside_this_pid_namespace", container, places::holder_outside),
        test("holder_inside_this_pid_namespace", container, places::holder_inside),
        test("hidden_proc_locks", hidden_table, places::hidden_table),
        test("hidden_processes", hidden_processes, places::hidden_processes),
        test("another_users_lock", other_user, places::another_users_lock),
        test("another_users_deleted_lock", other_user, places::another_users_deleted_lock),
        test("deleted_lock_from_a_container", container, places::deleted_lock_from_a_container),
        test("deleted_lock_with_an_unreadable_sidecar", other_user, places::deleted_lock_with_an_unreadable_sidecar),
        test("smokes_as_another_user", || smokes_obstacle(NOBODY), || smokes(NOBODY)),
        test("smokes_in_a_container", || smokes_obstacle(CONTAINER), || smokes(CONTAINER)),
        test("shared_lock_that_stays", none, places::shared_lock),
        test("fcntl_lock", none, places::fcntl_lock),
        test("many_waiters", none, places::many_waiters),
        test("flock_and_lock_run_keep_each_other_out", flock, acquiring::flock_and_lock_run),
        test("the_runners_reader_reads_our_sidecar", none, acquiring::sidecar_is_the_runners),
        test("signals_reach_the_command", none, acquiring::signals),
        test("waiting_ends_when_the_holder_does", flock, acquiring::waiting),
        test("lock_run_waits_its_turn", flock, acquiring::lock_run_waits),
        test("a_lock_that_cannot_be_taken", other_user, acquiring::cannot_be_taken),
        test("every_mutant_is_caught", flock, mutants::every_mutant_is_caught),
        test("the_callers_environment_does_not_leak", flock, mutants::the_callers_environment_does_not_leak),
        test("the_wrapped_program_passes", flock, mutants::the_wrapped_program_passes),
        test("reader_that_went_away", none, untouched::reader_that_went_away),
        test("full_disk_behind_standard_output", none, untouched::full_output),
        test("no_system_call_takes_or_changes_anything", strace, untouched::system_calls),
    ];
    libtest_mimic::run(&arguments, tests).exit_code()
}
