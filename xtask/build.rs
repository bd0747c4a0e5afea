//! Lets release builds start fast: a status run is over in a millisecond, most of which is
//! loading the program. They carry the unwinder, as loading `libgcc_s.so` would be a tenth of
//! that, and stand at a fixed address, as moving all their pointers would be a twentieth (there
//! is no unsafe code of ours for random addresses to guard). Where the C compiler has no static
//! unwinder, it is loaded as usual.

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
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
