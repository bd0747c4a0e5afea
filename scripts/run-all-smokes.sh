#!/usr/bin/env bash
# The old name of `cargo xtask smokes`. Takes its options, among them --include-container.
self=$0; [[ -L $self ]] && self=$(readlink -f "$self"); [[ $self == */* ]] || self=./$self
set -- smokes "$@"; . "${self%/*}/xtask.sh"
