//! Which smokes cannot run here, and why.

use crate::cli::Via;
use crate::smokes::original::script_of;
use crate::smokes::smoke::{Kind, Outcome, Setup, Smoke};
use crate::sys::procfs;
use rustix::process::geteuid;

/// How a smoke ends that cannot be run here; None if it can.
pub(crate) fn instead(smoke: &Smoke, setup: &Setup) -> Option<Outcome> {
    let options = setup.options;
    let because = |why: &str| Some(Outcome::Skipped(why.to_owned()));
    let needs = match &smoke.kind {
        Kind::Script if smoke.name.contains("container") && !options.include_container => {
            return because("pass --include-container to run");
        }
        Kind::Script if smoke.name.contains("-vm-") && !options.include_vm => {
            return because("pass --include-vm to run");
        }
        Kind::Script if options.bin.is_some() => return because("scripts choose the program themselves"),
        Kind::Script => &["bash"],
        Kind::Case(case) if case.sees_all && !(procfs::sees_every_process() && geteuid().is_root()) => {
            return because("only root outside containers may inspect every process");
        }
        Kind::Case(case) if case.proves_absence && !procfs::may_inspect_every_process() => {
            return because("not every process can be inspected here");
        }
        Kind::Case(_) if options.via == Via::Scripts && smoke.is_readme() => {
            return because("README's examples are of this program");
        }
        Kind::Case(case) if options.via == Via::Scripts && script_of(case).is_none() => {
            return because("there is no script for it, or it needs a bare PATH");
        }
        Kind::Case(case) => case.stage.held.as_ref()?.by.needs(),
    };
    let missing = needs.iter().find(|program| setup.env.program(program).is_none())?;
    Some(lacking(format!("no `{missing}` on PATH"), smoke, setup))
}

/// How a smoke ends that lacks something. CI is to have it: where nobody is watching, nothing may be left out silently.
pub(crate) fn lacking(why: String, smoke: &Smoke, setup: &Setup) -> Outcome {
    let mut allowed = setup.env.allowed_skips.iter().chain(&setup.options.allow_skip);
    if setup.env.ci && !allowed.any(|name| *name == smoke.name) {
        return Outcome::Failed(vec![format!("{why}\nhint: install it, or --allow-skip {}", smoke.name)]);
    }
    Outcome::Skipped(why)
}
