//! Which checkout answers, when a program or a target folder serves several.

use crate::sandbox::{Sandbox, command};
use std::process::Command;

/// What `lock-status` says about its missing default config: the path names the checkout.
fn answering_checkout(sandbox: &Sandbox, set: impl FnOnce(&mut Command)) -> String {
    let mut ask = command(&sandbox.bin);
    for name in ["CARGO_MANIFEST_DIR", "XTASK_WORKSPACE"] {
        ask.env_remove(name);
    }
    set(ask.arg("lock-status"));
    let said = String::from_utf8(ask.output().unwrap().stderr).unwrap();
    said.split('`').nth(1).unwrap_or_default().trim_end_matches("/config/scrape-targets.json").to_owned()
}

/// A folder that looks like a checkout of this repository.
fn checkout(sandbox: &Sandbox, name: &str) -> String {
    let root = sandbox.at(name);
    std::fs::create_dir_all(root.join("scripts")).unwrap();
    std::fs::write(root.join("scripts/scrape-lock-status.sh"), "").unwrap();
    root.to_string_lossy().into_owned()
}

pub(crate) fn each_answers_for_itself() {
    let sandbox = Sandbox::new();
    let (first, second) = (checkout(&sandbox, "first"), checkout(&sandbox, "second one"));
    let built_in = env!("CARGO_MANIFEST_DIR").trim_end_matches("/xtask");
    let package = |root: &str| format!("{root}/xtask");
    let by_cargo = |root: &str| answering_checkout(&sandbox, |ask| _ = ask.env("CARGO_MANIFEST_DIR", package(root)));
    assert_eq!((by_cargo(&first), by_cargo(&second)), (first.clone(), second.clone()));
    let by_script = answering_checkout(&sandbox, |ask| {
        ask.env("CARGO_MANIFEST_DIR", package(&first)).env("XTASK_WORKSPACE", &second);
    });
    assert_eq!(by_script, second, "the script that was called knows best");
    let elsewhere = sandbox.at("archive").to_string_lossy().into_owned();
    assert_eq!(by_cargo(&elsewhere), built_in, "cargo runs another package");
    assert_eq!(answering_checkout(&sandbox, |_| ()), built_in);
}

pub(crate) fn lock_run_hands_on_the_callers_environment() {
    let sandbox = Sandbox::new();
    let mut run = command(&sandbox.bin);
    run.env_clear().env("PATH", "/usr/bin:/bin").env("XTASK_WORKSPACE", "/somewhere").env("CARGO", "/bin/cargo");
    run.env("CARGO_PKG_NAME", "xtask").env("CARGO_MANIFEST_DIR", "/somewhere/xtask").env("CARGO_TARGET_DIR", "/mine");
    run.arg("lock-run").arg("--config").arg(sandbox.at("scrape.json")).args(["--", "env"]);
    let output = run.output().unwrap();
    let mut seen: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    seen.sort_unstable();
    assert_eq!(seen, ["CARGO_TARGET_DIR=/mine", "PATH=/usr/bin:/bin"]);
}
