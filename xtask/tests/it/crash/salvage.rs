//! A salvage that is killed, or for which a call fails, leaves the old archive or the new one, and never loses a
//! leftover; the next one completes.

use super::inject::Fault;
use super::scene::Scene;
use super::{Plan, expect_none, faults};
use std::path::{Path, PathBuf};

const CHANNEL: &str = "100000000000000001";

/// The new archive is then written in several pieces.
const MESSAGES: usize = 300;

struct Files {
    config: PathBuf,
    output_dir: PathBuf,
    archive: PathBuf,
    leftover: PathBuf,
    old: String,
    cut: String,
}

pub(crate) fn salvage() {
    let scene = Scene::new();
    let files = Files::new(&scene.root);
    let words = ["xtask", "salvage", "--config"].map(str::to_owned);
    let mut words = [&words[..], &[files.config.display().to_string()]].concat();
    words[0] = scene.root.join("xtask").display().to_string();
    files.set(&scene);
    assert!(scene.output(&words).status.success());
    let new = std::fs::read_to_string(&files.archive).unwrap();
    assert_eq!(new.matches("\"timestamp\"").count(), MESSAGES + MESSAGES / 2 - 1, "the last message is cut off");
    let set = || files.set(&scene);
    let faults = faults().into_iter().chain([Fault::Error("ENOSPC"), Fault::Error("EDQUOT")]).collect();
    let at = files.output_dir.clone();
    let plan = Plan { words: words.clone(), set: &set, exit: 0, faults, with_startup: false, at, known: &[] };
    let tally = plan.try_each(&scene, |run, _, _| {
        let archive = std::fs::read_to_string(&files.archive).unwrap_or_default();
        let leftover = std::fs::read_to_string(&files.leftover).unwrap_or_default();
        if archive != new && (archive != files.old || leftover != files.cut) {
            run.wrong.push(format!(
                "{}: {} bytes of archive, {} of leftover",
                run.status,
                archive.len(),
                leftover.len()
            ));
        }
        if run.status.success() && archive != new {
            run.wrong.push("it succeeded, but the archive is the old one".to_owned());
        }
        let next = scene.output(&words);
        let archive = std::fs::read_to_string(&files.archive).unwrap_or_default();
        if !next.status.success() || archive != new || files.leftover.exists() {
            let said = String::from_utf8_lossy(&next.stdout).into_owned() + &String::from_utf8_lossy(&next.stderr);
            run.wrong.push(format!("the next one: {}, {} bytes of archive: {said}", next.status, archive.len()));
        }
        let names = std::fs::read_dir(&files.output_dir).unwrap().map(|entry| entry.unwrap().path());
        let mut left = names.filter(|path| *path != files.archive && !path.ends_with(".dce-temp"));
        if let Some(path) = left.next() {
            run.wrong.push(format!("`{}` is left", path.display()));
        }
    });
    expect_none([tally.told("salvage")]);
}

impl Files {
    fn new(root: &Path) -> Files {
        let output_dir = root.join("target");
        let archive = output_dir.join(format!("Guild - general [{CHANNEL}].json"));
        let leftover = output_dir.join(format!(".dce-temp/export.{CHANNEL}.abc/export.json"));
        let config = root.join("salvage.json");
        let (root, folder) = (root.display(), output_dir.display());
        let text =
            format!(r#"{{ "archive_root": "{root}", "targets": [{{ "name": "t", "output_dir": "{folder}" }}] }}"#);
        std::fs::write(&config, text).unwrap();
        let [old, whole] = [export(0), export(MESSAGES / 2)];
        let cut = whole[..whole.len() - 60].to_owned();
        Files { config, output_dir, archive, leftover, old, cut }
    }

    /// A scrape was killed an hour ago.
    fn set(&self, scene: &Scene) {
        scene.set_stale();
        _ = std::fs::remove_dir_all(&self.output_dir);
        std::fs::create_dir_all(self.leftover.parent().unwrap()).unwrap();
        std::fs::write(&self.archive, &self.old).unwrap();
        std::fs::write(&self.leftover, &self.cut).unwrap();
        let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        std::fs::File::options().write(true).open(&self.leftover).unwrap().set_modified(an_hour_ago).unwrap();
    }
}

/// An export whose first message is the one of that number.
fn export(first: usize) -> String {
    let message = |number: usize| {
        format!(
            "    {{\n      \"id\": \"{}\",\n      \"timestamp\": \"2026-01-01T{:02}:{:02}:{:02}+00:00\",\n      \"content\": \"{}\"\n    }}",
            200_000_000_000_000_000 + number,
            number / 3600,
            number / 60 % 60,
            number % 60,
            "x".repeat(900)
        )
    };
    let messages: Vec<String> = (first..first + MESSAGES).map(message).collect();
    format!(
        "{{\n  \"channel\": {{ \"id\": \"{CHANNEL}\" }},\n  \"messages\": [\n{}\n  ],\n  \"messageCount\": {MESSAGES}\n}}\n",
        messages.join(",\n")
    )
}
