//! Lets release builds carry the unwinder: loading `libgcc_s.so` instead would be a tenth
//! of a status run. Where the C compiler has no static one, it is loaded as usual.

#![allow(clippy::disallowed_methods, reason = "a build script asks cargo through the environment")]

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|set| set == value);
    if !is("PROFILE", "release")
        || !is("CARGO_CFG_TARGET_ENV", "gnu")
        || std::env::var("HOST") != std::env::var("TARGET")
    {
        return;
    }
    // Without such a file it prints the bare name.
    let Ok(found) = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output() else { return };
    let library = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    if let Some(folder) = library.parent().filter(|_| library.is_absolute()) {
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static=gcc_eh");
    }
}
