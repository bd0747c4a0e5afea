//! Whether a program works: it is called, and must answer.

use crate::env::Env;
use crate::handoff::watch::{ANSWER_TIMEOUT, Watch};
use crate::sys::child::{self, End, Running};
use crate::sys::file::plain;
use crate::text::{printable, quoted};
use std::io;
use std::time::Instant;

/// A call that shows whether a program works, already started.
pub(crate) struct Trial {
    call: String,
    running: io::Result<Running>,
}

impl Trial {
    /// Starts a call. `also_needs` must exist although the call may not run it.
    pub(crate) fn start(call: &[&str], also_needs: Option<&str>, env: &Env) -> Trial {
        let missing = call[..1].iter().copied().chain(also_needs).find(|name| env.program(name).is_none());
        let running = match missing {
            Some(missing) => Err(io::Error::other(format!("no program {}", quoted(missing)))),
            None => {
                let mut command = child::command(call[0]);
                Running::start(command.args(&call[1..]).env_remove("DISCORD_TOKEN"))
            }
        };
        Trial { call: printable(call.join(" ")), running }
    }

    /// Why it does not work; None when it does.
    pub(crate) fn obstacle(self, until: Instant, watch: &Watch) -> Option<String> {
        let call = self.call;
        watch.progress.now(format!("waiting for `{call}`"));
        match self.running.and_then(|running| running.finish(until, &watch.cancel)).map(|finished| finished.end) {
            Ok(End::Exited(status)) if status.success() => None,
            Ok(End::Exited(status)) => Some(format!("`{call}` failed with {}", child::status_text(status))),
            Ok(End::TimedOut | End::Cancelled) => {
                Some(format!("`{call}` did not answer within {} s", ANSWER_TIMEOUT.as_secs()))
            }
            Err(error) => Some(plain(&error)),
        }
    }
}
