//! Each smoke as a test, run by the built program: so the filters, retries and reports of every test runner
//! work on them without code of ours.

#![allow(clippy::expect_used, clippy::print_stderr, reason = "all of it is tests")]
#![allow(clippy::disallowed_methods, reason = "a test drives the program as users do")]

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use std::io::Write;
use std::process::{Command, ExitCode, Output};

#[derive(serde::Deserialize)]
struct Listed {
    name: String,
    skip: Option<String>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // As many at once as the runner has: they wait a lot.
    arguments.test_threads.get_or_insert(2 * std::thread::available_parallelism().map_or(1, usize::from));
    let listed = match smokes(&["--list", "--format", "json"]) {
        Ok(output) => output.stdout,
        Err(failed) => {
            eprintln!("ERROR: cannot list the smokes: {}", failed.message().unwrap_or_default());
            return ExitCode::from(2);
        }
    };
    let listed: Vec<Listed> = serde_json::from_slice(&listed).expect("the list is JSON");
    assert!(!listed.is_empty(), "there are smokes");
    for smoke in listed.iter().filter(|_| !arguments.list) {
        if let Some(why) = &smoke.skip {
            eprintln!("SKIP: {} ({why})", smoke.name);
        }
    }
    let conclusion = libtest_mimic::run(&arguments, listed.into_iter().map(trial).collect());
    if let Some(summary) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|file| !file.is_empty() && !arguments.list) {
        let Conclusion { num_passed, num_failed, num_ignored, .. } = conclusion;
        let file = std::fs::File::options().create(true).append(true).open(summary);
        file.and_then(|mut file| {
            writeln!(
                file,
                "| smokes passed | failed | skipped |\n|---|---|---|\n| {num_passed} | {num_failed} | {num_ignored} |"
            )
        })
        .expect("the job summary can be written");
    }
    conclusion.exit_code()
}

fn trial(Listed { name, skip }: Listed) -> Trial {
    let run = {
        let name = name.clone();
        move || smokes(&["--jobs", "1", &name]).map(drop)
    };
    // Decided while listing: some runners report what is ignored at run time as passed.
    Trial::test(name, run).with_ignored_flag(skip.is_some())
}

fn smokes(args: &[&str]) -> Result<Output, Failed> {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("smokes").args(args).output()?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&said)).into())
}
