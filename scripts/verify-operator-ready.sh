#!/usr/bin/env bash
# The old name of `cargo xtask verify-ready`. Takes its options, among them --config PATH, --disk-only.
self=$0; [[ -L $self ]] && self=$(readlink -f "$self"); [[ $self == */* ]] || self=./$self
set -- verify-ready "$@"; . "${self%/*}/xtask.sh"
