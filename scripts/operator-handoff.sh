#!/usr/bin/env bash
# The old name of `cargo xtask handoff`. Takes its options, among them --config PATH, --target NAME, --channel ID, --skip-df.
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" handoff "$@"
