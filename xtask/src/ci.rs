//! `ci`: what CI runs, and what a person runs before pushing.

use crate::cli;
use crate::env::Env;
use crate::output;
use crate::target::workspace;
use crate::verdict::Verdict;
use anyhow::Context;
use std::time::Instant;
use xshell::{Cmd, Shell, cmd};

impl cli::Ci {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        #[expect(clippy::disallowed_methods, reason = "its programs may take as long and say as much as they want")]
        let shell = Shell::new().context("cannot start a shell")?;
        shell.change_dir(workspace(env));
        if !self.allow_skip.is_empty() {
            shell.set_var("XTASK_ALLOW_SKIP", self.allow_skip.join(" "));
        }
        let mut failed = Vec::new();
        let mut step = |name: &'static str, command: Cmd| -> anyhow::Result<()> {
            output::print(&format!("==> {name}: {command}\n"))?;
            let started = Instant::now();
            let passed = command.quiet().run().is_ok();
            failed.extend((!passed).then_some(name));
            let result = if passed { "ok" } else { "FAILED" };
            output::print(&format!("<== {name}: {result} in {:.1} s\n", started.elapsed().as_secs_f64()))
        };
        step("fmt", cmd!(shell, "cargo fmt --all --check"))?;
        step("clippy", cmd!(shell, "cargo clippy --workspace --all-targets --locked -- -D warnings"))?;
        // Every smoke is one of the tests.
        step("test", cmd!(shell, "cargo test --workspace --locked"))?;
        if failed.is_empty() {
            return Ok(Verdict::Yes);
        }
        output::complain(&format!("ERROR: failed: {}\n", failed.join(", ")));
        Ok(Verdict::No)
    }
}
