//! Small checkouts with cases of their own.

use crate::sandbox::command;
use std::fs::{DirEntry, read_dir};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A checkout with nothing but these cases, and a program under test that runs its first argument in a shell.
pub(super) struct Checkout {
    folder: TempDir,
}

impl Checkout {
    pub(super) fn new(cases: &[(&str, &str)]) -> Checkout {
        let checkout = Checkout { folder: tempfile::tempdir().unwrap() };
        for (file, text) in [
            ("fixtures/smokes/base/default.toml", ""),
            ("shell", "#!/bin/sh\nPATH=/usr/bin:/bin\neval \"$1\"\n"),
            ("out/none", ""),
        ] {
            checkout.write(file, text);
        }
        std::fs::create_dir(checkout.at("tmp")).unwrap();
        for (name, text) in cases {
            checkout.write(&format!("fixtures/smokes/{name}.toml"), text);
        }
        std::fs::set_permissions(checkout.at("shell"), PermissionsExt::from_mode(0o755)).unwrap();
        let programs = "fixtures/smokes/programs";
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(programs);
        // Not by this process: see `Sandbox::new`.
        assert!(command("cp").arg("-r").arg(ours).arg(checkout.at(programs)).status().unwrap().success());
        checkout
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        std::fs::write(self.at(name), text.replace("$OUT", &self.at("out").display().to_string())).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(name)).unwrap()
    }

    pub(super) fn smokes(&self, options: &[&str]) -> Command {
        let mut smokes = command(env!("CARGO_BIN_EXE_xtask"));
        smokes.arg("smokes").args(options).env("XTASK_WORKSPACE", self.folder.path()).env("TMPDIR", self.at("tmp"));
        for name in ["CI", "GITHUB_ACTIONS", "XTASK_ALLOW_SKIP"] {
            smokes.env_remove(name);
        }
        smokes
    }

    /// With the shell as the program under test.
    pub(super) fn shell(&self, options: &[&str]) -> Command {
        let mut smokes = self.smokes(options);
        smokes.arg("--bin").arg(self.at("shell"));
        smokes
    }

    #[track_caller]
    pub(super) fn assert_nothing_left(&self) {
        let left: Vec<DirEntry> = read_dir(self.at("tmp")).unwrap().map(Result::unwrap).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A case that runs a script and expects this.
pub(super) fn case(script: &str, expect: &str) -> String {
    format!("args = ['''{script}''']\n[expect]\nexit = 0\n{expect}\n")
}

/// Runs smokes to their end and returns what they print, which has all of `parts`.
#[track_caller]
pub(super) fn assert_says(smokes: &mut Command, code: i32, parts: &[&str]) -> String {
    let output = smokes.output().unwrap();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    let is_expected = output.status.code() == Some(code) && parts.iter().all(|part| said.contains(part));
    assert!(is_expected, "{} instead of {code} with {parts:?}: {said}", output.status);
    said
}
