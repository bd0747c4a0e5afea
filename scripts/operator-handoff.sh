#!/usr/bin/env bash
# The old name of `cargo xtask handoff`. Takes its options, among them --config PATH, --target NAME, --channel ID, --skip-df.
self=$0; [[ -L $self ]] && self=$(readlink -f "$self"); [[ $self == */* ]] || self=./$self
set -- handoff "$@"; . "${self%/*}/xtask.sh"
