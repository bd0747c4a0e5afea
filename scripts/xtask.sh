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

self=$0
[[ $self == */* ]] || self=./$self
[[ -L $self ]] && self=$(readlink -f "$self")
# The checkout that answers.
XTASK_WORKSPACE=$(cd -P "${self%/*}/.." && printf '%sx' "$PWD") || fail "cannot enter ${self%/*}/.." "call the script by its path"
export XTASK_WORKSPACE=${XTASK_WORKSPACE%x}

if [[ -n ${XTASK_BIN:-} ]]; then
    [[ -f $XTASK_BIN && -x $XTASK_BIN ]] || fail "XTASK_BIN is $XTASK_BIN, which is not a program" "unset XTASK_BIN, or build it with: cargo build"
    exec "$XTASK_BIN" "$@"
fi

# Not the target folder itself: several checkouts may share that, and the last build there may be another's.
kept=$XTASK_WORKSPACE/target/xtask-sh
made_of=("$XTASK_WORKSPACE"/{Cargo.toml,Cargo.lock,.cargo,xtask/Cargo.toml,xtask/src})
settings=${RUSTUP_HOME:-${HOME:-}/.rustup}/settings.toml
[[ -e $settings ]] && made_of+=("$settings")
options="${RUSTUP_TOOLCHAIN:-} ${RUSTFLAGS:-} ${CARGO_BUILD_RUSTFLAGS:-}"

# Finds the kept program, if it is made of what is there now. The time of the last change of an inode cannot be set back,
# as that of its content can.
find_fresh() {
    local rustc built_with newer
    { IFS= read -r rustc && IFS= read -r built_with && IFS= read -r program; } 2>/dev/null <"$kept/stamp" || return 1
    [[ $built_with == "$options" && -e $rustc && -x $program ]] || return 1
    newer=$(find "${made_of[@]}" "$rustc" -newercm "$kept/stamp" -print -quit 2>/dev/null) && [[ -z $newer ]]
}

# Builds, and keeps the program under a name of its own: the stamp names it, with what it was built with.
build() {
    local built made stamp target=(--target-dir "$XTASK_WORKSPACE/target")
    command -v cargo >/dev/null || fail "cargo is not on PATH" \
        "install the Rust toolchain (https://rustup.rs), or add ~/.cargo/bin to PATH; cron does not"
    [[ -t 2 ]] && echo "building xtask in $XTASK_WORKSPACE" >&2
    mkdir -p "$kept" 2>/dev/null
    # As old as the beginning of the build: what changes meanwhile is newer.
    stamp=$(mktemp "$kept/stamp.XXXXXX" 2>/dev/null) || target=() stamp=
    # cargo goes by the time of the content alone, which rsync and tar set back.
    find "${made_of[@]}" -type f -newercm "$kept/stamp" ! -newermm "$kept/stamp" -exec touch -c {} + 2>/dev/null
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
    program=$(mktemp "$kept/xtask.XXXXXX") && cp "$made" "$program" && chmod 755 "$program" &&
        printf '%s\n' "$(rustc --print sysroot)/bin/rustc" "$options" "$program" >"$stamp.new" &&
        touch -r "$stamp" "$stamp.new" && mv -f "$stamp.new" "$kept/stamp" && rm -f "$stamp" ||
        fail "cannot keep the program in $kept" "make room there, or set XTASK_BIN to a built program"
    find "$kept" -name '*.??????' ! -path "$program" -mmin +60 -delete
}

find_fresh || build
exec "$program" "$@"
