//! The crash-complete proof. `salvage`, `lock-run`, its release and `lock-status --reclaim-stale` are killed
//! before every system call they make, one run a call; and every call is made to fail once. After
//! each run `lock-status` is right, nobody was let in beside a holder, and the next `lock-run` gets in.
//!
//! By default with SIGKILL and EIO, at every call on the folder in question, at every wait, and at one in a hundred of
//! the others. With `XTASK_HEAVY=1` at all of them, and also with ENOSPC, EACCES and EMFILE where a call can fail so: as CI
//! does every night. How calls are chosen and counted: `crash/inject.rs`.

mod inject;
mod salvage;
mod scene;

pub(crate) use inject::TRIAL;
pub(crate) use salvage::salvage;

use inject::{Fault, Point};
use scene::{COMMAND_EXIT, HANGS, PASS, Run, STALE_SIDECAR, STAY, Scene};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Of the calls on anything else, one in so many is a point.
const OTHERS_STRIDE: usize = 100;

/// After so many hung runs the rest is left out.
const MAX_HUNG: usize = 3;

/// Maximum share of points that do not occur in the run that should hit them (runs differ a little).
/// Samples of a walk do not count: it may have become shorter.
const MAX_NOT_REACHED_PERCENT: usize = 5;

/// What all runs of a scenario came to.
#[derive(Default)]
struct Tally {
    tried: BTreeMap<String, usize>,
    not_reached: usize,
    /// Those of them that are not samples.
    missed: Vec<String>,
    /// Runs that were killed while their command was inside.
    killed_beside_command: usize,
    hung: usize,
    failures: Vec<String>,
}

/// A program, and how it is tried.
struct Plan<'a> {
    words: Vec<String>,
    /// Makes the state that each run starts from.
    set: &'a dyn Fn(),
    /// How the program ends without any fault.
    exit: i32,
    faults: Vec<Fault>,
    /// Also before it turns to anything of the sandbox: the same in all programs.
    with_startup: bool,
    /// The folder that it is about.
    at: PathBuf,
    /// Processes that stay from run to run.
    known: &'a [u32],
}

/// The first scrape ever: folder and lock file are made.
pub(crate) fn first_lock_run() {
    lock_run("first lock-run", Scene::set_nothing, true);
}

pub(crate) fn lock_run_after_a_crash() {
    lock_run("lock-run after a crash", Scene::set_stale, false);
}

fn lock_run(name: &str, set: fn(&Scene), with_startup: bool) {
    let scene = Scene::new();
    let words = scene.lock_run(STAY);
    let set = || set(&scene);
    let plan =
        Plan { words, set: &set, exit: COMMAND_EXIT, faults: faults(), with_startup, at: scene.folder(), known: &[] };
    let mut tally = plan.try_each(&scene, |run, fault, inode| {
        run.check_lock_run(fault);
        scene.check_afterwards(&mut run.wrong, inode);
    });
    if tally.killed_beside_command == 0 {
        tally.failures.push("no run was killed while its command was inside".to_owned());
    }
    expect_none([tally.told(name)]);
}

pub(crate) fn reclaim() {
    let scene = Scene::new();
    let words = scene.lock_status(&["--reclaim-stale"]);
    let set = || scene.set_stale();
    let plan =
        Plan { words, set: &set, exit: 0, faults: faults(), with_startup: false, at: scene.folder(), known: &[] };
    let tally = plan.try_each(&scene, |run, _, inode| {
        if scene.sidecar().exists() && (run.status.success() || run.stdout.contains("removed stale")) {
            run.wrong.push(format!("the sidecar is there, but: {}, {}", run.status, run.state()));
        }
        scene.check_afterwards(&mut run.wrong, inode);
    });
    expect_none([tally.told("reclaim")]);
}

pub(crate) fn beside_a_holder() {
    beside("a holder", |_| {});
}

/// Its lock file was deleted: only a walk through all processes finds the holder.
pub(crate) fn beside_an_unlinked_lock() {
    beside("a holder whose lock file was deleted", |scene| _ = std::fs::remove_file(&scene.lock));
}

/// No failing call makes anybody take a lock that is held, or call it free. The sidecar is a dead process's.
fn beside(what: &str, unlink: impl Fn(&Scene)) {
    let scene = Scene::new();
    scene.set_stale();
    let mut holder = scene.holder();
    let set = || {
        unlink(&scene);
        scene.write_sidecar();
        _ = std::fs::remove_file(scene.journal());
    };
    let commands = [
        ("lock-run", scene.lock_run(PASS)),
        ("lock-status", scene.lock_status(&[])),
        ("reclaim", scene.lock_status(&["--reclaim-stale"])),
    ];
    // Reclaiming begins with the look of lock-status.
    let number = if is_heavy() { 3 } else { 2 };
    let failures = commands.into_iter().take(number).map(|(name, words)| {
        let errors = faults().into_iter().filter(|fault| *fault != Fault::Kill).collect();
        let plan = Plan {
            words,
            set: &set,
            exit: 1,
            faults: errors,
            with_startup: false,
            at: scene.folder(),
            known: &[holder.id()],
        };
        let tally = plan.try_each(&scene, |run, _, inode| scene.check_beside(run, inode));
        tally.told(&format!("{name} beside {what}"))
    });
    let failures = failures.collect::<Vec<_>>().concat();
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    expect_none([failures]);
}

fn is_heavy() -> bool {
    std::env::var_os("XTASK_HEAVY").is_some_and(|set| set == "1")
}

fn faults() -> Vec<Fault> {
    let heavy = ["ENOSPC", "EACCES", "EMFILE"].map(Fault::Error);
    let ordinary = [Fault::Kill, Fault::Error("EIO")];
    ordinary.into_iter().chain(heavy.into_iter().filter(|_| is_heavy())).collect()
}

fn expect_none<const N: usize>(failures: [Vec<String>; N]) {
    let failures = failures.concat();
    assert!(failures.is_empty(), "{} failures:\n{}\n", failures.len(), failures.join("\n"));
}

impl Plan<'_> {
    /// One run for each fault at each point. `check` gets the run, what was done to it, and the lock
    /// file's inode before.
    fn try_each(&self, scene: &Scene, check: impl Fn(&mut Run, Option<(&Point, Fault)>, Option<u64>)) -> Tally {
        let run = |fault| {
            (self.set)();
            let inode = scene.inode();
            let mut run = scene.run(fault, &self.words);
            check(&mut run, fault, inode);
            run
        };
        let [first, second] = [(); 2].map(|()| {
            let run = run(None);
            assert!(run.wrong.is_empty(), "without any fault: {:?}", run.wrong);
            assert_eq!(run.status.code(), Some(self.exit), "without any fault: {}", run.stdout);
            run.trace
        });
        let points = inject::points([&first, &second], &scene.root, self.known);
        let mut tally = Tally::default();
        for fault in &self.faults {
            let can_be = |point: &&Point| point.can_have(*fault) && (self.with_startup || !point.is_startup);
            let (there, others): (Vec<&Point>, _) = points
                .iter()
                .filter(can_be)
                .partition(|point| point.may_block() || point.shows(&self.at.to_string_lossy()));
            let stride = if is_heavy() { 1 } else { OTHERS_STRIDE };
            for point in there.into_iter().chain(others.into_iter().step_by(stride)) {
                tally.add(point, *fault, run(Some((point, *fault))));
                if tally.hung >= MAX_HUNG {
                    return tally;
                }
            }
        }
        tally
    }
}

impl Scene {
    /// Somebody else holds the lock: nobody else gets in, nothing is called free, and all stays as it is.
    fn check_beside(&self, run: &mut Run, before: Option<u64>) {
        if run.status.success() || self.journal().exists() {
            run.wrong.push(format!("{}, {}", run.status, run.state()));
        }
        if std::fs::read_to_string(self.sidecar()).ok().as_deref() != Some(STALE_SIDECAR) {
            run.wrong.push("the sidecar was changed or removed".to_owned());
        }
        if before.is_some() && self.inode() != before {
            run.wrong.push("the lock file is another".to_owned());
        }
    }

    /// Nothing holds the lock: that is seen, and the next one gets in. The lock file stays the same one.
    fn check_afterwards(&self, wrong: &mut Vec<String>, before: Option<u64>) {
        let status = self.ask();
        if !["free", "stale"].contains(&&status.state[..]) || status.exit != 0 {
            wrong.push(format!("nothing holds the lock, and lock-status says {status:?}"));
        }
        let after = self.inode();
        self.check_next(wrong);
        if (before.is_some() && after != before) || (after.is_some() && self.inode() != after) {
            wrong.push("the lock file is another".to_owned());
        }
        let journal = std::fs::read_to_string(self.journal()).unwrap_or_default();
        let lines: Vec<&str> = journal.lines().collect();
        let is_visit = |pair: &[&str]| {
            let [entered, left] = pair else { return false };
            entered.strip_prefix("in ").is_some_and(|pid| left.strip_prefix("out ") == Some(pid))
        };
        if !lines.chunks(2).all(is_visit) {
            wrong.push(format!("two were inside at once: {lines:?}"));
        }
    }

    /// The next one gets in, and leaves nothing but the lock file.
    fn check_next(&self, wrong: &mut Vec<String>) {
        let next = self.output(&self.lock_run(PASS));
        if next.status.code() != Some(COMMAND_EXIT) {
            wrong.push(format!("the next lock-run: {}, {}", next.status, String::from_utf8_lossy(&next.stderr)));
        }
        let status = self.ask();
        if (&status.state[..], status.exit) != ("free", 0) {
            wrong.push(format!("after the next lock-run, lock-status says {status:?}"));
        }
        let folder = std::fs::read_dir(self.folder()).into_iter().flatten();
        let left: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).filter(|path| *path != self.lock).collect();
        if !left.is_empty() {
            wrong.push(format!("left after the next lock-run: {left:?}"));
        }
    }
}

impl Run {
    /// What `lock-run` itself must keep to.
    fn check_lock_run(&mut self, fault: Option<(&Point, Fault)>) {
        let status = self.status;
        let is_killed = fault.is_some_and(|(_, fault)| fault == Fault::Kill);
        let is_wait = fault.is_some_and(|(point, _)| point.is_wait());
        let wrong = match (self.has_entered, status.code()) {
            (false, Some(0 | COMMAND_EXIT)) => format!("its command did not run, but: {status}"),
            (true, Some(_)) if self.left_command => format!("it ended before its command: {status}"),
            (true, Some(COMMAND_EXIT)) => return,
            // How the command ended is not known then.
            (true, Some(code)) if code != 0 && is_wait => return,
            (true, Some(_)) => format!("its command ended with {COMMAND_EXIT}, it with {status}"),
            (true, None) if !is_killed => format!("it crashed while its command ran: {status}"),
            _ => return,
        };
        self.wrong.push(wrong);
    }

    fn state(&self) -> &str {
        self.stdout.lines().find(|line| line.starts_with("state: ")).unwrap_or("no state told")
    }
}

impl Tally {
    fn add(&mut self, point: &Point, fault: Fault, run: Run) {
        *self.tried.entry(fault.to_string()).or_default() += 1;
        self.killed_beside_command += usize::from(run.left_command && fault == Fault::Kill);
        self.hung += usize::from(run.wrong.iter().any(|what| what == HANGS));
        if !inject::was_hit(&run.trace, fault) {
            self.not_reached += 1;
            self.missed.extend((!point.is_sample).then(|| format!("{fault} at {point}")));
        }
        self.failures.extend(run.wrong.iter().map(|what| format!("{fault} at {point}: {what}")));
    }

    /// Prints what was done; what is wrong.
    fn told(mut self, name: &str) -> Vec<String> {
        let tried: usize = self.tried.values().sum();
        let counts: Vec<String> = self.tried.iter().map(|(fault, count)| format!("{count} {fault}")).collect();
        let killed = match self.killed_beside_command {
            0 => String::new(),
            count => format!(", {count} killed while their command was inside"),
        };
        println!("{name}: {tried} points ({}){killed}, {} not reached", counts.join(", "), self.not_reached);
        if self.missed.len() * 100 > tried * MAX_NOT_REACHED_PERCENT {
            self.failures.extend(self.missed.drain(..).map(|point| format!("not reached: {point}")));
        }
        self.failures.iter().map(|failure| format!("{name}: {failure}")).collect()
    }
}
