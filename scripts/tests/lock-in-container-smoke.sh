#!/usr/bin/env bash
# A lock that is held on the host is seen held from inside a container, and a free one free.
set -euo pipefail
image=${DCE_SMOKE_IMAGE:-debian:stable-slim}
for engine in docker podman; do
    "$engine" info >/dev/null 2>&1 && break
    engine=
done
[[ -n $engine ]] || { echo "SKIP: no container engine that works"; exit 77; }
command -v flock >/dev/null || { echo "SKIP: no flock"; exit 77; }
"$engine" image inspect "$image" >/dev/null 2>&1 || "$engine" pull -q "$image" >/dev/null 2>&1 ||
    { echo "SKIP: no image $image (set DCE_SMOKE_IMAGE to one with this machine's C library or a newer one)"; exit 77; }

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/archive"
printf '{ "archive_root": "archive" }\n' >"$stage/scrape.json"
cp "${XTASK_BIN:?is set by cargo xtask smokes}" "$stage/xtask"

ask() {
    out=$("$engine" run --rm --network none -v "$stage:/stage" -w /stage "$image" \
        ./xtask lock-status --config scrape.json 9>&- 2>&1) && code=0 || code=$?
}
fail() { printf 'ERROR: %s\n%s\n' "$1" "$out" >&2; exit 1; }

exec 9>>"$stage/archive/.dce-scrape.lock"
flock -n 9
ask
[[ $code == 1 && $out == *"state: held (active scrape)"* ]] || fail "held on the host is held in the container"
exec 9>&-
ask
[[ $code == 0 && $out == *"state: free"* ]] || fail "free on the host is free in the container"
