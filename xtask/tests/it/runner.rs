//! The runner of the smokes itself: it is neither fooled nor flooded, and leaves nothing behind.

mod checkout;

use crate::findings::{Case, behind, no_root};
use crate::sandbox::{command, obstacle};
use checkout::{Checkout, assert_says, case};
use std::fs::read_dir;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

pub(crate) const CASES: &[Case] = &[
    ("smokes_are_not_fooled", none, not_fooled),
    ("smokes_are_not_flooded", none, not_flooded),
    ("a_smoke_that_cannot_leave_its_stage", none, stays_on_stage),
    ("no_process_outlives_its_smoke", no_setsid, no_process_outlives),
    ("a_missing_tool_fails_ci", none, missing_tool),
    ("smokes_end_cleanly_when_killed", none, killed),
    ("smokes_end_cleanly_when_a_smokes_process_is_killed", none, part_killed),
    ("smokes_end_cleanly_when_interrupted", none, interrupted),
    ("keep_bless_repeat_and_fail_fast", none, options),
    ("readme_examples_are_smokes", none, readme),
    ("what_a_program_prints_is_no_command_to_github", none, annotations),
];

fn none() -> Option<String> {
    None
}

fn no_setsid() -> Option<String> {
    obstacle(&[], "env -i setsid -w true")
}

#[track_caller]
fn assert_fails(script: &str, expect: &str, because: &str) {
    let checkout = Checkout::new(&[("case", &case(script, expect))]);
    assert_says(&mut checkout.shell(&[]), 1, &[because]);
    checkout.assert_nothing_left();
}

fn not_fooled() {
    assert_fails(r"printf 'a\r\nb\r\n'", r#"stdout.is = "a\nb\n""#, r"  + a\r");
    assert_fails(r"printf 'a\rb\n'", r#"stdout.has = ["b"]"#, "lacks the line `b`");
    assert_fails(r"printf 'a\377\n'", "stdout.is = \"a\u{fffd}\\n\"", r"  + a\xff");
    assert_fails("echo '[x'; echo '[..]'", r#"stdout.is = "[x\n[[]x]\n""#, "  + [..]");
    assert_fails("echo x >archive/new", "", "the stage was changed");
    assert_fails("echo x >[PROGRAMS]/new", "", "created ");
    assert_fails("true", "absent = ['archive']", "archive still exists");
    assert_fails("true", "files.'archive/none'.lacks = ['x']", "archive/none cannot be read: no such file");
    if no_root().is_none() {
        assert_fails("chown 1:1 archive", "", "changed ");
    }
    let held = "args = ['kill -KILL [HOLDER_PID]']\n[stage]\nheld.by = 'flock'\n[expect]\nexit = 0\n";
    assert_says(&mut Checkout::new(&[("case", held)]).shell(&[]), 1, &["the holder of the lock has ended"]);
    let held = held.replace("'flock'", "'lock-run'").replace("exit = 0", "exit = 0\nwrites = true");
    assert_says(&mut Checkout::new(&[("case", &held)]).shell(&[]), 1, &["the holder of the lock has ended"]);
    assert_fails("true", "absent = ['/nonexistent']", "cannot look at /nonexistent");
    assert_fails("true", "absent = ['[ROOT]/nonexistent']", "cannot look at [ROOT]/nonexistent");
    assert_fails("true", r#"stdout.lacks = ["a\n"]"#, "is more than a line");
    assert_fails(
        "rmdir archive; ln -s /etc archive",
        "writes = true\nfiles.'archive/passwd'.has = ['[..]']",
        "too many levels of symbolic links",
    );
    // Neither an interrupted smoke nor a forged outcome has passed.
    assert_fails("kill -TERM $PPID; sleep 30; exit 9", "", "somebody interrupted its process");
    assert_fails(
        r#"echo '"Passed"' >/proc/$PPID/fd/1; kill -KILL $PPID; exit 9"#,
        "",
        "its process ended with signal 9",
    );
    let forged = r#"{ printf '"Passed"'; head -c 9000000 /dev/zero | tr '\0' ' '; } >/proc/$PPID/fd/1; exit 9"#;
    assert_fails(forged, "", "its process ended with exit code 0");
    assert_fails("(sleep 1; echo late) &", "", "something still had it open after the end");
    // What is written late is written all the same, and what is left in the program's own group is left.
    let late = "mkfifo tmp/f; setsid sh -c 'echo >tmp/f; sleep 1; echo x >archive/new' >/dev/null 2>&1 & read -r x <tmp/f; rm tmp/f";
    assert_fails(late, "", "created ");
    let left = "mkfifo tmp/f; sh -c 'echo >tmp/f; exec sleep 1000' >/dev/null 2>&1 & read -r x <tmp/f; rm tmp/f";
    assert_fails(left, "writes = true", "(sleep) running, which was killed");
    assert_fails("printf a", r#"stdout.is = "a\n[..]\n""#, "only one of them ends with a newline");
    assert_fails(r"printf 'a\nb'", r#"stdout.is = "a\n...\n""#, "only one of them ends with a newline");
    assert_fails("echo ...", "stdout.lacks = ['...']\nstdout.has = ['...']", "which `...` forbids");
    assert_fails(r"printf '\377\n'", r#"stdout.is = "\U0010FEFF\n""#, r"  + \xff");
    let flood = "head -c 9000000 /dev/zero | tr '\\0' x; echo; echo secret";
    assert_fails(flood, "stdout.lacks = ['secret']", "it was more than 8 MiB");
}

fn not_flooded() {
    let checkout = Checkout::new(&[("case", &case("yes '' | head -c 8000000", r#"stdout.is = "x\n""#))]);
    let started = std::time::Instant::now();
    let said = assert_says(&mut checkout.shell(&[]), 1, &[]);
    assert!(said.lines().count() < 250, "{}", said.lines().count());
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

fn stays_on_stage() {
    let checkout = Checkout::new(&[(
        "case",
        "args = ['true']\n[stage]\nlinks = { 'file' = '$OUT/none' }\nmodes = { 'file' = 0o777 }\n[expect]\nexit = 0\n",
    )]);
    assert_says(&mut checkout.shell(&[]), 1, &["(os error 40)"]);
    assert_eq!(read_dir(checkout.at("out")).unwrap().count(), 1);
    let closed =
        "args = ['true']\n[stage]\nfiles = { 'archive/a/b' = '' }\nmodes = { 'archive/a' = 0 }\n[expect]\nexit = 0\n";
    let checkout = Checkout::new(&[("case", closed)]);
    assert_says(&mut checkout.shell(&[]), 0, &[]);
    checkout.assert_nothing_left();
    // Deeper than there may be open files.
    let deep = "i=0; cd tmp; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done";
    let checkout = Checkout::new(&[("case", &case(deep, "writes = true"))]);
    let limited = ["sh", "-c", r#"ulimit -n 200; exec "$@""#, "sh"];
    assert_says(&mut behind(&limited, &checkout.shell(&[])), 0, &[]);
    checkout.assert_nothing_left();
}

fn no_process_outlives() {
    let daemon = "mkfifo tmp/f; env -i setsid sh -c 'echo >tmp/f; exec sleep 1000' >/dev/null 2>&1 & read -r x <tmp/f
        (setsid sh -c 'echo >tmp/f; exec sleep 1000' >/dev/null 2>&1 &); read -r x <tmp/f; rm tmp/f";
    let checkout = Checkout::new(&[("case", &case(daemon, "writes = true")), ("other", &case("true", ""))]);
    let said = assert_says(&mut checkout.shell(&["--jobs", "2"]), 1, &["FAIL: case", "(sleep) running"]);
    assert!(said.matches("it left process ").count() == 2 && !said.contains("FAIL: other"), "{said}");
    for pid in said.split("it left process ").skip(1).map(|rest| rest.split(' ').next().unwrap()) {
        assert!(!Path::new("/proc").join(pid).exists(), "{said}");
    }
    // Its parents end while it is looked for.
    let forks = r#"sh -c 'sh -c "sleep 1000 >/dev/null 2>&1 &" >/dev/null 2>&1 &'"#;
    let forks = Checkout::new(&[("case", &case(forks, "writes = true"))]);
    let said = assert_says(&mut forks.shell(&["--repeat", "5"]), 1, &["it left process "]);
    assert!(!said.contains("flaky"), "{said}");
    // Nobody else's.
    let pid = checkout.at("out/pid").display().to_string();
    let smokes = checkout.shell(&["other"]);
    let parent = ["bash", "-c", r#"sleep 1000 >/dev/null 2>&1 & echo $! >"$0"; exec "$@""#, &pid];
    assert_says(&mut behind(&parent, &smokes), 0, &[]);
    assert!(command("kill").arg(checkout.read("out/pid").trim()).status().unwrap().success());
    // Where nobody is told of the end of a child.
    assert_says(&mut behind(&["bash", "-c", r#"trap '' CHLD; exec "$@""#, "bash"], &smokes), 0, &[]);
    // Of scripts too.
    checkout.write("scripts/tests/x-smoke.sh", &format!("cd $HOME/..; {daemon}"));
    assert_says(&mut checkout.smokes(&["x-smoke"]), 1, &["it left process "]);
}

fn missing_tool() {
    let held = "args = ['true']\nstage.held.by = 'flock'\n[expect]\nexit = 0\n";
    let checkout = Checkout::new(&[("held", held), ("other", &case("true", ""))]);
    let run = |ci: &str, options: &[&str], code, parts: &[&str]| {
        assert_says(checkout.shell(options).env("PATH", checkout.at("out")).env("CI", ci), code, parts)
    };
    run("", &[], 0, &["SKIP: held (no `flock` on PATH)\n", "All 1 smoke(s)"]);
    run("1", &[], 1, &["--allow-skip held"]);
    run("1", &["--allow-skip", "held"], 0, &[]);
}

/// Starts a run of a case whose program never ends, and waits until it has written its pids.
fn start_hanging(checkout: &Checkout) -> (Child, Vec<u32>) {
    let mut fifo = command("mkfifo");
    assert!(fifo.arg(checkout.at("out/pids")).status().unwrap().success());
    let run = checkout.shell(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(std::fs::File::open(checkout.at("out/pids")).unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    (run, line.split_whitespace().map(|pid| pid.parse().unwrap()).collect())
}

/// A program that leaves its group, its parent and its environment, writes its pids, and never ends.
fn hanging() -> Checkout {
    let script = "trap '' TERM; env -i setsid sleep 1000 >/dev/null 2>&1 & x=$!; sleep 1000 & echo $PPID $$ $x $! >'$OUT/pids'; wait";
    Checkout::new(&[("case", &case(script, ""))])
}

#[track_caller]
fn assert_all_end(checkout: &Checkout, pids: &[u32]) {
    let is_over = || {
        let running = pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists());
        !running && read_dir(checkout.at("tmp")).unwrap().next().is_none()
    };
    let started = std::time::Instant::now();
    while !is_over() {
        assert!(started.elapsed().as_secs() < 30, "{pids:?} still run, or a stage is left");
        std::thread::yield_now();
    }
}

/// Each smoke's own process notices, and cleans up.
fn killed() {
    let checkout = hanging();
    let (mut run, pids) = start_hanging(&checkout);
    run.kill().unwrap();
    run.wait().unwrap();
    assert_all_end(&checkout, &pids);
}

/// The runner notices, and cleans up.
fn part_killed() {
    let checkout = hanging();
    let (mut run, pids) = start_hanging(&checkout);
    assert!(command("kill").arg("-KILL").arg(pids[0].to_string()).status().unwrap().success());
    assert_eq!(run.wait().unwrap().code(), Some(1));
    assert_all_end(&checkout, &pids);
}

fn interrupted() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let checkout = hanging();
        let (mut run, pids) = start_hanging(&checkout);
        assert!(command("kill").arg(signal).arg(run.id().to_string()).status().unwrap().success());
        assert_eq!(run.wait().unwrap().code(), Some(2), "{signal}");
        assert_all_end(&checkout, &pids);
    }
}

fn options() {
    let checkout = Checkout::new(&[
        ("a", &case("echo new", "stdout.is = \"old\\n\"")),
        ("b", &case("echo pid $$; echo 2 s", "stdout.has = ['x']")),
        ("c", &case("true", "")),
    ]);
    let stopped = ["ERROR: 1 smoke(s) failed. 2 smoke(s) were not run.\n", "again: cargo xtask smokes a --keep --bin "];
    assert_says(&mut checkout.shell(&["--fail-fast", "--jobs", "1"]), 1, &stopped);

    let said = assert_says(&mut checkout.shell(&["a", "--keep"]), 1, &[]);
    let kept = said.lines().find_map(|line| line.split_once("its stage is kept: ")).unwrap().1;
    assert!(Path::new(kept).join("archive").is_dir(), "{said}");
    std::fs::remove_dir_all(kept).unwrap();

    let flaky = "[ -e '$OUT/once' ] || { echo >'$OUT/once'; exit 1; }";
    checkout.write("fixtures/smokes/d.toml", &case(flaky, ""));
    let flaky = ["flaky: it failed in 1 of 5 runs", "ERROR: 1 smoke(s) failed.\n"];
    assert_says(&mut checkout.shell(&["d", "c", "--repeat", "5"]), 1, &flaky);
    // The stage of the first failure alone is kept.
    let said = assert_says(&mut checkout.shell(&["a", "--keep", "--repeat", "5"]), 1, &["its stage is kept: "]);
    std::fs::remove_dir_all(said.lines().find_map(|line| line.split_once("kept: ")).unwrap().1).unwrap();

    // Only this very program can be blessed.
    checkout.write("fixtures/smokes/v.toml", "args = ['--version']\nexpect.exit = 1\nexpect.stdout.is = ''\n");
    assert_says(&mut checkout.smokes(&["v", "--bless"]), 0, &["BLESSED: v"]);
    let version = format!("'''\ncargo xtask {}\n'''", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        checkout.read("fixtures/smokes/v.toml"),
        format!("args = ['--version']\nexpect.exit = 0\nexpect.stdout.is = {version}\n")
    );
    checkout.write("fixtures/smokes/v.toml", "args = ['--version']\n[expect]\nexit = 0\nstdout.has = ['x']\n");
    assert_says(&mut checkout.smokes(&["v", "--bless"]), 1, &["--bless cannot rewrite it"]);
    checkout.assert_nothing_left();
}

fn readme() {
    let checkout = Checkout::new(&[]);
    checkout.write("fixtures/demo/scrape-targets.json", r#"{ "archive_root": "archive" }"#);
    let readme = |shown: &str| {
        format!(
            "# x\n\n```console first-answer\n$ cargo xtask lock-status --config fixtures/demo/scrape-targets.json\n{shown}```\n\nend\n"
        )
    };
    checkout.write("README.md", &readme("state: old\n"));
    assert_says(&mut checkout.smokes(&[]), 1, &["FAIL: first-answer", "- state: old"]);
    assert_says(&mut checkout.smokes(&["--bless"]), 0, &[]);
    assert_says(&mut checkout.smokes(&[]), 0, &[]);
    let said = checkout.read("README.md");
    assert!(said.contains("\nlock: /home/you/clone/fixtures/demo/archive/.dce-scrape.lock\nstate: free"), "{said}");
    assert!(said.starts_with("# x\n\n```console first-answer\n$ cargo") && said.ends_with("```\n\nend\n"), "{said}");
}

fn annotations() {
    let checkout = Checkout::new(&[("case", &case("echo '::error::x'; echo '##[error]y'", "stdout.has = ['z']"))]);
    let said = assert_says(checkout.shell(&[]).env("GITHUB_ACTIONS", "true"), 1, &["| ::error::x"]);
    let commands: Vec<&str> = said.lines().filter(|line| line.trim_start().starts_with("::")).collect();
    assert!(commands.len() == 1 && commands[0].contains("title=smoke case::"), "{said}");
    assert!(!said.contains("##["), "{said}");
}
