//! What clippy cannot say about this crate. Every file is read once and all findings
//! are told together.

use crate::flags::Xtask;
use clap::Parser;
use std::path::{Path, PathBuf};

/// More direct dependencies than this are too many: see `xtask/Cargo.toml`.
const MOST_DEPENDENCIES: usize = 12;

/// The longest file, in lines, its tests not counted.
const LONGEST_FILE: usize = 400;

/// What `lock/` may use of this crate: it becomes one of its own some day.
const USED_BY_LOCK: [&str; 3] = ["crate::lock", "crate::bounded", "crate::text"];

#[test]
fn everything_is_tidy() {
    let root = crate::env::built_in();
    let mut findings = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|folder| rust_files(&root.join("xtask").join(folder))) {
        let text = text(&file);
        let shown = file.strip_prefix(root).unwrap().display().to_string();
        let finding = |(line, what): (usize, String)| format!("{shown}:{line}: error: {what}");
        findings.extend(in_any_file(&text).into_iter().map(finding));
        if shown.starts_with("xtask/src/lock/") || shown == "xtask/src/lock.rs" {
            findings.extend(in_lock(&text).into_iter().map(finding));
        }
    }
    findings.extend(in_readme(&text(&root.join("README.md"))));
    let manifest: toml::Table = toml::from_str(&text(&root.join("xtask/Cargo.toml"))).unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap().len();
    if dependencies > MOST_DEPENDENCIES {
        findings.push(format!("xtask/Cargo.toml:1: error: {dependencies} dependencies, {MOST_DEPENDENCIES} allowed"));
    }
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn in_any_file(text: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    if !text.starts_with("//! ") {
        findings.push((1, "no `//!` header that says what the file is for".to_owned()));
    }
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let length = code.lines().count();
    if length > LONGEST_FILE {
        findings.push((LONGEST_FILE, format!("{length} lines, {LONGEST_FILE} allowed")));
    }
    findings
}

fn in_lock(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate();
    let foreign = lines.filter_map(|(index, line)| {
        let imported = line.trim_start().strip_prefix("use ")?;
        let is_ours = USED_BY_LOCK.iter().any(|ours| imported.starts_with(ours));
        let is_wrong = (imported.starts_with("crate::") && !is_ours) || imported.starts_with("clap");
        is_wrong.then(|| (index + 1, format!("`lock/` is a library by rule and may not use {imported}")))
    });
    foreign.collect()
}

/// Each `cargo xtask` line of the README must be one that the command line takes.
fn in_readme(text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let commands = lines.filter_map(|(index, line)| Some((index, line.trim().strip_prefix("cargo xtask ")?)));
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
    String::from_utf8(crate::bounded::read(path, crate::bounded::Links::Follow, 1 << 20).unwrap()).unwrap()
}
