#!/usr/bin/env bash
# scripts/operator-handoff.sh and scripts/verify-operator-ready.sh as an operator uses them.
set -euo pipefail
scripts=$(cd "$(dirname "$0")/.." && pwd)
command -v flock >/dev/null || { echo "SKIP: no flock"; exit 77; }

fail() { printf 'ERROR: %s\n%s\n' "$1" "$out" >&2; exit 1; }
ask() { out=$("$scripts/$1" "${@:2}" 9>&- 2>&1) && code=0 || code=$?; }

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/archive/demo" "$stage/repo"
printf '{ "channel": { "id": "100000000000000001" } }\n' >"$stage/archive/demo/Guild - general [100000000000000001].json"
cat >"$stage/scrape.json" <<JSON
{ "archive_root": "$stage/archive", "targets": [ { "name": "demo", "output_dir": "$stage/archive/demo" } ] }
JSON
cd "$stage"
export DCE_REPO_ROOT=$stage/repo DCE_COMPOSE_BIN=true DISCORD_TOKEN=dummy DCE_MIN_FREE_MB=1

ask verify-operator-ready.sh --config scrape.json
[[ $code == 0 && $out == *"Operator ready. Next:"* ]] || fail "all is ready"
ask verify-operator-ready.sh --disk-only --config scrape.json
[[ $code == 0 && $out == *"disk-only: ok (config scrape.json)"* ]] || fail "there is room"

ask operator-handoff.sh --config scrape.json --skip-df --target demo --channel 100000000000000001
[[ $code == 0 && $out == *"./scripts/run-documents-scrape.sh --target demo --channel 100000000000000001"* ]] ||
    fail "the command to run is told"
[[ $out != *dummy* ]] || fail "the token is never shown"

exec 9>>archive/.dce-scrape.lock
flock -n 9
ask operator-handoff.sh --config scrape.json
[[ $code == 0 && $out == *"WARN: scrape lock is held"* && $out != *"Safe to run"* ]] || fail "a held lock is told"
exec 9>&-

rm -r archive/demo
ask operator-handoff.sh --config scrape.json
[[ $code == 1 && $out == *"Handoff failed: 1 problem(s)"* && $out == *"Scrape lock status"* ]] || fail "a missing archive is told"
