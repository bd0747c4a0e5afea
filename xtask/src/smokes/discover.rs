//! Finds the smokes, and all mistakes in their files.

use crate::smokes::case::{Base, CASE_MAX_BYTES, Case, DEFAULT_BASE};
use crate::smokes::pattern::Parts;
use crate::smokes::readme;
use crate::smokes::smoke::{Kind, Smoke, is_name};
use crate::sys::file::{self, Links};
use crate::text::path;
use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// All smokes, by name: the cases in `fixtures/smokes`, those in README.md, and the `*-smoke.sh` in `scripts/tests`. With
/// `only`, just the one of that name.
///
/// # Errors
/// The mistakes of all files together.
pub(crate) fn discover(workspace: &Path, only: Option<&str>) -> anyhow::Result<Vec<Smoke>> {
    let (cases, scripts, readme) =
        (workspace.join("fixtures/smokes"), workspace.join("scripts/tests"), workspace.join("README.md"));
    let (mut bases, mut smokes, mut mistakes) = (BTreeMap::new(), Vec::new(), Vec::new());
    let is_chosen = |name: &str| only.is_none_or(|only| name == only);
    for (name, file) in files(&cases.join("base"), ".toml", &[], &mut mistakes)? {
        match load::<Base>(&file) {
            Ok(base) => _ = bases.insert(name, base),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    for (name, file) in files(&cases, ".toml", &["base", "programs"], &mut mistakes)? {
        if !is_chosen(&name) {
            continue;
        }
        let on_base = |case: Case| {
            let base = case.stage.base.as_deref().unwrap_or(DEFAULT_BASE);
            let found = bases.get(base);
            let found = found.ok_or_else(|| format!("{}: there is no base `{base}`\n", path(&file)))?;
            Ok(case.on(found))
        };
        match load::<Case>(&file).and_then(on_base) {
            Ok(case) => smokes.push(Smoke { name, file, kind: Kind::Case(Box::new(case)) }),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if readme.is_file() {
        smokes.extend(readme::smokes(&readme, &bases)?);
    }
    if scripts.is_dir() {
        let scripts = files(&scripts, "-smoke.sh", &[], &mut mistakes)?.into_iter();
        smokes.extend(scripts.map(|(name, file)| Smoke { name, file, kind: Kind::Script }));
    }
    smokes.retain(|smoke| is_chosen(&smoke.name));
    smokes.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in smokes.windows(2).filter(|pair| pair[0].name == pair[1].name) {
        mistakes.push(format!("{}: it has the same name as {}\n", path(&pair[1].file), path(&pair[0].file)));
    }
    if mistakes.is_empty() { Ok(smokes) } else { Err(anyhow!("these smokes cannot be run:\n{}", mistakes.concat())) }
}

/// The smokes that the filters choose: each filter either the smoke of exactly this name, or all that match.
pub(crate) fn chosen(smokes: Vec<Smoke>, filters: &[String]) -> anyhow::Result<Vec<Smoke>> {
    let whole_names: Vec<&String> =
        filters.iter().filter(|filter| smokes.iter().any(|smoke| smoke.name == **filter)).collect();
    let matches = |filter: &String, name: &str| match filter {
        whole if whole_names.contains(&whole) => whole == name,
        glob if glob.contains('*') => Parts(glob.split('*').map(str::to_owned).collect()).matches(name.as_bytes()),
        part => name.contains(&part[..]),
    };
    if let Some(filter) = filters.iter().find(|filter| !smokes.iter().any(|smoke| matches(filter, &smoke.name))) {
        let shown = crate::text::printable(filter);
        bail!("no smoke matches `{shown}`\nhint: `cargo xtask smokes --list` lists them");
    }
    let is_chosen = |smoke: &Smoke| filters.is_empty() || filters.iter().any(|filter| matches(filter, &smoke.name));
    Ok(smokes.into_iter().filter(is_chosen).collect())
}

/// A case or a base; or its first syntax error.
fn load<T: DeserializeOwned>(file: &Path) -> Result<T, String> {
    let cannot = |why: &str| format!("{}: {}\n", path(file), why.trim_end());
    let bytes = file::read(file, Links::Follow, CASE_MAX_BYTES).map_err(|error| cannot(&error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text"))?;
    toml::from_str(&text).map_err(|error| cannot(&error.to_string()))
}

/// The files of a folder with this ending, by path, with their names without extension. Anything else is a mistake, except
/// hidden files, which are editors', and the `folders` that belong there.
fn files(
    folder: &Path,
    ending: &str,
    folders: &[&str],
    mistakes: &mut Vec<String>,
) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut files = Vec::new();
    for entry in entries.with_context(|| format!("cannot read the smokes in {}", path(folder)))? {
        let (name, file) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && name.ends_with(ending) && is_name(&name) {
            files.push((file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), file));
        } else if !name.starts_with('.') && (is_file || !folders.contains(&&name[..])) {
            mistakes.push(format!(
                "{}: not a smoke: this folder is for files with plain names that end in `{ending}`\n",
                path(&file)
            ));
        }
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
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
    fn the_mistakes_of_all_files_are_reported() {
        let shown = mistakes(&[
            ("a.toml", "args = []\n[stage]\nbase = 'none'\n[expect]\nexit = 0\n"),
            ("b.toml", "args = []\n[stage]\nfodlers = []\n[expect]\nexit = 0\n"),
        ]);
        let starts = [
            "these smokes cannot be run:",
            "a.toml: there is no base `none`",
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
        assert!(
            lines.contains(&"a.tmol: not a smoke: this folder is for files with plain names that end in `.toml`"),
            "{shown}"
        );
        assert!(
            lines.contains(&"sub: not a smoke: this folder is for files with plain names that end in `.toml`"),
            "{shown}"
        );
    }
}
