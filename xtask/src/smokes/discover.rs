//! Finds the smokes, and everything that is wrong with their files.

use crate::config::Position;
use crate::smokes::case::{Base, Case, DEFAULT_BASE, Document, Mistake};
use crate::smokes::expect::line_matches;
use crate::smokes::smoke::{Kind, Smoke};
use crate::sys::file::{self, Links};
use crate::text::path;
use anyhow::{Context, anyhow, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Maximum size of a case file.
const CASE_MAX_BYTES: u64 = 1 << 20;

/// Maximum number of unknown keys reported of one file.
const MAX_UNKNOWN_SHOWN: usize = 20;

/// All smokes, by name: the cases in the folder `cases` and the `*-smoke.sh` in `scripts`.
///
/// # Errors
/// Everything that is wrong with them, not only the first mistake.
pub(crate) fn discover(cases: &Path, scripts: &Path) -> anyhow::Result<Vec<Smoke>> {
    let (mut bases, mut smokes, mut mistakes) = (BTreeMap::new(), Vec::new(), Vec::new());
    for file in files(&cases.join("base"), ".toml")? {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match load::<Base>(&file) {
            Ok((base, _)) => _ = bases.insert(name, base),
            Err(found) => mistakes.extend(found),
        }
    }
    for file in files(cases, ".toml")? {
        match load(&file).and_then(|(case, text)| on_base(case, &bases, &file, text)) {
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

/// The smokes that the filters choose: each filter either the one of exactly this name, or all that match it.
pub(crate) fn chosen(smokes: Vec<Smoke>, filters: &[String]) -> anyhow::Result<Vec<Smoke>> {
    let matches = |filter: &str, name: &str| {
        if filter.contains('*') { line_matches(&filter.replace('*', "[..]"), name) } else { name.contains(filter) }
    };
    for filter in filters {
        if !smokes.iter().any(|smoke| matches(filter, &smoke.name)) {
            let shown = crate::text::printable(filter.as_bytes());
            bail!("no smoke matches `{shown}`\nhint: `cargo xtask smokes --list` lists them");
        }
    }
    let is_whole_name = |filter: &String| smokes.iter().any(|smoke| smoke.name == *filter);
    let (whole, parts): (Vec<&String>, Vec<&String>) = filters.iter().partition(|filter| is_whole_name(filter));
    let is_chosen = |smoke: &Smoke| {
        filters.is_empty() || whole.contains(&&smoke.name) || parts.iter().any(|part| matches(part, &smoke.name))
    };
    Ok(smokes.into_iter().filter(is_chosen).collect())
}

/// Parses a document, or finds everything that is wrong with it.
pub(crate) fn parse<T: Document>(text: &str) -> Result<T, Vec<Mistake>> {
    let mistake = |error: &toml::de::Error| Mistake {
        span: error.span().unwrap_or_default(),
        what: error.message().trim_end().to_owned(),
    };
    let (mut table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.iter().map(mistake).collect());
    }
    let mut mistakes = Vec::new();
    // Serde stops at the first unknown key: it is removed, and the rest is parsed again.
    while mistakes.len() < MAX_UNKNOWN_SHOWN {
        let error = match T::deserialize(toml::de::Deserializer::from(table.clone())) {
            Ok(document) => {
                mistakes.extend(document.mistakes());
                return if mistakes.is_empty() { Ok(document) } else { Err(mistakes) };
            }
            Err(error) => mistake(&error),
        };
        let is_removed = error.what.starts_with("unknown field") && remove_key(table.get_mut(), &error);
        mistakes.push(error);
        if !is_removed {
            break;
        }
    }
    Err(mistakes)
}

/// Removes the key that the mistake is about; false if there is none.
fn remove_key(table: &mut DeTable<'_>, mistake: &Mistake) -> bool {
    let found = table.keys().find(|key| key.span() == mistake.span).cloned();
    if let Some(key) = found {
        table.remove(&key);
        return true;
    }
    table.iter_mut().any(|(_, value)| match value.get_mut() {
        toml::de::DeValue::Table(inner) => remove_key(inner, mistake),
        _ => false,
    })
}

fn load<T: Document>(file: &Path) -> Result<(T, String), Vec<String>> {
    let cannot = |why: &str| vec![format!("{}: {why}\n", path(file))];
    let bytes = file::read(file, Links::Follow, CASE_MAX_BYTES).map_err(|error| cannot(&error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text"))?;
    match parse(&text) {
        Ok(document) => Ok((document, text)),
        Err(mistakes) => Err(mistakes.iter().map(|mistake| mistake.show(file, &text)).collect()),
    }
}

fn on_base(case: Case, bases: &BTreeMap<String, Base>, file: &Path, text: String) -> Result<Kind, Vec<String>> {
    let (name, span) = match &case.stage.base {
        Some(name) => (&name.get_ref()[..], name.span()),
        None => (DEFAULT_BASE, 0..0),
    };
    let Some(base) = bases.get(name) else {
        let what = format!("there is no base `{name}` in fixtures/smokes/base");
        return Err(vec![Mistake { span, what }.show(file, &text)]);
    };
    Ok(Kind::Case(Box::new(case.on(base)), text))
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

impl Mistake {
    /// The mistake with its position, and the line it is in.
    fn show(&self, file: &Path, text: &str) -> String {
        let Position { line, column } = Position::of(text.as_bytes(), self.span.start);
        let source = text.lines().nth(line - 1).unwrap_or_default();
        let width =
            text.get(self.span.clone()).and_then(|marked| marked.lines().next()).map_or(1, |m| m.chars().count());
        let (number, marks) = (line.to_string(), "^".repeat(width.max(1)));
        let (gutter, before) = (" ".repeat(number.len()), " ".repeat(column - 1));
        let position = format!("{}:{line}:{column}", path(file));
        format!("{position}: {}\n {gutter} |\n {number} | {source}\n {gutter} | {before}{marks}\n", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let mistakes = parse::<Case>(text).unwrap_err();
        mistakes.iter().map(|mistake| mistake.show(Path::new("x.toml"), text)).collect()
    }

    #[test]
    fn all_mistakes_are_reported_with_their_positions_and_lines() {
        let shown = mistakes(
            "args = ['[NOBODY]']\nagrs = 1\n[stage]\nfodlers = []\nfifos = ['../x']\n\
             [stage.files]\n\"/etc/passwd\" = ''\n[expect]\nexit = 0\nstdout.is = '[HOLDER_PID]'\n",
        );
        let starts = [
            "x.toml:2:1: unknown field `agrs`",
            "x.toml:4:1: unknown field `fodlers`",
            "x.toml:5:10: `../x` does not stay on the stage",
            "x.toml:7:1: `/etc/passwd` does not stay on the stage",
            "x.toml:1:9: `[NOBODY]` has no value here",
            "x.toml:10:13: `[HOLDER_PID]` has no value here",
        ];
        assert_eq!(shown.len(), starts.len(), "{shown:#?}");
        for (shown, start) in shown.iter().zip(starts) {
            assert!(shown.starts_with(start), "{shown} is not {start}");
        }
        assert!(shown[0].ends_with("   |\n 2 | agrs = 1\n   | ^^^^\n"), "{}", shown[0]);
    }

    #[test]
    fn broken_files_are_reported_too() {
        assert!(
            mistakes("args = []\n[expect]\nexit = 0\n[stage.lock.held]\nby = \"nobody\"")[0]
                .contains(":5:6: unknown variant")
        );
        assert!(mistakes("args = []")[0].contains("missing field `expect`"));
        let shown = mistakes("args = \n[expect");
        assert!(shown.len() > 1 && shown.iter().all(|shown| shown.starts_with("x.toml:")), "{shown:?}");
    }
}
