#!/usr/bin/env bash
# The old name of `cargo xtask verify-ready`. Flags: --config PATH, --disk-only, and all the new ones.
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" verify-ready "$@"
