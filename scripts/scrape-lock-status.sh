#!/usr/bin/env bash
# The old name of `cargo xtask lock-status`. Takes its options, among them --config PATH.
self=$0; [[ -L $self ]] && self=$(readlink -f "$self"); [[ $self == */* ]] || self=./$self
set -- lock-status "$@"; . "${self%/*}/xtask.sh"
