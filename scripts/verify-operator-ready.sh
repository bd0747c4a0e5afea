#!/usr/bin/env bash
# The old name of `cargo xtask verify-ready`. Takes its options, among them --config PATH, --disk-only.
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" verify-ready "$@"
