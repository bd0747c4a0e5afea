#!/usr/bin/env bash
# The old name of `cargo xtask lock-status`. Takes its options, among them --config PATH.
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" lock-status "$@"
