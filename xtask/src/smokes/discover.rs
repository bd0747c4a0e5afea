//! Finds the smokes, and all mistakes in the files of those that are chosen.

use crate::smokes::case::{Base, Case, DEFAULT_BASE, Original, read_text};
use crate::smokes::pattern::Parts;
use crate::smokes::readme;
use crate::smokes::smoke::{Kind, Smoke, is_name};
use crate::text::path;
use anyhow::{Context, anyhow, bail, ensure};
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};

/// A smoke that is not read yet, unless it is README's.
struct Found {
    name: String,
    file: PathBuf,
    case: Option<Case>,
}

/// The smokes that the filters choose, by name: of the cases in `fixtures/smokes`, those in README.md, and the
/// `*-smoke.sh` in `scripts/tests`. A filter is either the whole name of one, or chooses all that match.
///
/// # Errors
/// The mistakes of all files together.
pub(crate) fn discover(workspace: &Path, filters: &[String]) -> anyhow::Result<Vec<Smoke>> {
    let (cases, scripts, readme) =
        (workspace.join("fixtures/smokes"), workspace.join("scripts/tests"), workspace.join("README.md"));
    let mut mistakes = Vec::new();
    let mut found = files(&cases, ".toml", &["base", "programs"], &mut mistakes)?;
    // Read when a case names them.
    files(&cases.join("base"), ".toml", &[], &mut mistakes)?;
    if scripts.exists() {
        found.extend(files(&scripts, "-smoke.sh", &[], &mut mistakes)?);
    }
    if readme.exists() {
        for case in readme::cases_of(&readme).unwrap_or_else(|error| vec![Err(error)]) {
            match case {
                Ok((name, case)) => found.push(Found { name, file: readme.clone(), case: Some(case) }),
                Err(error) => mistakes.push(error),
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in found.windows(2).filter(|pair| pair[0].name == pair[1].name) {
        mistakes.push(anyhow!("{}: it has the same name as {}", path(&pair[1].file), path(&pair[0].file)));
    }
    let mut smokes = Vec::new();
    for found in chosen(found, filters)? {
        match load(found, &cases.join("base")) {
            Ok(smoke) => smokes.push(smoke),
            Err(error) => mistakes.push(error),
        }
    }
    let mistakes: String = mistakes.iter().map(|mistake| format!("{mistake:#}\n")).collect();
    ensure!(mistakes.is_empty(), "these smokes cannot be run:\n{mistakes}");
    Ok(smokes)
}

fn chosen(found: Vec<Found>, filters: &[String]) -> anyhow::Result<Vec<Found>> {
    let whole_names: Vec<&String> =
        filters.iter().filter(|filter| found.iter().any(|smoke| smoke.name == **filter)).collect();
    let matches = |filter: &String, name: &str| match filter {
        whole if whole_names.contains(&whole) => whole == name,
        glob if glob.contains('*') => Parts(glob.split('*').map(str::to_owned).collect()).matches(name.as_bytes()),
        part => name.contains(&part[..]),
    };
    if let Some(filter) = filters.iter().find(|filter| !found.iter().any(|smoke| matches(filter, &smoke.name))) {
        let shown = crate::text::printable(filter);
        bail!("no smoke matches `{shown}`\nhint: `cargo xtask smokes --list` lists them");
    }
    let is_chosen = |smoke: &Found| filters.is_empty() || filters.iter().any(|filter| matches(filter, &smoke.name));
    Ok(found.into_iter().filter(is_chosen).collect())
}

fn load(found: Found, bases: &Path) -> anyhow::Result<Smoke> {
    let Found { name, file, case } = found;
    let base = |name: &str| bases.join(format!("{name}.toml"));
    let kind = match case {
        // One has the base of its own name, if there is one.
        Some(case) if base(&name).exists() => Kind::Case(Box::new(case.on(read(&base(&name))?))),
        Some(case) => Kind::Case(Box::new(case)),
        None if file.extension().is_some_and(|extension| extension == "sh") => Kind::Script,
        None => {
            let case: Case = read(&file)?;
            let base = read::<Base>(&base(case.stage.base.as_deref().unwrap_or(DEFAULT_BASE)));
            let says_nothing =
                |original: &Original| original.exit.is_none() && original.line.is_none() && !original.hangs;
            if case.original.as_ref().is_some_and(says_nothing) {
                bail!("{}: its `original` names no exit code, no line, and not that it hangs", path(&file));
            }
            Kind::Case(Box::new(case.on(base.with_context(|| format!("{}: its base", path(&file)))?)))
        }
    };
    Ok(Smoke { name, file, kind })
}

fn read<T: DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    let document = toml::from_str(&read_text(file)?);
    document.map_err(|error| anyhow!("{}: {}", path(file), error.to_string().trim_end()))
}

/// The files of a folder with this ending, with their names without extension. Anything else is a mistake, except hidden
/// files, which are editors', and the `folders` that belong there.
fn files(
    folder: &Path,
    ending: &str,
    folders: &[&str],
    mistakes: &mut Vec<anyhow::Error>,
) -> anyhow::Result<Vec<Found>> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut files = Vec::new();
    for entry in entries.with_context(|| format!("cannot read the smokes in {}", path(folder)))? {
        let (name, file) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && name.ends_with(ending) && is_name(&name) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push(Found { name, file, case: None });
        } else if !name.starts_with('.') && (is_file || !folders.contains(&&name[..])) {
            let what = format!("not a smoke: this folder is for files with plain names that end in `{ending}`");
            mistakes.push(anyhow!("{}: {what}", path(&file)));
        }
    }
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
        let error = discover(folder.path(), &[]).err().unwrap().to_string();
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
            "a.toml: its base: base/none.toml: no such file",
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
            ("a.toml", "args = []\n[expect]\nexit = 0\n[stage.held]\nby = \"somebody\""),
            ("b.toml", "args = []"),
            ("c.toml", "args = \n[expect"),
            ("d.toml", "args = []\noriginal.why = 'x'\n[expect]\nexit = 0"),
        ]);
        assert!(shown.contains("a.toml: TOML parse error at line 5, column 6\n"), "{shown}");
        assert!(shown.contains("unknown variant `somebody`"), "{shown}");
        assert!(shown.contains("b.toml: ") && shown.contains("missing field `expect`"), "{shown}");
        assert!(shown.contains("c.toml: TOML parse error at line 2, column 8\n"), "{shown}");
        assert!(shown.contains("d.toml: its `original` names no exit code"), "{shown}");
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
