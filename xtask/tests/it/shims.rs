//! The scripts under the old names: quick, and never an old answer. Tried on a small package in place of this one.

use crate::findings::Case;
use crate::places::NOBODY;
use crate::sandbox::{Sandbox, obstacle};

pub(crate) const CASES: &[Case] = &[
    ("a_script_never_gives_an_old_answer", no_cargo, never_old),
    ("scripts_called_at_once_while_building", no_cargo, at_once),
    ("scripts_of_checkouts_that_share_a_target_folder", no_cargo, shared_target),
    ("scripts_of_another_users_checkout", no_other_user, another_users),
    ("a_program_named_for_the_scripts", no_cargo, named_program),
];

/// `version N [CHECKOUT]` writes a program that says so, `ask [CHECKOUT]` calls it by the script, `is WORDS` compares.
const CHECKOUT: &str = r#"
scripts=$REPO/scripts
make() {
    mkdir -p "$1/scripts" "$1/xtask/src" "$1/.cargo"
    cp "$scripts/xtask.sh" "$scripts/scrape-lock-status.sh" "$1/scripts"
    printf '[workspace]\nmembers = ["xtask"]\nresolver = "2"\n' >"$1/Cargo.toml"
    printf '[package]\nname = "xtask"\nversion = "0.1.0"\nedition = "2021"\n' >"$1/xtask/Cargo.toml"
    echo 'fn main() {}' >"$1/xtask/src/main.rs"
    (cd "$1" && cargo generate-lockfile --offline --quiet)
}
version() {
    cat >"${2:-$ROOT/checkout}/xtask/src/main.rs" <<RUST
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("$1 {} {}", words.join(" "), std::env::var("XTASK_WORKSPACE").unwrap());
}
RUST
}
ask() { "${1:-$ROOT/checkout}/scripts/scrape-lock-status.sh" x; }
without_cargo() { env -i PATH=/usr/bin:/bin HOME="$HOME" ${RUSTUP_HOME:+RUSTUP_HOME="$RUSTUP_HOME"} "$@"; }
is() { [ "$said" = "$*" ] || { echo "said '$said', not '$*'" >&2; exit 1; }; }
unset CARGO_TARGET_DIR XTASK_BIN RUSTFLAGS RUSTUP_TOOLCHAIN
make "$ROOT/checkout"
version 1
"#;

fn no_cargo() -> Option<String> {
    obstacle(&[], "cargo --version && find / -maxdepth 0 -newercm /")
}

fn no_other_user() -> Option<String> {
    no_cargo().or_else(|| obstacle(&[], &format!("{} true", NOBODY.join(" "))))
}

fn run(script: &str) {
    let repo = env!("CARGO_MANIFEST_DIR").trim_end_matches("/xtask");
    Sandbox::new().script(&["env", &format!("REPO={repo}")], &format!("{CHECKOUT}\n{script}"));
}

fn never_old() {
    run(r#"
        said=$(ask); is "1 lock-status x $ROOT/checkout"
        said=$(without_cargo "$ROOT/checkout/scripts/scrape-lock-status.sh" x); is "1 lock-status x $ROOT/checkout"
        version 2
        said=$(without_cargo "$ROOT/checkout/scripts/scrape-lock-status.sh" x 2>&1) && exit 1
        case $said in *"cargo is not on PATH"*) ;; *) exit 2;; esac
        said=$(ask); is "2 lock-status x $ROOT/checkout"
        # A file of long ago, as rsync or tar put it there.
        version 3 "$ROOT/checkout"; touch -d 2001-01-01 "$ROOT/checkout/xtask/src/main.rs" "$ROOT/checkout/xtask/src"
        said=$(ask); is "3 lock-status x $ROOT/checkout"
        version 4
        said=$(ask); is "4 lock-status x $ROOT/checkout"
        stamp=$(cat "$ROOT/checkout/target/xtask-sh/stamp")
        for file in Cargo.toml Cargo.lock xtask/Cargo.toml; do
            touch "$ROOT/checkout/$file"
            said=$(ask); is "4 lock-status x $ROOT/checkout"
            [ "$stamp" != "$(cat "$ROOT/checkout/target/xtask-sh/stamp")" ] || exit 4
            stamp=$(cat "$ROOT/checkout/target/xtask-sh/stamp")
        done
        # What does not compile has no answer.
        echo 'nonsense' >"$ROOT/checkout/xtask/src/main.rs"
        said=$(ask 2>/dev/null) && exit 5
        version 5
        said=$(ask); is "5 lock-status x $ROOT/checkout"
        # The same before the script has built for the first time.
        rm -r "$ROOT/checkout/target/xtask-sh"; (cd "$ROOT/checkout" && cargo build --quiet)
        version 6; touch -d 2001-01-01 "$ROOT/checkout/xtask/src/main.rs"
        said=$(ask); is "6 lock-status x $ROOT/checkout"
        # The clock was ahead during the build.
        touch -d '1 hour' "$ROOT/checkout/target/xtask-sh/stamp"
        version 5
        said=$(ask); is "5 lock-status x $ROOT/checkout"
        # A power failure emptied the program.
        truncate -s 0 "$(tail -n 1 "$ROOT/checkout/target/xtask-sh/stamp")"
        said=$(ask); is "5 lock-status x $ROOT/checkout"
        cd "$ROOT/checkout"; said=$(CDPATH=.:$ROOT scripts/xtask.sh x); is "5 x $ROOT/checkout"; cd "$ROOT"
        # By a link from elsewhere, and after a move.
        ln -s "$ROOT/checkout/scripts/scrape-lock-status.sh" "$ROOT/link"
        said=$("$ROOT/link" x); is "5 lock-status x $ROOT/checkout"
        mv "$ROOT/checkout" "$ROOT/moved to here"
        said=$(ask "$ROOT/moved to here"); is "5 lock-status x $ROOT/moved to here"
        "#);
}

fn at_once() {
    run(r#"
        ask >/dev/null
        version 2
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do ask >"$ROOT/said.$i" & done
        wait
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            said=$(cat "$ROOT/said.$i"); is "2 lock-status x $ROOT/checkout"
        done
        "#);
}

fn shared_target() {
    run(r#"
        make "$ROOT/other"; version other "$ROOT/other"
        mkdir "$ROOT/linked"; ln -s "$ROOT/linked" "$ROOT/checkout/target"; ln -s "$ROOT/linked" "$ROOT/other/target"
        for i in 1 2; do
            said=$(ask); is "1 lock-status x $ROOT/checkout"
            said=$(ask "$ROOT/other"); is "other lock-status x $ROOT/other"
        done
        rm "$ROOT/checkout/target" "$ROOT/other/target"
        export CARGO_TARGET_DIR=$ROOT/shared
        for i in 1 2; do
            said=$(ask); is "1 lock-status x $ROOT/checkout"
            said=$(ask "$ROOT/other"); is "other lock-status x $ROOT/other"
        done
        "#);
}

fn another_users() {
    let nobody = NOBODY.join(" ");
    run(&format!(
        r#"
        ask >/dev/null
        chmod -R a+rX "$ROOT/checkout"
        theirs="env -i PATH=/usr/bin:/bin HOME=$HOME"
        [ -z "${{RUSTUP_HOME:-}}" ] || theirs="$theirs RUSTUP_HOME=$RUSTUP_HOME"
        # The modes are changes, too.
        ask >/dev/null
        said=$({nobody} $theirs "$ROOT/checkout/scripts/scrape-lock-status.sh" x); is "1 lock-status x $ROOT/checkout"
        version 2
        {nobody} $theirs "$ROOT/checkout/scripts/scrape-lock-status.sh" x >"$ROOT/said" 2>&1 && exit 1
        grep -q '^ERROR: ' "$ROOT/said" && grep -q '^hint: ' "$ROOT/said"
        "#
    ));
}

fn named_program() {
    run(r#"
        export XTASK_BIN=/bin/echo
        said=$(ask); is "lock-status x"
        cd "$ROOT"; printf '#!/bin/sh\necho here\n' >ls; chmod +x ls
        said=$(XTASK_BIN=ls ask); is here
        : >empty; printf '\177ELF' >broken; chmod +x empty broken
        for wrong in ./empty ./broken; do
            code=0; said=$(XTASK_BIN=$wrong ask 2>&1) || code=$?
            [ $code = 2 ] || exit 3
        done
        for wrong in "$ROOT/none" "$ROOT" "$ROOT/checkout/Cargo.toml"; do
            export XTASK_BIN=$wrong
            code=0; said=$(ask 2>&1) || code=$?
            [ $code = 2 ] || exit 1
            case $said in "ERROR: XTASK_BIN is $wrong, which is not a program"*) ;; *) exit 2;; esac
        done
        "#);
}
