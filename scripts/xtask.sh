#!/usr/bin/env bash
# `cargo xtask` from any folder: cargo knows the alias only inside this checkout. The caller's folder stays
# the current one, so a relative --config is relative to the caller.
# XTASK_BIN names a program that is already built.
set -uo pipefail
# The checkout that answers: the program may come from a target folder that several share.
XTASK_WORKSPACE=$(dirname "$(dirname "$(readlink -f "$0")")")
export XTASK_WORKSPACE
if [[ -z ${XTASK_BIN:-} ]]; then
    if ! command -v cargo >/dev/null; then
        echo "ERROR: cargo is not on PATH
hint: install the Rust toolchain (https://rustup.rs), or add ~/.cargo/bin to PATH; cron does not" >&2
        exit 2
    fi
    # Not `cargo run`: the command of `lock-run` is to get the caller's environment, not cargo's. A failed
    # build answers nothing: exit 2.
    built=$(cargo build --quiet --manifest-path "$XTASK_WORKSPACE/Cargo.toml" --package xtask --bin xtask \
        --message-format json-render-diagnostics) || exit 2
    XTASK_BIN=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1)
fi
exec "$XTASK_BIN" "$@"
