#!/usr/bin/env bash
# `cargo xtask` from any folder: the alias is known only inside this repository. The
# caller's folder stays the current one, so a relative --config is relative to the caller.
if ! command -v cargo >/dev/null; then
    echo "ERROR: cargo is not on PATH
hint: install the Rust toolchain (https://rustup.rs), or add ~/.cargo/bin to PATH; cron does not" >&2
    exit 2
fi
root=$(dirname "$(dirname "$(readlink -f "$0")")")
manifest=(--manifest-path "$root/Cargo.toml" --package xtask --bin xtask)
# A build that fails is no answer: 2, as for everything that could not be told.
cargo build --quiet "${manifest[@]}" || exit 2
exec cargo run --quiet "${manifest[@]}" -- "$@"
