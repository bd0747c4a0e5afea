//! `lock-status` as text: the shell original's lines first, byte for byte.

use crate::lock::judge::LockState;
use crate::lock::sidecar::{Recorded, Writer};
use crate::lock::walk::Holder;
use crate::lock_status::activity::Activity;
use crate::lock_status::report::{Age, LockReport};
use crate::output::Paint;
use crate::text::{duration, path, printable};
use std::fmt::Write;

/// Maximum number of holders listed, a line each.
const MAX_HOLDERS_SHOWN: usize = 20;

/// The whole report.
pub(crate) fn whole(report: &LockReport, paint: Paint) -> String {
    let mut text = head(report);
    let mut line = |key: &str, value: &str| _ = writeln!(text, "{key}: {value}");
    line("state", &state(report, paint));
    if let Some(recorded) = report.seen.claim.recorded()
        && report.seen.has_file
    {
        line("holder", &holder(recorded));
        if let Some(cmd) = &recorded.cmd {
            line("cmd", &cmd.to_string());
        }
    }
    match report.age {
        Some(Age::Exactly(age)) => line("age", &duration(age)),
        Some(Age::AtLeast(age)) => line("age", &format!("at least {}", duration(age))),
        None => {}
    }
    let holders = &report.seen.walk.holders;
    for holder in holders.iter().take(MAX_HOLDERS_SHOWN) {
        line("open in", &open_in(holder));
    }
    if let more @ 1.. = holders.len().saturating_sub(MAX_HOLDERS_SHOWN) {
        line("open in", &format!("{more} more"));
    }
    if let Some(activity) = report.activity.as_ref().and_then(Activity::text) {
        line("activity", &activity);
    }
    if report.seen.waiters > 0 {
        line("waiting", &report.seen.waiters.to_string());
    }
    for note in &report.judgement.notes {
        line("note", note);
    }
    line("next", &report.judgement.next);
    text
}

/// The title, the config and the lock.
pub(crate) fn head(report: &LockReport) -> String {
    let (config, lock) = (path(&report.config), path(&report.lock));
    format!("Scrape lock status\n==================\nconfig: {config}\nlock: {lock}\n")
}

/// A process that has the locked descriptor: pid, program, user, and where it runs.
fn open_in(holder: &Holder) -> String {
    let place =
        holder.container.iter().map(|id| format!("container {id}")).chain(holder.unit.iter().map(ToString::to_string));
    let who: Vec<String> = holder.user.iter().map(ToString::to_string).chain(place).collect();
    let who = if who.is_empty() { String::new() } else { format!(" ({})", who.join(", ")) };
    format!("pid {} {}{who}", holder.pid, holder.command)
}

/// What is waited for, in a line.
pub(crate) fn waiting_for(report: &LockReport) -> String {
    let holder = match (report.seen.claim.recorded(), report.seen.walk.holders.first()) {
        (Some(recorded), _) if recorded.writer.is_running() == Some(true) => format!(" by pid {}", recorded.pid),
        (_, Some(holder)) => format!(" by pid {} {}", holder.pid, holder.command),
        _ => String::new(),
    };
    let age = report.age.map(|age| format!(" for {}", duration(age.duration())));
    let age = age.unwrap_or_default();
    format!("waiting: held{holder}{age}: {}", path(&report.lock))
}

fn state(report: &LockReport, paint: Paint) -> String {
    let state = &report.judgement.state;
    let code = match state {
        LockState::FreeNoFile | LockState::FreeNotHeld => 32,
        LockState::Stale(_) | LockState::Unknown(_) => 33,
        LockState::Held => 31,
    };
    let shown = printable(state.to_string());
    if paint == Paint::Colour { format!("\x1b[{code}m{shown}\x1b[0m") } else { shown }
}

pub(crate) fn holder(recorded: &Recorded) -> String {
    let running = match &recorded.writer {
        Writer::OtherHost(host) => format!("on host {host}"),
        Writer::Hidden => "hidden".to_owned(),
        Writer::Running => "running".to_owned(),
        Writer::Gone | Writer::Recycled | Writer::EarlierBoot => "not running".to_owned(),
    };
    let started = recorded.started.as_ref().filter(|text| !text.0.is_empty());
    let started = started.map_or_else(|| "unknown".to_owned(), ToString::to_string);
    format!("pid {} ({running}, started {started})", recorded.pid)
}
