//! What clippy cannot say about this crate, as a test. Every file is read once, and all findings are
//! reported together.

use crate::cli::Xtask;
use clap::Parser;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Maximum number of direct dependencies: see `xtask/Cargo.toml`.
const MAX_DEPENDENCIES: usize = 14;

/// Maximum length of a file without its tests, in lines.
const FILE_MAX_LINES: usize = 330;

/// Who may import whom: a room only rooms of earlier lines. Nobody imports `main`.
const IMPORT_ORDER: [&[&str]; 12] = [
    &["text", "cli", "verdict"],
    &["sys"],
    &["lock"],
    &["env", "config"],
    &["output"],
    &["target"],
    &["wait"],
    &["lock_status"],
    &["lock_run", "handoff", "smokes"],
    &["salvage"],
    &["ci"],
    &["main"],
];

/// Where a lint is lifted, and how often.
const LIFTED: [(&str, usize); 7] = [
    ("ci", 1),
    ("env", 2),
    ("lock::guard", 1),
    ("lock::kernel", 3),
    ("output", 2),
    ("sys::child", 2),
    ("sys::file", 2),
];

/// What would hide an import, or break the order.
const HIDES_IMPORTS: [&str; 8] =
    ["super::", "pub use ", "pub(crate) use ", "pub(super) use ", "pub(in ", "extern crate", "$crate", "#[path"];

/// A source file: its module path, such as `lock::table`, and its text without tests.
struct Module {
    path: String,
    shown: String,
    code: String,
}

#[test]
fn everything_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut findings = Vec::new();
    let mut modules = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|folder| rust_files(&root.join("xtask").join(folder))) {
        let text = text(&file);
        let shown = file.strip_prefix(root).unwrap().display().to_string();
        let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
        findings.extend(in_any_file(&shown, code));
        if let Some(path) = shown.strip_prefix("xtask/src/").and_then(|path| path.strip_suffix(".rs")) {
            modules.push(Module { path: path.replace('/', "::"), shown, code: code.to_owned() });
        }
    }
    findings.extend(in_imports(&modules));
    findings.extend(in_readme(&text(&root.join("README.md"))));
    let manifest: toml::Table = toml::from_str(&text(&root.join("xtask/Cargo.toml"))).unwrap();
    let dependencies = dependencies(&manifest);
    if dependencies > MAX_DEPENDENCIES {
        findings.push(format!("xtask/Cargo.toml:1: error: {dependencies} dependencies, {MAX_DEPENDENCIES} allowed"));
    }
    if root.join("xtask/build.rs").exists() {
        findings
            .push("xtask/build.rs:1: error: a build script, which every checkout would have to wait for".to_owned());
    }
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// The number of dependencies that are not only for tests, for whatever system.
fn dependencies(manifest: &toml::Table) -> usize {
    let count = |(key, value): (&String, &toml::Value)| match (&key[..], value.as_table()) {
        ("dependencies" | "build-dependencies", Some(table)) => table.len(),
        ("target", Some(systems)) => systems.values().filter_map(toml::Value::as_table).map(dependencies).sum(),
        _ => 0,
    };
    manifest.iter().map(count).sum()
}

fn in_any_file(shown: &str, code: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !code.starts_with("//! ") {
        findings.push(format!("{shown}:1: error: no `//!` header that says what the file is for"));
    }
    let length = code.lines().count();
    if length > FILE_MAX_LINES {
        findings.push(format!("{shown}:{FILE_MAX_LINES}: error: {length} lines, {FILE_MAX_LINES} allowed"));
    }
    findings
}

/// Imports against the order, circles of files, and what `lock/` may not use as a library.
fn in_imports(modules: &[Module]) -> Vec<String> {
    let paths: BTreeSet<&str> = modules.iter().map(|module| &module.path[..]).collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut findings = Vec::new();
    for module in modules.iter().filter(|module| module.path != "tidy") {
        let Some((own_rank, own_room)) = rank(&module.path) else {
            findings.push(format!("{}:1: error: its room is not in IMPORT_ORDER of tidy.rs", module.shown));
            continue;
        };
        for (line, imported) in imported_paths(&module.code) {
            let place = format!("{}:{line}: error:", module.shown);
            // The longest part of the path that is a file.
            let prefixes = imported.match_indices("::").map(|(end, _)| &imported[..end]).chain([&imported[..]]);
            let Some(file) = prefixes.filter_map(|prefix| paths.get(prefix)).last() else {
                findings.push(format!("{place} cannot resolve crate::{imported}"));
                continue;
            };
            imports.entry(&module.path).or_default().insert(file);
            if rank(file).is_some_and(|(rank, room)| room != own_room && rank >= own_rank) {
                findings.push(format!("{place} `{own_room}` may not import `{file}`"));
            }
        }
        // A parent names its children without `crate::`.
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        let uses = |child: &str| {
            let child = format!("{child}::");
            module.code.match_indices(&child).any(|(at, _)| !module.code[..at].ends_with(is_name))
        };
        let children = paths
            .iter()
            .filter(|path| path.rsplit_once("::").is_some_and(|(parent, child)| parent == module.path && uses(child)));
        imports.entry(&module.path).or_default().extend(children);
        findings.extend(in_text(module, own_room));
    }
    for start in imports.keys() {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = imports[start].iter().copied().collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(imports.get(next).into_iter().flatten());
            }
        }
        if reached.contains(start) {
            findings.push(format!("xtask/src: error: `{start}` imports itself through others"));
        }
    }
    findings
}

/// Words that do not belong in a module, and lints that it lifts.
fn in_text(module: &Module, room: &str) -> Vec<String> {
    let Module { path, shown, code } = module;
    let words = HIDES_IMPORTS.iter().chain(room.eq("lock").then_some(&"clap"));
    let mut wrong: Vec<&str> = words.copied().filter(|word| code.contains(word)).collect();
    let imports = code.split("use crate").skip(1).filter_map(|rest| rest.split(';').next());
    let hidden = imports.flat_map(|import| [" as ", "/*", "//"].into_iter().filter(|word| import.contains(word)));
    wrong.extend(hidden);
    let lifted = ["allow(", "expect("].iter().map(|word| code.matches(&format!("[{word}")).count()).sum::<usize>();
    let may_lift = LIFTED.iter().find(|(lifting, _)| lifting == path).map_or(0, |(_, times)| *times);
    let mut findings: Vec<String> = wrong
        .into_iter()
        .map(|word| format!("{shown}:1: error: it has `{word}`, which hides or breaks the import order"))
        .collect();
    if lifted != may_lift {
        findings.push(format!("{shown}:1: error: it lifts {lifted} lints; LIFTED of tidy.rs says {may_lift}"));
    }
    findings
}

/// The room of a module path, and its line in the order.
fn rank(path: &str) -> Option<(usize, &str)> {
    let room = path.split("::").next().unwrap_or_default();
    IMPORT_ORDER.iter().position(|rooms| rooms.contains(&room)).map(|rank| (rank, room))
}

/// Every path behind `crate::`, anywhere in a file, with its line; groups in braces are expanded.
fn imported_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with("$")) {
        let line_start = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
        if code[line_start..].trim_start().starts_with("//") {
            continue;
        }
        let line = 1 + code[..at].matches('\n').count();
        let rest = &code[at + "crate::".len()..];
        expand("", rest, &mut |path| found.push((line, path)));
    }
    found
}

/// Calls `found` for each path at the start of `text`; gives what is behind them.
fn expand<'a>(prefix: &str, text: &'a str, found: &mut impl FnMut(String)) -> &'a str {
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '*');
    let (path, mut rest) = text.split_at(text.find(|c| !is_path(c)).unwrap_or(text.len()));
    let path = format!("{prefix}{path}");
    let Some(mut group) = rest.strip_prefix('{') else {
        found(path.trim_end_matches("::self").trim_end_matches("::*").trim_end_matches("::").to_owned());
        return rest;
    };
    loop {
        rest = expand(&path, group.trim_start(), found).trim_start();
        match rest.strip_prefix(',') {
            Some(next) => group = next,
            None => return rest.strip_prefix('}').unwrap_or(rest),
        }
        if let Some(after) = group.trim_start().strip_prefix('}') {
            return after;
        }
    }
}

/// Each `cargo xtask` line of the README must be one that the command line accepts.
fn in_readme(text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let commands = lines
        .filter_map(|(index, line)| Some((index, line.trim().trim_start_matches("$ ").strip_prefix("cargo xtask ")?)));
    let mistakes = commands.filter_map(|(index, line)| {
        let line = line.split(['#', ';', '|', '&']).next().unwrap_or_default();
        let words = std::iter::once("xtask").chain(line.split_whitespace());
        let mistake = Xtask::try_parse_from(words).err().filter(clap::Error::use_stderr)?;
        Some(format!("README.md:{}: error: {}", index + 1, mistake.to_string().lines().next().unwrap_or_default()))
    });
    mistakes.collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

fn text(path: &Path) -> String {
    use crate::sys::file::{Links, read};
    String::from_utf8(read(path, Links::Follow, 1 << 20).unwrap()).unwrap()
}

#[test]
fn imports_are_found_wherever_they_are() {
    let code = "use crate::a::{self, b::{C, d}, e};\nfn f() -> crate::g::H { crate::i::j() }\n// crate::k\n";
    let paths: Vec<String> = imported_paths(code).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    assert_eq!(paths, ["1 a", "1 a::b::C", "1 a::b::d", "1 a::e", "2 g::H", "2 i::j"]);
}
