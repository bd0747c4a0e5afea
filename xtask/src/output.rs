//! The one place that writes to the terminal, and the two decided cases there: a
//! reader that has gone away changes nothing, any other failure is an error.

use crate::{Verdict, env::Env};
use anyhow::Context;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::process::ExitCode;

/// A longer line would wrap on most terminals, and wrapped lines are not replaced.
const WIDEST: usize = 78;

/// Writes a whole report to standard output.
pub(crate) fn print(report: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
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
    _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Prints what clap has to say: help to standard output, exit 0; misuse to
/// standard error, exit 2.
pub(crate) fn usage(said: &clap::Error) -> ExitCode {
    if said.use_stderr() {
        let text = said.to_string();
        complain(&format!("ERROR: {}", crate::text::lines(text.strip_prefix("error: ").unwrap_or(&text))));
        return Verdict::Unknown.into();
    }
    match print(&said.to_string()) {
        Ok(()) => Verdict::Yes,
        Err(cause) => error(&cause),
    }
    .into()
}

/// Whether standard output is a terminal that wants colour.
pub(crate) fn wants_colour(env: &Env) -> bool {
    env.colour && io::stdout().is_terminal()
}

/// Whether somebody watches what goes by on standard error.
pub(crate) fn is_watched(env: &Env) -> bool {
    !env.ci && !env.has_dumb_terminal && io::stderr().is_terminal()
}

/// One line that replaces itself, for who watches; None takes it away.
pub(crate) fn show_progress(line: Option<&str>) {
    // To the line's start, and erase to its end (ECMA-48).
    complain(&format!("\r\x1b[K{}", line.unwrap_or_default().chars().take(WIDEST).collect::<String>()));
}

/// A value as JSON in plain ASCII: a program reads the same text, and nothing in
/// it can control a terminal.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    let mut ascii = String::with_capacity(text.len() + 1);
    // All that is not ASCII stands inside strings, where these escapes are allowed (RFC 8259, 7).
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
