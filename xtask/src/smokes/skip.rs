//! Which smokes cannot run here, and why.

use crate::cli::{self, Via};
use crate::env::Env;
use crate::smokes::original::script_of;
use crate::smokes::smoke::{Kind, Outcome, Smoke};
use crate::sys::procfs;
use rustix::process::geteuid;

/// Why a smoke cannot run here.
pub(crate) struct Skip {
    pub(crate) why: String,
    /// It fails the run: where nobody is watching, nothing may be left out silently.
    pub(crate) is_failure: bool,
}

impl Skip {
    pub(crate) fn of(smoke: &Smoke, env: &Env, options: &cli::Smokes) -> Option<Skip> {
        let because = |why: &str| Some(Skip { why: why.to_owned(), is_failure: false });
        let needs = match &smoke.kind {
            Kind::Script if smoke.name.contains("container") && !options.include_container => {
                return because("pass --include-container to run");
            }
            Kind::Script if smoke.name.contains("-vm-") && !options.include_vm => {
                return because("pass --include-vm to run");
            }
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
            Kind::Case(case) => case.stage.held()?.by.needs(),
        };
        let missing = needs.iter().find(|program| env.program(program).is_none())?;
        Some(Skip::needed(format!("no `{missing}` on PATH"), smoke, env, options))
    }

    /// A skip for something that CI is to have.
    pub(crate) fn needed(why: String, smoke: &Smoke, env: &Env, options: &cli::Smokes) -> Skip {
        let mut allowed = env.allowed_skips.iter().chain(&options.allow_skip);
        Skip { why, is_failure: env.ci && !allowed.any(|name| *name == smoke.name) }
    }

    pub(crate) fn outcome(self, smoke: &Smoke) -> Outcome {
        match self.is_failure {
            true => Outcome::Failed(vec![format!("{}\nhint: install it, or --allow-skip {}", self.why, smoke.name)]),
            false => Outcome::Skipped(self.why),
        }
    }
}
