//! A lock status as text: the shell original's lines first, byte for byte.

use crate::lock::state::LockState;
use crate::lock::{Recorded, Writer};
use crate::lock_status::LockReport;
use crate::text::{count, path, printable};
use std::fmt::Write;
use std::time::Duration;

/// So many holders are named, each on a line.
const MOST_HOLDERS: usize = 20;

impl LockReport {
    /// The whole section, its title first.
    pub(crate) fn text(&self, colour: bool) -> String {
        let mut text = self.head();
        let mut line = |key: &str, value: &str| _ = writeln!(text, "{key}: {value}");
        line("state", &self.state_text(colour));
        if let Some(recorded) = self.facts.recorded()
            && self.facts.has_file
        {
            line("holder", &holder_text(recorded));
            if let Some(cmd) = &recorded.cmd {
                line("cmd", &printable(cmd));
            }
        }
        if let Some(age) = self.age() {
            line("age", &in_words(age));
        }
        for holder in self.facts.holders.iter().take(MOST_HOLDERS) {
            line("open in", &format!("pid {} {}", holder.pid, printable(holder.command.as_bytes())));
        }
        if let more @ 1.. = self.facts.holders.len().saturating_sub(MOST_HOLDERS) {
            line("open in", &format!("{more} more"));
        }
        if self.facts.waiters > 0 {
            line("waiting", &self.facts.waiters.to_string());
        }
        for note in &self.judgement.notes {
            line("note", note);
        }
        line("next", &self.judgement.next);
        text
    }

    /// The title, and what is looked at.
    pub(crate) fn head(&self) -> String {
        let (config, lock) = (path(&self.config), path(&self.lock));
        format!("Scrape lock status\n==================\nconfig: {config}\nlock: {lock}\n")
    }

    /// What somebody waits for, in a line.
    pub(crate) fn waiting_for(&self) -> String {
        let holder = match (self.facts.recorded(), self.facts.holders.first()) {
            (Some(recorded), _) if recorded.is_running() == Some(true) => format!(" by pid {}", recorded.pid),
            (_, Some(holder)) => format!(" by pid {} {}", holder.pid, printable(holder.command.as_bytes())),
            _ => String::new(),
        };
        let age = self.age().map(|age| format!(" for {}", in_words(age))).unwrap_or_default();
        format!("waiting: held{holder}{age}: {}", path(&self.lock))
    }

    /// How long the lock has been held, by its holder's own account.
    fn age(&self) -> Option<Duration> {
        let recorded = self.facts.recorded().filter(|recorded| recorded.is_running() == Some(true))?;
        let is_its_own = self.judgement.state == LockState::Held && !self.facts.denies(recorded);
        self.facts.looked_at.duration_since(recorded.started_at.filter(|_| is_its_own)?).ok()
    }

    fn state_text(&self, colour: bool) -> String {
        let state = &self.judgement.state;
        let code = match state {
            LockState::FreeNoFile | LockState::FreeNotHeld => 32,
            LockState::Stale(_) | LockState::Unknown(_) => 33,
            LockState::Held => 31,
        };
        let shown = printable(state.to_string().as_bytes());
        if colour { format!("\x1b[{code}m{shown}\x1b[0m") } else { shown }
    }
}

fn holder_text(recorded: &Recorded) -> String {
    let running = match &recorded.writer {
        Writer::Elsewhere(host) => format!("on host {}", printable(host)),
        Writer::OutOfSight => "out of sight".to_owned(),
        _ if recorded.is_running() == Some(true) => "running".to_owned(),
        _ => "not running".to_owned(),
    };
    let started = recorded.started.as_deref().filter(|text| !text.is_empty()).unwrap_or(b"unknown");
    format!("pid {} ({running}, started {})", recorded.pid, printable(started))
}

/// The two largest units: `2 days 5 hours`, `1 minute`.
fn in_words(age: Duration) -> String {
    let seconds = usize::try_from(age.as_secs()).unwrap_or(usize::MAX);
    let units = [
        (seconds / 86_400, "day"),
        (seconds / 3_600 % 24, "hour"),
        (seconds / 60 % 60, "minute"),
        (seconds % 60, "second"),
    ];
    let largest = units.iter().position(|&(number, _)| number > 0).unwrap_or(units.len() - 1);
    let next = units.get(largest + 1).filter(|&&(number, _)| number > 0);
    let words = |&(number, unit): &(usize, &str)| count(number, unit);
    next.map_or_else(|| words(&units[largest]), |next| format!("{} {}", words(&units[largest]), words(next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_two_units_in_words() {
        let said = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(said(0), "0 seconds");
        assert_eq!(said(61), "1 minute 1 second");
        assert_eq!(said(7200), "2 hours");
        assert_eq!(said(7201), "2 hours");
        assert_eq!(said(2 * 86_400 + 5 * 3_600 + 59), "2 days 5 hours");
    }
}
