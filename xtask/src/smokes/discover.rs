//! Finds the smokes, and everything that is wrong with their files.

use crate::config::Position;
use crate::smokes::case::{Base, Case, DEFAULT_BASE, StagePlan, Text, stays_on_stage};
use crate::smokes::names;
use crate::smokes::pattern::Line;
use crate::smokes::readme;
use crate::smokes::smoke::{Kind, Smoke};
use crate::sys::file::{self, Links};
use crate::text::path;
use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Maximum size of a case file.
const CASE_MAX_BYTES: u64 = 1 << 20;

/// All smokes, by name: the cases in `fixtures/smokes`, those in README.md, and the `*-smoke.sh` in `scripts/tests`. With
/// `only`, just the one of that name.
///
/// # Errors
/// The mistakes of all files together.
pub(crate) fn discover(workspace: &Path, only: Option<&str>) -> anyhow::Result<Vec<Smoke>> {
    let (cases, scripts) = (workspace.join("fixtures/smokes"), workspace.join("scripts/tests"));
    let (mut bases, mut smokes, mut mistakes) = (BTreeMap::new(), Vec::new(), Vec::new());
    let name_of = |file: &Path| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    for file in files(&cases.join("base"), ".toml", &[], &mut mistakes)? {
        let Ok((base, text)) = load::<Base>(&file).map_err(|mistake| mistakes.push(mistake)) else { continue };
        mistakes.extend(mistakes_in(&file, &text, &base.stage, base.stage.paths()));
        bases.insert(name_of(&file), base);
    }
    let is_chosen = |file: &PathBuf| only.is_none_or(|only| name_of(file) == only);
    for file in files(&cases, ".toml", &["base", "programs"], &mut mistakes)?.into_iter().filter(is_chosen) {
        let Ok((case, text)) = load::<Case>(&file).map_err(|mistake| mistakes.push(mistake)) else { continue };
        mistakes.extend(mistakes_in(&file, &text, &case.stage, case.paths()));
        let base = case.stage.base.as_ref();
        let (name, at) = base.map_or((DEFAULT_BASE, 0), |base| (&base.get_ref()[..], base.span().start));
        if let Some(base) = bases.get(name) {
            let kind = Kind::Case(Box::new(case.on(base)), text);
            smokes.push(Smoke { name: name_of(&file), file, kind });
        } else {
            let what = format!("there is no base `{name}` in fixtures/smokes/base");
            mistakes.push(mistake(&file, &text, at, &what));
        }
    }
    let readme = workspace.join("README.md");
    if readme.is_file() {
        let is_chosen = |smoke: &Smoke| only.is_none_or(|only| smoke.name == only);
        smokes.extend(readme::smokes(&readme, &bases)?.into_iter().filter(is_chosen));
    }
    if scripts.is_dir() {
        let scripts = files(&scripts, "-smoke.sh", &[], &mut mistakes)?.into_iter().filter(is_chosen);
        smokes.extend(scripts.map(|file| Smoke { name: name_of(&file), file, kind: Kind::Script }));
    }
    smokes.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in smokes.windows(2).filter(|pair| pair[0].name == pair[1].name) {
        mistakes.push(format!("{}: it has the same name as {}\n", path(&pair[1].file), path(&pair[0].file)));
    }
    if mistakes.is_empty() { Ok(smokes) } else { Err(anyhow!("these smokes cannot be run:\n{}", mistakes.concat())) }
}

/// The smokes that the filters choose: each filter either the one of exactly this name, or all that match it.
pub(crate) fn chosen(smokes: Vec<Smoke>, filters: &[String]) -> anyhow::Result<Vec<Smoke>> {
    let whole_names: Vec<&String> =
        filters.iter().filter(|filter| smokes.iter().any(|smoke| smoke.name == **filter)).collect();
    let matches = |filter: &String, name: &str| match filter {
        whole if whole_names.contains(&whole) => whole == name,
        glob if glob.contains('*') => Line::Parts(glob.split('*').map(str::to_owned).collect()).matches(name),
        part => name.contains(&part[..]),
    };
    if let Some(filter) = filters.iter().find(|filter| !smokes.iter().any(|smoke| matches(filter, &smoke.name))) {
        let shown = crate::text::printable(filter);
        bail!("no smoke matches `{shown}`\nhint: `cargo xtask smokes --list` lists them");
    }
    let is_chosen = |smoke: &Smoke| filters.is_empty() || filters.iter().any(|filter| matches(filter, &smoke.name));
    Ok(smokes.into_iter().filter(is_chosen).collect())
}

/// A case or a base, and the text of its file; or the first thing that is wrong with its form.
fn load<T: DeserializeOwned>(file: &Path) -> Result<(T, String), String> {
    let cannot = |why: &str| format!("{}: {}\n", path(file), why.trim_end());
    let bytes = file::read(file, Links::Follow, CASE_MAX_BYTES).map_err(|error| cannot(&error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text"))?;
    let document = toml::from_str(&text).map_err(|error| cannot(&error.to_string()))?;
    Ok((document, text))
}

/// The paths of a file that leave the stage, and every `[NAME]` outside its comments that has no value.
fn mistakes_in<'a>(file: &Path, text: &str, stage: &StagePlan, paths: impl Iterator<Item = &'a Text>) -> Vec<String> {
    let outside = paths.filter(|path| !stays_on_stage(path.get_ref()));
    let outside = outside.map(|path| (path.span().start, format!("`{}` does not stay on the stage", path.get_ref())));
    let has_value =
        |name: &str| names::EVERYWHERE.contains(&name) || (stage.held().is_some() && names::HELD.contains(&name));
    let is_comment = |at: usize| text[..at].lines().last().is_some_and(|line| line.trim_start().starts_with('#'));
    let unknown = names::used_in(text).filter(|(at, name)| !has_value(name) && !is_comment(*at));
    let unknown = unknown.map(|(at, name)| (at, format!("`[{name}]` has no value here")));
    outside.chain(unknown).map(|(at, what)| mistake(file, text, at, &what)).collect()
}

/// What is wrong at a byte of a file.
fn mistake(file: &Path, text: &str, at: usize, what: &str) -> String {
    let Position { line, column } = Position::of(text.as_bytes(), at);
    format!("{}:{line}:{column}: {what}\n", path(file))
}

/// The files of a folder that end so. Anything else is a mistake, but for names that start with a dot, which are
/// editors', and the folders that belong there.
fn files(folder: &Path, ending: &str, folders: &[&str], mistakes: &mut Vec<String>) -> anyhow::Result<Vec<PathBuf>> {
    let cannot_read = || format!("cannot read the smokes in {}", path(folder));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot_read)? {
        let entry = entry.with_context(cannot_read)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().with_context(cannot_read)?.is_file();
        if is_file && name.ends_with(ending) && !name.starts_with('.') {
            files.push(entry.path());
        } else if !name.starts_with('.') && (is_file || !folders.contains(&&name[..])) {
            mistakes.push(format!("{}: it is no smoke: here are files that end in `{ending}`\n", path(&entry.path())));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with cases of these texts, without the folder they are in.
    fn mistakes(cases: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let smokes = folder.path().join("fixtures/smokes");
        std::fs::create_dir_all(smokes.join("base")).unwrap();
        std::fs::write(smokes.join("base/default.toml"), "").unwrap();
        for (name, text) in cases {
            std::fs::create_dir_all(smokes.join(name).parent().unwrap()).unwrap();
            std::fs::write(smokes.join(name), text).unwrap();
        }
        let error = discover(folder.path(), None).err().unwrap().to_string();
        error.replace(&format!("{}/", smokes.display()), "")
    }

    #[test]
    fn the_mistakes_of_all_files_are_reported_with_their_positions() {
        let shown = mistakes(&[
            (
                "a.toml",
                "# [ANYBODY]\nargs = ['[NOBODY]']\n[stage]\nbase = 'none'\nfifos = ['../x']\n\
                 [stage.files]\n\"/etc/passwd\" = ''\n[expect]\nexit = 0\nstdout.is = '[HOLDER_PID]'\n",
            ),
            ("b.toml", "args = []\n[stage]\nfodlers = []\n[expect]\nexit = 0\n"),
        ]);
        let starts = [
            "these smokes cannot be run:",
            "a.toml:5:10: `../x` does not stay on the stage",
            "a.toml:7:1: `/etc/passwd` does not stay on the stage",
            "a.toml:2:10: `[NOBODY]` has no value here",
            "a.toml:10:14: `[HOLDER_PID]` has no value here",
            "a.toml:4:8: there is no base `none` in fixtures/smokes/base",
            "b.toml: TOML parse error at line 3, column 1",
            "  |",
            "3 | fodlers = []",
            "  | ^^^^^^^",
            "unknown field `fodlers`",
        ];
        assert_eq!(shown.lines().count(), starts.len(), "{shown}");
        for (shown, start) in shown.lines().zip(starts) {
            assert!(shown.starts_with(start), "`{shown}` does not start with `{start}`");
        }
    }

    #[test]
    fn broken_files_are_reported_too() {
        let shown = mistakes(&[
            ("a.toml", "args = []\n[expect]\nexit = 0\n[stage.lock.held]\nby = \"somebody\""),
            ("b.toml", "args = []"),
            ("c.toml", "args = \n[expect"),
        ]);
        assert!(shown.contains("a.toml: TOML parse error at line 5, column 6\n"), "{shown}");
        assert!(shown.contains("unknown variant `somebody`"), "{shown}");
        assert!(shown.contains("b.toml: ") && shown.contains("missing field `expect`"), "{shown}");
        assert!(shown.contains("c.toml: TOML parse error at line 2, column 8\n"), "{shown}");
    }

    #[test]
    fn what_is_no_smoke_is_a_mistake() {
        let shown = mistakes(&[("a.tmol", ""), ("sub/b.toml", ""), (".a.toml.swp", ""), ("programs/x.sh", "")]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert!(lines.contains(&"a.tmol: it is no smoke: here are files that end in `.toml`"), "{shown}");
        assert!(lines.contains(&"sub: it is no smoke: here are files that end in `.toml`"), "{shown}");
    }
}
