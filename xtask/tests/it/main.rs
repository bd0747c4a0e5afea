//! The lock in hard places: file systems where `stat` misleads, other users, containers,
//! a kernel table that cannot be read. A place that cannot be had here is skipped with
//! the reason.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "all of it is tests")]
#![allow(clippy::disallowed_methods, reason = "tests drive programs as users do, in folders of their own")]

mod acquiring;
mod checkouts;
mod crash;
mod findings;
mod mutants;
mod places;
mod readiness;
mod runner;
mod sandbox;
mod shims;
mod untouched;

use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::Signal;
use places::{NOBODY, smokes, smokes_obstacle};
use sandbox::{CONTAINER, MOUNTS, obstacle};
use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};

/// Number of tests that run at once.
const THREADS: usize = 8;

/// These load the machine or the lock table, so that another program may rightly say that it does not know.
const ALONE: [&str; 5] = [
    "a_line_that_moves_between_two_pages_is_not_missed",
    "many_descriptors_are_looked_at_in_time",
    "tens_of_thousands_of_locks_are_read_in_time",
    "waiters_and_a_toggled_lock_do_not_hide_the_held_one",
    "waiting_costs_little",
];

static MACHINE: RwLock<()> = RwLock::new(());

/// A name, why it cannot run here, and the test.
type Test = (&'static str, fn() -> Option<String>, fn());

fn main() -> ExitCode {
    if ignores_signals() {
        // A shell cannot trap what was ignored when it started: under nohup, or in the background of a script.
        let again = sandbox::command("env").arg("--default-signal").args(std::env::args_os()).exec();
        println!("ERROR: cannot run env: {again}");
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    // Most of them wait for other programs.
    arguments.test_threads.get_or_insert(THREADS);
    let mut known = HashMap::new();
    let trial = |(name, obstacle, run): Test| {
        // Some obstacles take a while to try: each once, and only for the test that nextest asks for.
        let is_other = arguments.exact && arguments.filter.as_deref() != Some(name);
        let obstacle = if is_other { None } else { known.entry(obstacle).or_insert_with(obstacle).clone() };
        if let Some(why) = obstacle.as_ref().filter(|_| !arguments.list) {
            println!("SKIP: {name} ({why})");
        }
        let passes = move || {
            let is_alone = ALONE.contains(&name);
            let _alone = is_alone.then(|| MACHINE.write().unwrap_or_else(PoisonError::into_inner));
            let _beside = (!is_alone).then(|| MACHINE.read().unwrap_or_else(PoisonError::into_inner));
            run();
            Ok(())
        };
        // Decided while listing: some runners report what is ignored at run time as passed.
        Trial::test(name, passes).with_ignored_flag(obstacle.is_some())
    };
    let mut tests =
        [readiness::CASES.to_vec(), findings::CASES.concat(), tests(), runner::CASES.to_vec(), shims::CASES.to_vec()]
            .concat();
    // Then those that take longest.
    tests.sort_by_key(|(name, ..)| (!ALONE.contains(name), !name.starts_with("crash_")));
    libtest_mimic::run(&arguments, tests.into_iter().map(trial).collect()).exit_code()
}

/// Whether signals are ignored that the tests send.
fn ignores_signals() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let of = |signal: Signal| 1_u64 << (signal as i32 - 1);
    let sent = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1];
    u64::from_str_radix(ignored, 16).unwrap() & sent.into_iter().map(of).sum::<u64>() != 0
}

fn tests() -> Vec<Test> {
    let overlay = || obstacle(MOUNTS, places::MOUNT_OVERLAY);
    let btrfs = || obstacle(MOUNTS, places::MOUNT_BTRFS);
    let container = || obstacle(CONTAINER, "true");
    let hidden_table = || obstacle(MOUNTS, places::HIDE_TABLE);
    let hidden_processes = || obstacle(MOUNTS, places::HIDE_PROCESSES);
    let other_user = || obstacle(&[], &format!("{} true", NOBODY.join(" ")));
    let strace = || obstacle(&[], "strace -o /dev/null true");
    let injection = || obstacle(&[], crash::TRIAL);
    let flock = || obstacle(&[], "flock /dev/null true && bash -c true");
    let none = || None;
    vec![
        ("overlayfs", overlay, places::overlayfs),
        ("overlayfs_with_the_lock_file_in_the_lower_layer", overlay, places::overlayfs_lower),
        ("btrfs", btrfs, places::btrfs),
        ("holder_outside_this_pid_namespace", container, places::holder_outside),
        ("holder_inside_this_pid_namespace", container, places::holder_inside),
        ("hidden_proc_locks", hidden_table, places::hidden_table),
        ("hidden_processes", hidden_processes, places::hidden_processes),
        ("another_users_lock", other_user, places::another_users_lock),
        ("another_users_deleted_lock", other_user, places::another_users_deleted_lock),
        ("deleted_lock_from_a_container", container, places::deleted_lock_from_a_container),
        ("deleted_lock_with_an_unreadable_sidecar", other_user, places::deleted_lock_with_an_unreadable_sidecar),
        ("smokes_as_another_user", || smokes_obstacle(NOBODY), || smokes(NOBODY)),
        ("smokes_in_a_container", || smokes_obstacle(CONTAINER), || smokes(CONTAINER)),
        ("a_holder_that_hangs_and_one_that_writes", container, places::activity),
        ("shared_lock_that_stays", none, places::shared_lock),
        ("fcntl_lock", none, places::fcntl_lock),
        ("many_waiters", none, places::many_waiters),
        ("flock_and_lock_run_keep_each_other_out", flock, acquiring::flock_and_lock_run),
        ("the_runners_reader_reads_our_sidecar", none, acquiring::sidecar_is_the_runners),
        ("signals_reach_the_command", none, acquiring::signals),
        ("waiting_ends_when_the_holder_does", flock, acquiring::waiting),
        ("lock_run_waits_its_turn", flock, acquiring::lock_run_waits),
        ("a_lock_that_cannot_be_taken", other_user, acquiring::cannot_be_taken),
        ("each_checkout_answers_for_itself", none, checkouts::each_answers_for_itself),
        ("lock_run_hands_on_the_callers_environment", none, checkouts::lock_run_hands_on_the_callers_environment),
        ("every_mutant_is_caught", flock, mutants::every_mutant_is_caught),
        ("the_callers_environment_does_not_leak", flock, mutants::the_callers_environment_does_not_leak),
        ("the_wrapped_program_passes", flock, mutants::the_wrapped_program_passes),
        ("reader_that_went_away", none, untouched::reader_that_went_away),
        ("full_disk_behind_standard_output", none, untouched::full_output),
        ("no_system_call_takes_or_changes_anything", strace, untouched::system_calls),
        ("crash_complete_first_lock_run", injection, crash::first_lock_run),
        ("crash_complete_lock_run_after_a_crash", injection, crash::lock_run_after_a_crash),
        ("crash_complete_reclaim", injection, crash::reclaim),
        ("crash_complete_salvage", injection, crash::salvage),
        ("crash_complete_beside_a_holder", injection, crash::beside_a_holder),
        ("crash_complete_beside_an_unlinked_lock", injection, crash::beside_an_unlinked_lock),
    ]
}
