#!/usr/bin/env bash
# The old name of `cargo xtask handoff`. Flags: --config PATH, --target NAME, --channel ID, --skip-df, and all the new ones.
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" handoff "$@"
