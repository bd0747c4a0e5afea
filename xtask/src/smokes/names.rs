//! Placeholders in a case's texts: `[ROOT]` for the stage's path, and so on.

use anyhow::Context;
use std::collections::BTreeMap;

/// Names and their values.
#[derive(Default)]
pub(crate) struct Names(BTreeMap<&'static str, String>);

impl Names {
    /// Gives `[name]` a value.
    pub(crate) fn set(&mut self, name: &'static str, value: impl ToString) {
        self.0.insert(name, value.to_string());
    }

    /// `text` with every `[NAME]` replaced by its value, and every `[[]` by a bracket.
    pub(crate) fn fill(&self, text: &str) -> anyhow::Result<String> {
        Ok(self.parts(text)?.join("[..]"))
    }

    /// The same, split at every `[..]`.
    pub(crate) fn parts(&self, text: &str) -> anyhow::Result<Vec<String>> {
        let (mut parts, mut part, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('[') {
            part += before;
            let (word, after) = bracketed(after).unwrap_or(("[", after));
            rest = after;
            match word {
                ".." => parts.push(std::mem::take(&mut part)),
                "[" => part.push('['),
                name => part += self.0.get(name).with_context(|| format!("`[{name}]` has no value here"))?,
            }
        }
        parts.push(part + rest);
        Ok(parts)
    }

    /// The pattern for a line of output: values that are whole words become their `[NAME]`.
    pub(crate) fn unfill(&self, line: &str) -> String {
        // Another run has another time, perhaps with the same second.
        let mut values: Vec<(&&str, &String)> = self.0.iter().filter(|(name, _)| **name != "NOW").collect();
        // If one value is part of another, the longer one is meant.
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        let (mut unfilled, mut at) = (String::new(), 0);
        while let Some(c) = line[at..].chars().next() {
            let (piece, length) = match values.iter().find(|(_, value)| is_value_at(line, at, value)) {
                Some((name, value)) => (format!("[{name}]"), value.len()),
                None if c == '[' && bracketed(&line[at + 1..]).is_some() => ("[[]".to_owned(), 1),
                None => (c.to_string(), c.len_utf8()),
            };
            unfilled += &piece;
            at += length;
        }
        unfilled
    }
}

/// Whether `value` is at this place in a line, as a whole word; a number must follow the word "pid".
fn is_value_at(line: &str, at: usize, value: &str) -> bool {
    let (before, rest) = line.split_at(at);
    let Some(after) = rest.strip_prefix(value).filter(|_| !value.is_empty()) else { return false };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let is_called_pid = before.trim_end_matches(|c: char| !is_word(c)).ends_with("pid");
    !before.ends_with(is_word) && !after.starts_with(is_word) && (!is_number || is_called_pid)
}

/// What stands between `[` and `]` in a text that starts behind the `[`, and the rest; None if it is plain text.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let is_name = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    text.split_once(']').filter(|(word, _)| matches!(*word, ".." | "[") || is_name(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        for (name, value) in [("ROOT", "/r"), ("PROGRAMS", "/r/p"), ("SMOKES_PID", "2")] {
            names.set(name, value);
        }
        names
    }

    #[test]
    fn names_are_filled_in_and_unknown_ones_refused() {
        assert_eq!(names().fill("[ROOT]/a [..] [] [x] [ROOT][ [[]ROOT]").unwrap(), "/r/a [..] [] [x] /r[ [ROOT]");
        assert!(names().fill("[NOBODY]").is_err());
    }

    #[test]
    fn only_whole_values_become_placeholders() {
        assert_eq!(names().unfill("/r/p/x /r/y a/root"), "[PROGRAMS]/x [ROOT]/y a/root");
        assert_eq!(
            names().unfill("pid 2 (12, 2 s) pid=2 pid 22"),
            "pid [SMOKES_PID] (12, 2 s) pid=[SMOKES_PID] pid 22"
        );
        assert_eq!(names().unfill("[..] [x] [ROOT] é["), "[[]..] [x] [[]ROOT] é[");
    }
}
