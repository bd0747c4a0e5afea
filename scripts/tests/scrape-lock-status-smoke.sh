#!/usr/bin/env bash
# scripts/scrape-lock-status.sh as an operator uses it: from another folder, with a
# relative config, while a live process holds the lock and while nobody does.
set -euo pipefail
status=$(cd "$(dirname "$0")/.." && pwd)/scrape-lock-status.sh
command -v flock >/dev/null || { echo "SKIP: no flock"; exit 77; }

fail() { printf 'ERROR: %s\n%s\n' "$1" "$out" >&2; exit 1; }
ask() { out=$("$status" "$@" 9>&- 2>&1) && code=0 || code=$?; }

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/archive"
printf '{ "archive_root": "archive" }\n' >"$stage/scrape.json"
cd "$stage"

ask --config scrape.json
[[ $code == 0 && $out == *"state: free (no lock file)"* ]] || fail "no lock file is free"

exec 9>>archive/.dce-scrape.lock
flock -n 9
printf 'pid=%s\nstarted=%s\n' $$ "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >archive/.dce-scrape.lock.meta
ask --config scrape.json
[[ $code == 1 && $out == *"state: held (active scrape)"* && $out == *"holder: pid $$ (running"* ]] || fail "held is held"
DCE_SCRAPE_LOCK_FILE=$stage/other.lock ask --config scrape.json
[[ $code == 0 && $out == *"lock: $stage/other.lock"* ]] || fail "the override names the lock"

exec 9>&-
printf 'pid=99999999\n' >archive/.dce-scrape.lock.meta
ask --config scrape.json
[[ $code == 0 && $out == *"state: stale (reclaimable; holder pid 99999999 is not running)"* ]] || fail "stale is stale"

ask --config none.json
[[ $code == 2 && $out == *"ERROR: cannot read scrape config"* ]] || fail "no config is no answer"
ask --no-such-flag
[[ $code == 2 ]] || fail "misuse is exit 2"
