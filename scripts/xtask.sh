#!/usr/bin/env bash
# `cargo xtask` from any folder: the alias is known only inside this repository. The
# caller's folder stays the current one, so a relative --config is relative to the caller.
# XTASK_BIN names a program that is built already.
set -uo pipefail
if [[ -z ${XTASK_BIN:-} ]]; then
    if ! command -v cargo >/dev/null; then
        echo "ERROR: cargo is not on PATH
hint: install the Rust toolchain (https://rustup.rs), or add ~/.cargo/bin to PATH; cron does not" >&2
        exit 2
    fi
    root=$(dirname "$(dirname "$(readlink -f "$0")")")
    # Not `cargo run`: a scrape under `lock-run` is to find the caller's environment, not cargo's. A
    # build that fails is no answer: 2, as for everything that could not be told.
    built=$(cargo build --quiet --manifest-path "$root/Cargo.toml" --package xtask --bin xtask \
        --message-format json-render-diagnostics) || exit 2
    XTASK_BIN=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1)
fi
exec "$XTASK_BIN" "$@"
