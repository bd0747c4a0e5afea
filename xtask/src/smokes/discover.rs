//! Finding the smokes, and everything that is wrong with their files.

use crate::bounded;
use crate::config::Position;
use crate::smokes::case::{Case, Mistake};
use crate::smokes::{Kind, Smoke};
use crate::text::path;
use anyhow::{Context, anyhow, bail};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// No case file is longer, in bytes.
const LARGEST: u64 = 1 << 20;

/// So many unknown keys of a file are told.
const MOST_UNKNOWN: usize = 20;

/// All smokes: the cases in `cases` and the `*-smoke.sh` in `scripts`, by name; or everything that is
/// wrong with them.
pub(crate) fn discover(cases: &Path, scripts: &Path) -> anyhow::Result<Vec<Smoke>> {
    let mut smokes: Vec<Smoke> = Vec::new();
    let mut mistakes = Vec::new();
    for file in files(cases, ".toml")? {
        match load(&file) {
            Ok(kind) => smokes.push(Smoke::new(file, ".toml", kind)),
            Err(found) => mistakes.extend(found),
        }
    }
    for file in if scripts.is_dir() { files(scripts, "-smoke.sh")? } else { Vec::new() } {
        smokes.push(Smoke::new(file, ".sh", Kind::Script));
    }
    smokes.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in smokes.windows(2).filter(|pair| pair[0].name == pair[1].name) {
        mistakes.push(format!("{}: it has the same name as {}\n", path(&pair[1].file), path(&pair[0].file)));
    }
    if mistakes.is_empty() { Ok(smokes) } else { Err(anyhow!("these smokes cannot be run:\n{}", mistakes.concat())) }
}

/// The smokes that the filters choose: each filter one by its whole name, or else all that
/// match it as a glob, or that contain it.
pub(crate) fn chosen(smokes: Vec<Smoke>, filters: &[String]) -> anyhow::Result<Vec<Smoke>> {
    let matches = |filter: &str, name: &str| {
        if filter.contains(['*', '?']) { glob(filter.as_bytes(), name.as_bytes()) } else { name.contains(filter) }
    };
    for filter in filters {
        if !smokes.iter().any(|smoke| matches(filter, &smoke.name)) {
            let shown = crate::text::printable(filter.as_bytes());
            bail!("no smoke is called like `{shown}`\nhint: `cargo xtask smokes --list` names them");
        }
    }
    let is_whole_name = |filter: &String| smokes.iter().any(|smoke| smoke.name == *filter);
    let (whole, parts): (Vec<&String>, Vec<&String>) = filters.iter().partition(|filter| is_whole_name(filter));
    let is_chosen = |smoke: &Smoke| {
        filters.is_empty() || whole.contains(&&smoke.name) || parts.iter().any(|part| matches(part, &smoke.name))
    };
    Ok(smokes.into_iter().filter(is_chosen).collect())
}

/// Reads a case file's text, or tells everything that is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Case, Vec<Mistake>> {
    let mistake = |error: &toml::de::Error| Mistake {
        span: error.span().unwrap_or_default(),
        what: error.message().trim_end().to_owned(),
    };
    let (mut table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.iter().map(mistake).collect());
    }
    let mut mistakes = Vec::new();
    // Serde stops at the first unknown key: it is taken out, and the rest read again.
    while mistakes.len() < MOST_UNKNOWN {
        let error = match serde::Deserialize::deserialize(toml::de::Deserializer::from(table.clone())) {
            Ok(case) => {
                let case: Case = case;
                mistakes.extend(case.mistakes());
                return if mistakes.is_empty() { Ok(case) } else { Err(mistakes) };
            }
            Err(error) => mistake(&error),
        };
        let is_gone = error.what.starts_with("unknown field") && take_out(table.get_mut(), &error);
        mistakes.push(error);
        if !is_gone {
            break;
        }
    }
    Err(mistakes)
}

/// Removes the key that the mistake is about; false when there is none.
fn take_out(table: &mut DeTable<'_>, mistake: &Mistake) -> bool {
    let found = table.keys().find(|key| key.span() == mistake.span).cloned();
    if let Some(key) = found {
        table.remove(&key);
        return true;
    }
    table.iter_mut().any(|(_, value)| match value.get_mut() {
        toml::de::DeValue::Table(inner) => take_out(inner, mistake),
        _ => false,
    })
}

fn load(file: &Path) -> Result<Kind, Vec<String>> {
    let cannot = |why: &str| vec![format!("{}: {why}\n", path(file))];
    let bytes = bounded::read(file, bounded::Links::Follow, LARGEST).map_err(|error| cannot(&error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text"))?;
    match parse(&text) {
        Ok(case) => Ok(Kind::Case(Box::new(case), text)),
        Err(mistakes) => Err(mistakes.iter().map(|mistake| mistake.show(file, &text)).collect()),
    }
}

fn files(folder: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let cannot_read = || format!("cannot read the smokes in {}", path(folder));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot_read)? {
        files.push(entry.with_context(cannot_read)?.path());
    }
    files.retain(|file| file.to_string_lossy().ends_with(ending));
    files.sort();
    Ok(files)
}

/// Whether `name` is as `pattern` says: `*` is any part of it, `?` any one byte.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stands, and how far it reaches: only that one is ever tried longer.
    let mut last: Option<(usize, usize)> = None;
    while n < name.len() {
        match (pattern.get(p), last) {
            (Some(b'*'), _) => {
                last = Some((p, n));
                p += 1;
            }
            (Some(&byte), _) if byte == b'?' || byte == name[n] => (p, n) = (p + 1, n + 1),
            (_, Some((star, reach))) => {
                last = Some((star, reach + 1));
                (p, n) = (star + 1, reach + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

impl Mistake {
    /// With its place, and the line it stands in under it.
    fn show(&self, file: &Path, text: &str) -> String {
        let Position { line, column } = Position::of(text.as_bytes(), self.span.start);
        let source = text.lines().nth(line - 1).unwrap_or_default();
        let width =
            text.get(self.span.clone()).and_then(|marked| marked.lines().next()).map_or(1, |m| m.chars().count());
        let (number, marks) = (line.to_string(), "^".repeat(width.max(1)));
        let (gutter, before) = (" ".repeat(number.len()), " ".repeat(column - 1));
        let place = format!("{}:{line}:{column}", path(file));
        format!("{place}: {}\n {gutter} |\n {number} | {source}\n {gutter} | {before}{marks}\n", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let mistakes = parse(text).unwrap_err();
        mistakes.iter().map(|mistake| mistake.show(Path::new("x.toml"), text)).collect()
    }

    #[test]
    fn all_mistakes_are_told_with_their_places_and_lines() {
        let told = mistakes(
            "args = ['[NOBODY]']\nagrs = 1\ntimeout = '5 parsecs'\n[stage]\nfodlers = []\nfifos = ['../x']\n\
             [stage.files]\n\"/etc/passwd\" = ''\n[expect]\nexit = 0\nstdout.is = '[HOLDER_PID]'\n",
        );
        let starts = [
            "x.toml:2:1: unknown field `agrs`",
            "x.toml:5:1: unknown field `fodlers`",
            "x.toml:6:10: `../x` does not stay on the stage",
            "x.toml:8:1: `/etc/passwd` does not stay on the stage",
            "x.toml:1:9: nothing is known as `[NOBODY]` here",
            "x.toml:11:13: nothing is known as `[HOLDER_PID]` here",
            "x.toml:3:11: `5 parsecs` is no duration",
        ];
        assert_eq!(told.len(), starts.len(), "{told:#?}");
        for (told, start) in told.iter().zip(starts) {
            assert!(told.starts_with(start), "{told} is not {start}");
        }
        assert!(told[0].ends_with("   |\n 2 | agrs = 1\n   | ^^^^\n"), "{}", told[0]);
    }

    #[test]
    fn broken_files_are_told_too() {
        assert!(
            mistakes("args = []\n[expect]\nexit = 0\n[stage.lock.held]\nby = \"nobody\"")[0]
                .contains(":5:6: unknown variant")
        );
        assert!(mistakes("args = []")[0].contains("missing field `expect`"));
        let told = mistakes("args = \n[expect");
        assert!(told.len() > 1 && told.iter().all(|told| told.starts_with("x.toml:")), "{told:?}");
    }

    #[test]
    fn globs_match_whole_names() {
        let is = |pattern: &str, name: &str| glob(pattern.as_bytes(), name.as_bytes());
        assert!(is("*", "") && is("a*c", "abc") && is("a?c", "abc") && is("*-held*", "lock-held") && is("abc", "abc"));
        assert!(is("*a*b", "aaab") && !is(&format!("{}b", "*a".repeat(20)), &"a".repeat(60)));
        assert!(!is("a*", "ba") && !is("a?", "a") && !is("", "a") && !is("*d", "abc"));
    }
}
