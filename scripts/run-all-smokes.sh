#!/usr/bin/env bash
# The old name of `cargo xtask smokes`. Takes its options, among them --include-container.
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" smokes "$@"
