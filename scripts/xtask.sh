#!/usr/bin/env bash
# `cargo xtask` from any folder: cargo knows the alias only inside this checkout. The caller's folder stays
# the current one, so a relative --config is relative to the caller. The other scripts source this one.
#
# It runs the program that it built before, unless something that the program is made of has changed since. So once it
# is built, no cargo is needed, as in cron. XTASK_BIN names a program to run instead.
set -uo pipefail

fail() {
    printf 'ERROR: %s\nhint: %s\n' "$1" "$2" >&2
    exit 2
}

# An empty file would run, and do nothing: a comforting answer.
run() {
    shopt -s execfail
    [[ -s $1 ]] && exec "$@"
    fail "$1 cannot be run" "remove it, or unset XTASK_BIN"
}

self=$0
[[ $self == */* ]] || self=./$self
[[ -L $self ]] && self=$(readlink -f "$self")
# The checkout that answers.
XTASK_WORKSPACE=$(CDPATH='' cd -P -- "${self%/*}/.." && printf '%sx' "$PWD") || fail "cannot enter ${self%/*}/.." "call the script by its path"
export XTASK_WORKSPACE=${XTASK_WORKSPACE%x}

if [[ -n ${XTASK_BIN:-} ]]; then
    [[ $XTASK_BIN == */* ]] || XTASK_BIN=./$XTASK_BIN
    [[ -f $XTASK_BIN && -x $XTASK_BIN ]] || fail "XTASK_BIN is $XTASK_BIN, which is not a program" "unset XTASK_BIN, or build it with: cargo build"
    run "$XTASK_BIN" "$@"
fi

# Not the target folder itself: several checkouts may share that, and the last build there may be another's.
built_by_cargo=$XTASK_WORKSPACE/target
kept=$built_by_cargo/xtask-sh
if [[ -L $built_by_cargo ]]; then
    kept+=/$(cksum <<<"$XTASK_WORKSPACE")
    built_by_cargo=$kept/target
fi
made_of=("$XTASK_WORKSPACE"/{Cargo.toml,Cargo.lock,xtask/Cargo.toml,xtask/src})
may_count=("${RUSTUP_HOME:-${HOME:-}/.rustup}/settings.toml" "${CARGO_HOME:-${HOME:-}/.cargo}"/config{,.toml}
    "$XTASK_WORKSPACE"/{rust-toolchain,rust-toolchain.toml,xtask/build.rs})
# cargo reads the settings of every folder above, too.
folder=$XTASK_WORKSPACE/.
while [[ $folder == */* ]]; do
    folder=${folder%/*}
    may_count+=("$folder"/.cargo/config{,.toml})
done
for file in "${may_count[@]}"; do
    [[ -e $file ]] && made_of+=("$file")
done
options="${RUSTUP_TOOLCHAIN:-} ${RUSTFLAGS:-} ${CARGO_ENCODED_RUSTFLAGS:-} ${CARGO_BUILD_RUSTFLAGS:-} ${XTASK_WORKSPACE@Q}"

# Finds the kept program, if it is made of what is there now. The time of the last change of an inode cannot be set back,
# as that of its content can.
find_fresh() {
    local rustc built_with newer
    why="it is not built yet"
    { IFS= read -r rustc && IFS= read -r built_with && IFS= read -r program; } 2>/dev/null <"$kept/stamp" || return 1
    why="$program is gone, or empty"
    [[ -s $program && -x $program ]] || return 1
    why="it was built for another checkout or with other settings"
    [[ $built_with == "$options" ]] || return 1
    # Another user's toolchain may be out of sight.
    [[ -e $rustc ]] && made_of+=("$rustc")
    # A stamp of a time still to come tells nothing.
    newer=$(find -H "$kept/stamp" "${made_of[@]}" \( -samefile "$kept/stamp" -newermt now -o \
        ! -samefile "$kept/stamp" -newercm "$kept/stamp" \) -print -quit 2>&1) || newer=${newer:-something}
    why="$newer is newer"
    [[ -z $newer ]]
}

# Builds, and keeps the program under a name of its own: the stamp names it, with what it was built with.
build() {
    local before built made stamp target=(--target-dir "$built_by_cargo")
    command -v cargo >/dev/null || fail "xtask must be built ($why), and cargo is not on PATH" \
        "install the Rust toolchain (https://rustup.rs), or add ~/.cargo/bin to PATH; cron does not"
    [[ -t 2 ]] && echo "building xtask in $XTASK_WORKSPACE" >&2
    mkdir -p "$kept" 2>/dev/null
    # cargo goes by the time of the content alone, which rsync and tar set back.
    before=$kept/stamp
    [[ -e $before ]] || before=$built_by_cargo/debug/xtask
    find -H "${made_of[@]}" -type f -newercm "$before" ! -newermm "$before" -exec touch -c {} + 2>/dev/null
    # As old as the beginning of the build: what changes meanwhile is newer.
    stamp=$(mktemp "$kept/stamp.XXXXXX" 2>/dev/null) || target=() stamp=
    # Not `cargo run`: the command of `lock-run` is to get the caller's environment. A failed build answers nothing.
    built=$(cargo build --quiet --manifest-path "$XTASK_WORKSPACE/Cargo.toml" --package xtask --bin xtask "${target[@]}" \
        --message-format json-render-diagnostics) || {
        [[ -n $stamp ]] && rm -f "$stamp"
        fail "xtask cannot be built in $XTASK_WORKSPACE" \
            "see above; in a checkout that you may not write, set CARGO_TARGET_DIR, or XTASK_BIN to a built program"
    }
    made=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1)
    program=$made
    [[ -n $stamp ]] || return 0
    program=$(mktemp "$kept/xtask.XXXXXX") && cp "$made" "$program" && chmod 755 "$program" && sync "$program" &&
        printf '%s\n' "$(rustc --print sysroot)/bin/rustc" "$options" "$program" >"$stamp.new" &&
        touch -r "$stamp" "$stamp.new" && mv -f "$stamp.new" "$kept/stamp" && rm -f "$stamp" ||
        fail "cannot keep the program in $kept" "make room there, or set XTASK_BIN to a built program"
    find "$kept" -name '*.??????' ! -path "$program" -mmin +60 -delete
}

find_fresh || build
run "$program" "$@"
