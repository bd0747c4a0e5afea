#!/usr/bin/env bash
# The scrape lock across containers: held on the host is seen held inside, held inside is seen held on the host and in
# another container, and free is free both ways. It needs no registry and no network: the image is made of this
# machine's sh, cat and flock with their libraries.
#
#   DCE_SMOKE_IMAGE   an image to use instead, with sh, cat, flock and this machine's C library or a newer one
set -euo pipefail

skip() { echo "SKIP: $1"; exit 77; }

program=${XTASK_BIN:?is set by cargo xtask smokes}
for tool in flock ldd tar; do
    command -v "$tool" >/dev/null || skip "no $tool"
done

stage=$(mktemp -d)
tag=dce-lock-smoke-$$
engine=() options=() image=
remove_image() {
    if [[ $image == "$tag" ]]; then "${engine[@]}" rmi -f "$tag" >/dev/null 2>&1 || true; fi
}

# hold WHERE: takes the lock `inside` or on the host (`env`) and keeps it until `release`.
holder='' lifeline=''
hold() {
    local answer=
    # Not in this shell: the engine and its helpers would inherit the descriptor.
    # shellcheck disable=SC2016
    coproc HOLDER { "$1" sh -c 'exec 9>>"$1"; flock -n 9 && echo READY && exec cat' sh "$lock" 2>&1; }
    holder=$HOLDER_PID lifeline=${HOLDER[1]}
    read -r -t 60 answer <&"${HOLDER[0]}" || true
    [[ $answer == READY ]] || { echo "ERROR: cannot take the lock ($1): $answer"; exit 1; }
}

release() {
    [[ -n $holder ]] || return 0
    exec {lifeline}>&-
    wait "$holder" || true
    holder=
}

clean_up() {
    release
    remove_image
    # podman's helpers outlive the containers for a moment. One that nobody has waited for has no program any more.
    local pidfile
    for pidfile in "$stage"/conmon.*; do
        [[ ! -s $pidfile ]] ||
            timeout 20 bash -c 'while [[ -e /proc/$1/exe ]]; do sleep 0.02; done' bash "$(<"$pidfile")" || true
    done
    rm -rf "$stage"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

### An engine that works, and the image ###

make_image() {
    local file library
    mkdir -p "$stage"/image/{bin,dev,etc,proc,sys,tmp}
    for file in sh cat flock; do cp -L "$(command -v "$file")" "$stage/image/bin/$file"; done
    for file in sh cat flock "$program"; do
        # grep finds nothing for a static program.
        { ldd "$(command -v "$file")" 2>/dev/null || true; } | grep -oE '/[^ )]+' || true
    done | sort -u | while read -r library; do
        mkdir -p "$stage/image${library%/*}"
        cp -L "$library" "$stage/image$library"
    done
    tar -C "$stage/image" --owner=0 --group=0 --numeric-owner -c . >"$stage/image.tar"
}

# crun refuses to run where cgroup2 is mounted beside version 1: podman gets a mount namespace without it.
# shellcheck disable=SC2016
without_cgroup2=(unshare --mount sh -c '
    while read -r _ folder type _; do
        if [ "$type" = cgroup2 ]; then umount -l "$folder"; fi
    done </proc/self/mounts
    exec podman "$@"' podman)

# try ENGINE… -- OPTION…: sets $engine, $options and $image; fails unless a container runs with them.
try() {
    engine=() options=(--rm --interactive --network none --security-opt label=disable)
    while [[ $1 != -- ]]; do engine+=("$1"); shift; done
    shift
    options+=("$@" --volume "$stage/shared:$stage/shared")
    command -v "${engine[0]}" >/dev/null && "${engine[@]}" info >/dev/null 2>&1 || return
    if [[ -n ${DCE_SMOKE_IMAGE:-} ]]; then
        image=$DCE_SMOKE_IMAGE
        "${engine[@]}" image inspect "$image" >/dev/null 2>&1 || "${engine[@]}" pull -q "$image" || return
    else
        image=$tag
        [[ -e $stage/image.tar ]] || make_image
        "${engine[@]}" import - "$image" <"$stage/image.tar" || return
    fi
    inside sh -c : </dev/null || { remove_image; return 1; }
}

# inside COMMAND…: runs it in a new container.
inside() {
    local pidfile=()
    # The `docker` command may be podman.
    if [[ $("${engine[@]}" --version) == podman* ]]; then
        pidfile=(--conmon-pidfile "$(mktemp "$stage/conmon.XXXXXX")")
    fi
    "${engine[@]}" run "${options[@]}" "${pidfile[@]}" "$image" "$@"
}

mkdir -p "$stage/shared/archive"
{
    try docker -- || try podman -- ||
        # For root without CAP_SYS_RESOURCE and without usable cgroups, as in some sandboxes.
        try "${without_cgroup2[@]}" -- --cgroups=disabled --ulimit nofile=1024:1024 --ulimit nproc=4096:4096
} >"$stage/engine.log" 2>&1 || {
    why=$(tr -cd '[:print:]\n' <"$stage/engine.log" | grep . | tail -n 1) || why="no docker, no podman"
    skip "no container engine that works: $why"
}

### The checks ###

cp -L "$program" "$stage/shared/xtask"
config=$stage/shared/scrape.json
printf '{ "archive_root": "%s" }\n' "$stage/shared/archive" >"$config"
lock=$stage/shared/archive/.dce-scrape.lock

failed=0
# check NAME CODE TEXT WHERE ARGUMENT…: runs the program `inside` or on the host (`env`).
check() {
    local name=$1 expected=$2 line=$3 where=$4 code=0 out
    shift 4
    out=$("$where" "$stage/shared/xtask" "$@" </dev/null 2>&1) || code=$?
    if [[ $code == "$expected" && $out == *"$line"* ]]; then
        printf 'ok: %s\n' "$name"
    else
        printf 'ERROR: %s: exit code %s, expected %s and "%s"\n%s\n' "$name" "$code" "$expected" "$line" "$out"
        failed=$((failed + 1))
    fi
}

look=(lock-status --config "$config")
run=(lock-run --config "$config" -- sh -c "echo A SCRAPE")
held="state: held (active scrape)"
free="state: free"
refused="ERROR: Another scrape is already running"

check "no lock file is free on the host" 0 "$free" env "${look[@]}"
check "no lock file is free inside" 0 "$free" inside "${look[@]}"

hold env
check "held on the host is held on the host" 1 "$held" env "${look[@]}"
check "held on the host is held inside" 1 "$held" inside "${look[@]}"
check "held on the host: lock-run inside is refused" 1 "$refused" inside "${run[@]}"
release
check "released on the host is free on the host" 0 "$free" env "${look[@]}"
check "released on the host is free inside" 0 "$free" inside "${look[@]}"

hold inside
check "held inside is held on the host" 1 "$held" env "${look[@]}"
check "held inside is held in another container" 1 "$held" inside "${look[@]}"
check "held inside: lock-run on the host is refused" 1 "$refused" env "${run[@]}"
release
check "released inside is free on the host" 0 "$free" env "${look[@]}"
check "released inside is free inside" 0 "$free" inside "${look[@]}"
check "released inside: lock-run inside runs" 0 "A SCRAPE" inside "${run[@]}"

if ((failed > 0)); then
    echo "ERROR: $failed check(s) failed (${engine[-1]})"
    exit 1
fi
echo "All checks passed."
