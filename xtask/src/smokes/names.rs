//! Placeholders in a case's texts: `[ROOT]` for the stage's path, and so on.

use anyhow::anyhow;
use std::collections::BTreeMap;

/// Known on every stage.
pub(crate) const EVERYWHERE: [&str; 4] = ["ROOT", "PROGRAMS", "SMOKES_PID", "NOW"];

/// Known where a live child holds the lock.
pub(crate) const HELD: [&str; 2] = ["HOLDER_PID", "LEADER_PID"];

/// Names and their values.
#[derive(Default)]
pub(crate) struct Names(BTreeMap<&'static str, String>);

impl Names {
    /// Gives `[name]` a value.
    pub(crate) fn set(&mut self, name: &'static str, value: impl ToString) {
        self.0.insert(name, value.to_string());
    }

    /// `text` with every `[NAME]` replaced by its value.
    pub(crate) fn fill(&self, text: &str) -> anyhow::Result<String> {
        let mut filled = text.to_owned();
        for (_, name) in used_in(text) {
            let value = self.0.get(name).ok_or_else(|| anyhow!("`[{name}]` has no value here"))?;
            filled = filled.replace(&format!("[{name}]"), value);
        }
        Ok(filled)
    }

    /// `text` with every value replaced by its `[NAME]`: undoes `fill`.
    pub(crate) fn unfill(&self, text: &str) -> String {
        let mut values: Vec<(&&str, &String)> = self.0.iter().collect();
        // If one value is part of another, the longer one is meant.
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(*value, &format!("[{name}]")))
    }
}

/// The placeholders in a text, each with its position. A name consists of capital letters and `_`.
pub(crate) fn used_in(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let opened = text.match_indices('[').filter_map(|(at, _)| Some((at, text[at + 1..].split_once(']')?.0)));
    opened.filter(move |(_, name)| is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_and_unknown_ones_refused() {
        let mut names = Names::default();
        names.set("ROOT", "/r");
        assert_eq!(names.fill("[ROOT]/a [..] [] [x] [ROOT][").unwrap(), "/r/a [..] [] [x] /r[");
        assert!(names.fill("[NOBODY]").is_err());
        names.set("PROGRAMS", "/r/p");
        assert_eq!(names.unfill("/r/p/x /r/y"), "[PROGRAMS]/x [ROOT]/y");
    }
}
