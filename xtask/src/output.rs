//! The one place that writes to standard output and standard error. A reader that has gone away
//! changes nothing; any other failure to write a report is an error.

use crate::env::Env;
use crate::verdict::Verdict;
use anyhow::Context;
use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Stderr, Stdout, Write as _};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longer lines would wrap on most terminals, and a wrapped line cannot replace itself.
const PROGRESS_MAX_CHARS: usize = 78;

/// How long something may take before a terminal shows what it is, and how often it does so then.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What is being done, for a terminal.
#[derive(Default)]
pub(crate) struct Progress(Mutex<String>);

/// Whether a report is coloured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Colour,
}

/// Writes a whole report to standard output.
pub(crate) fn print(report: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(report.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}

/// Says on standard error why a question could not be answered.
pub(crate) fn error(error: &anyhow::Error) -> Verdict {
    complain(&format!("ERROR: {error:#}\n"));
    Verdict::Unknown
}

/// Writes to standard error. When that fails there is nowhere left to say so.
pub(crate) fn complain(text: &str) {
    _ = stderr().lock().write_all(text.as_bytes());
}

/// Prints what clap has to say: requested help to standard output, the rest to standard error.
pub(crate) fn usage(said: &clap::Error) -> Verdict {
    let text = said.to_string();
    if said.kind() == DisplayHelpOnMissingArgumentOrSubcommand {
        complain(&text);
    } else if said.use_stderr() {
        complain(&format!("ERROR: {}", crate::text::lines(text.strip_prefix("error: ").unwrap_or(&text))));
    } else {
        return print(&text).map_or_else(|cause| error(&cause), |()| Verdict::Yes);
    }
    Verdict::Unknown
}

/// Colour for a terminal that wants it.
pub(crate) fn paint(env: &Env) -> Paint {
    if env.colour && stdout().is_terminal() { Paint::Colour } else { Paint::Plain }
}

/// Whether standard error is a terminal, with a person in front of it.
pub(crate) fn is_watched(env: &Env) -> bool {
    !env.ci && !env.has_dumb_terminal && stderr().is_terminal()
}

/// Shows one line that replaces itself, on a terminal; None erases it.
pub(crate) fn show_progress(line: Option<&str>) {
    // Back to the start of the line, and erase to its end (ECMA-48).
    complain(&format!("\r\x1b[K{}", line.unwrap_or_default().chars().take(PROGRESS_MAX_CHARS).collect::<String>()));
}

/// Does some work, and shows on a terminal what takes longer than half a second.
pub(crate) fn with_progress<T>(env: &Env, work: impl FnOnce(&Arc<Progress>) -> T) -> T {
    let progress = Arc::new(Progress::default());
    let (working, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        if is_watched(env) {
            let progress = &progress;
            scope.spawn(move || progress.show(&ended));
        }
        let result = work(&progress);
        drop(working);
        result
    })
}

impl Progress {
    /// Says what is being done from now on; foreign text in it is printable.
    pub(crate) fn now(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Shows it until the work has ended.
    fn show(&self, ended: &Receiver<()>) {
        let mut wait = PROGRESS_AFTER;
        while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            let what = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            show_progress(Some(&what));
            wait = PROGRESS_INTERVAL;
        }
        if wait == PROGRESS_INTERVAL {
            show_progress(None);
        }
    }
}

/// A value as JSON in plain ASCII: a program reads the same text, and nothing in it can control a terminal.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    let mut ascii = String::with_capacity(text.len() + 1);
    // Whatever is not ASCII is inside a string, where these escapes are allowed (RFC 8259, section 7).
    for c in text.chars() {
        if c.is_ascii() && c != '\x7f' {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    ascii.push('\n');
    Ok(ascii)
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that prints")]
fn stdout() -> Stdout {
    io::stdout()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that prints")]
fn stderr() -> Stderr {
    io::stderr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_ascii_and_means_the_same() {
        let text = "é \u{9b}31m \u{202e} \u{1f512} \x7f \x1b";
        let json = json(&text).unwrap();
        assert!(json.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
