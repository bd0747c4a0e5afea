#!/usr/bin/env bash
# The old name of `cargo xtask lock-status`. Flags: --config PATH, and all the new ones.
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" lock-status "$@"
