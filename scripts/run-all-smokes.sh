#!/usr/bin/env bash
# The old name of `cargo xtask smokes`. Flags: --include-container, and all the new ones.
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" smokes "$@"
