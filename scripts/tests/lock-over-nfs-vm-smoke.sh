#!/usr/bin/env bash
# The scrape lock on NFS, seen from every side: an NFS 4.2 server and two clients, each in its own virtual machine. It
# needs neither KVM nor root. The kernel and a static busybox are downloaded from Debian once; after that it needs no
# network either.
#
#   DCE_SMOKE_CACHE   where to keep them (default: $XDG_CACHE_HOME/dce-smokes or ~/.cache/dce-smokes)
#   DCE_SMOKE_SUITE   the Debian suite to download from (default: trixie, Linux 6.12). A write delegation hides a
#                     client's flock from the server's lock table. Linux 6.12 gives one for a file opened read-write; the kernel
#                     in trixie-backports also for a file opened write-only, as the host runner does.
#   DCE_SMOKE_LOOKS   how many times to look while scrapes start in a loop (default: 2000)
#   DCE_SMOKE_LOOK_SECONDS   and for how many seconds at most (default: 120)
set -euo pipefail

skip() { echo "SKIP: $1"; exit 77; }

suite=${DCE_SMOKE_SUITE:-trixie}
looks=${DCE_SMOKE_LOOKS:-2000}
look_seconds=${DCE_SMOKE_LOOK_SECONDS:-120}
cache=${DCE_SMOKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dce-smokes}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
program=${XTASK_BIN:?is set by cargo xtask smokes}

[[ $(uname -m) == x86_64 ]] || skip "the machines are x86_64, and $program is not"
for tool in qemu-system-x86_64 flock ldd; do
    command -v "$tool" >/dev/null || skip "no $tool (Debian's qemu-system-x86, util-linux, libc-bin)"
done
# The machines are connected through Unix sockets, so that no port can be taken.
[[ $(qemu-system-x86_64 -netdev help 2>/dev/null) == *stream* ]] || skip "qemu-system-x86_64 is older than 7.2"

stage=$(mktemp -d)
declare -A qemu=() to=() from=() monitor_to=() monitor_from=()
clean_up() {
    exec 2>/dev/null # no `Killed` from bash
    kill -KILL "${qemu[@]}" || true
    wait
    rm -rf "$stage" "${fetched:-}"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

### Kernel and busybox, once ###

# Downloads and unpacks. apt gets its own lists and cache: the system's are neither read nor changed.
fetch() {
    local folder=$1 apt=$stage/apt modules kernel packages
    mkdir -p "$apt"/{lists,cache,config,packages}
    local line="deb [signed-by=$keyring] http://deb.debian.org/debian"
    # Backports contain no busybox.
    printf '%s main\n' "$line $suite" "$line ${suite%-backports}" | sort -u >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/config";
Dir::State::lists "$apt/lists";
Dir::State::status "/dev/null";
Dir::Cache "$apt/cache";
APT::Default-Release "$suite";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
APT::Update::Error-Mode "any";
CONF
    export APT_CONFIG=$apt/apt.conf
    apt-get -q update || return 1
    # Newer kernels are split into several packages.
    packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances linux-image-cloud-amd64 | grep -E '^linux-(image|binary|modules)-[0-9]') || return 1
    # shellcheck disable=SC2086 # one word per package
    (cd "$apt/packages" && apt-get -q download busybox-static $packages) || return 1
    mkdir "$apt/root"
    local package
    for package in "$apt"/packages/*.deb; do dpkg-deb -x "$package" "$apt/root" || return 1; done

    # In /boot, or beside the modules.
    cp "$(find "$apt/root" -name 'vmlinuz*' -type f -print -quit)" "$folder/vmlinuz" || return 1
    local busybox
    busybox=$(find "$apt/root" -path '*bin/busybox' -type f -print -quit)
    cp "$busybox" "$folder/busybox" || return 1
    # depmod wants the folder that contains lib/modules: / or /usr, depending on the package.
    modules=$(find "$apt/root" -path '*lib/modules/*' -prune -print -quit)
    kernel=${modules##*/}
    "$busybox" depmod -b "${modules%/lib/modules/*}" "$kernel" || return 1
    echo "$kernel" >"$folder/version"
    local list
    mkdir "$folder/modules"
    for list in "server virtio_net nfsd" "client virtio_net nfsv4"; do
        # shellcheck disable=SC2086
        collect_modules "$modules" "$folder" $list || return 1
    done
}

# collect_modules MODULES FOLDER LIST NAME…: copies modules and their dependencies, and writes their load order to LIST.
collect_modules() {
    local modules=$1 folder=$2 list=$3 name path file needed
    shift 3
    for name; do
        path=$(grep -E "/$name\.ko[^:]*:" "$modules/modules.dep") || { echo "no module $name"; return 1; }
        # For `a: b c` the order is c, b, a.
        needed=
        for file in ${path/:/ }; do needed="$file $needed"; done
        for file in $needed; do
            name=${file##*/}
            name=${name%%.ko*}.ko
            case $file in
                *.xz) "$folder/busybox" xz -dc "$modules/$file" ;;
                *.gz) "$folder/busybox" gzip -dc "$modules/$file" ;;
                *.zst) zstd -qdc "$modules/$file" ;;
                *) cat "$modules/$file" ;;
            esac >"$folder/modules/$name" || return 1
            grep -qsxF "$name" "$folder/$list" || echo "$name" >>"$folder/$list"
        done
    done
}

parts=$cache/$suite
if [[ ! -e $parts/version ]]; then
    for tool in apt-get apt-cache dpkg-deb; do
        command -v "$tool" >/dev/null || skip "no $tool to fetch a kernel with"
    done
    [[ -r $keyring ]] || skip "no $keyring (Debian's and Ubuntu's debian-archive-keyring)"
    mkdir -p "$cache" || skip "cannot make $cache"
    fetched=$(mktemp -d "$cache/.fetch.XXXXXX")
    if ! fetch "$fetched" >"$stage/fetch.log" 2>&1; then
        rm -rf "$fetched"
        why=$(grep -m 1 -E '^(E|W|no)\b' "$stage/fetch.log" || tail -n 1 "$stage/fetch.log")
        skip "cannot fetch a kernel from Debian's $suite: $why"
    fi
    # Atomically: another run may have been faster.
    mv -T "$fetched" "$parts" 2>/dev/null || rm -rf "$fetched"
fi
kernel=$(<"$parts/version")
case $kernel in
    [0-5].* | 6.[0-9].* | 6.1[01].*) skip "Linux $kernel from $suite gives no write delegations" ;;
esac

### One initramfs for all machines ###

root=$stage/root
mkdir -p "$root"/{bin,etc,proc,sys,dev,tmp,root,archive,run,var/lib/nfs/v4recovery,usr}
cp "$parts/busybox" "$root/bin/busybox"
cp -r "$parts/modules" "$parts/server" "$parts/client" "$root/etc/"
# install_program FILE NAME: with its libraries.
install_program() {
    local library
    cp -L "$1" "$root/bin/$2"
    # grep finds nothing for a static program.
    { ldd "$1" 2>/dev/null || true; } | { grep -oE '/[^ )]+' || true; } | while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -Ln "$library" "$root$library"
    done
}
install_program "$program" xtask
install_program "$(command -v flock)" flock

cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root LC_ALL=C TZ=UTC NO_COLOR=1 DCE_REPO_ROOT=/root DCE_MIN_FREE_MB=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
hostname "$machine" # two NFS 4 clients with the same name are one client to the server
ip link set lo up
for module in $(cat "/etc/$role"); do insmod "/etc/modules/$module"; done
# Not as process 1, which gets SIGCHLD for every orphan: ash then fails to open a FIFO with EINTR. When the agent ends,
# process 1 ends, and so does the machine.
setsid sh /agent <>/dev/ttyS1 >&0 2>&1 &
wait
INIT

# Runs in each machine: reads a command per line, answers with its output and `@END status`.
cat >"$root/agent" <<'AGENT'
stty raw -echo

serve() {
    ip addr add 10.0.1.1/24 dev eth0 && ip link set eth0 up &&
    ip addr add 10.0.2.1/24 dev eth1 && ip link set eth1 up &&
    mount -t tmpfs archive /archive &&
    mount -t nfsd nfsd /proc/fs/nfsd || return
    # The kernel asks rpc.mountd which addresses are clients, what is exported to them with which options (here rw,
    # insecure, async, no_subtree_check, fsid=0), and which path has fsid 0. Answers given beforehand spare the daemon.
    # Linux, fs/nfsd/export.c: expkey_parse, svc_export_parse; net/sunrpc/svcauth_unix.c: ip_map_parse.
    forever=$(($(date +%s) + 100000000))
    echo "nfsd 10.0.1.2 $forever clients" >/proc/net/rpc/auth.unix.ip/channel &&
    echo "nfsd 10.0.2.2 $forever clients" >/proc/net/rpc/auth.unix.ip/channel &&
    echo "clients /archive $forever $((0x2 | 0x10 | 0x400 | 0x2000)) 65534 65534 0" >/proc/net/rpc/nfsd.export/channel &&
    echo "clients 1 \\x00000000 $forever /archive" >/proc/net/rpc/nfsd.fh/channel || return
    # What rpc.nfsd does. Version 3 would need rpcbind.
    echo "-2 -3 +4 +4.1 +4.2" >/proc/fs/nfsd/versions
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    echo "tcp 2049" >/proc/fs/nfsd/portlist && echo 4 >/proc/fs/nfsd/threads || return
    # Ends the grace period; refused by kernels without legacy client tracking.
    echo Y >/proc/fs/nfsd/v4_end_grace 2>/dev/null || true
}

outlast_grace() {
    tries=0
    until grep -q Y /proc/fs/nfsd/v4_end_grace; do
        [ "$((tries += 1))" -lt 300 ] && usleep 100000 || return
    done
}

# mount_archive NET
mount_archive() {
    ip addr add "10.0.$1.2/24" dev eth0 && ip link set eth0 up &&
    mount -t nfs4 -o "vers=4.2,addr=10.0.$1.1,clientaddr=10.0.$1.2" "10.0.$1.1:/" /archive
}

lock_of() { echo "/archive/$1/.dce-scrape.lock"; }

config_of() {
    [ -e "/tmp/$1.json" ] || printf '{ "archive_root": "/archive/%s" }\n' "$1" >"/tmp/$1.json"
    echo "/tmp/$1.json"
}

# look CASE [TIMEOUT_SECONDS]
look() { timeout -s KILL "${2:-60}" xtask lock-status --config "$(config_of "$1")"; }

# run CASE COMMAND…: runs it under the lock.
run() {
    config=$(config_of "$1")
    shift
    xtask lock-run --config "$config" -- "$@"
}

# table CASE: the lines of the lock file in /proc/locks.
table() { grep ":$(stat -c %i "$(lock_of "$1")") " /proc/locks; }

hold_on() {
    echo READY >/tmp/ready
    exec cat /tmp/lifeline
}

# hold CASE append|readwrite|lock-run: takes the lock and keeps it until `release`.
hold() {
    answer=''
    rm -f /tmp/ready /tmp/lifeline
    mkfifo /tmp/ready /tmp/lifeline
    case $2 in
        append) (exec 9>>"$(lock_of "$1")"; flock -n 9 && hold_on; echo REFUSED >/tmp/ready) & ;;
        readwrite) (exec 9<>"$(lock_of "$1")"; flock -n 9 && hold_on; echo REFUSED >/tmp/ready) & ;;
        lock-run) (run "$1" sh -c 'echo READY >/tmp/ready; exec cat /tmp/lifeline' || echo REFUSED >/tmp/ready) & ;;
    esac
    holder=$!
    read -r answer </tmp/ready
    [ "$answer" = READY ]
}

release() {
    : >/tmp/lifeline
    wait "$holder"
}

# start_scrapes CASE: takes and releases the lock in a loop until /tmp/stop exists, as the host runner does it and as
# `flock FILE COMMAND` does it by turns. Returns after the first time, when the lock file exists.
start_scrapes() {
    rm -f /tmp/stop /tmp/started
    mkfifo /tmp/started
    (
        lock=$(lock_of "$1") started=0 refused=0
        count() { if "$@"; then started=$((started + 1)); else refused=$((refused + 1)); fi; }
        as_host_runner() { flock -n 9 9>>"$lock"; }
        count as_host_runner
        : >/tmp/started
        while [ ! -e /tmp/stop ]; do
            count as_host_runner
            count flock -n "$lock" true
        done
        echo "$((started + refused)) starts, $refused refused" >/tmp/starts
        [ "$refused" = 0 ]
    ) &
    starter=$!
    cat /tmp/started
}

stop_scrapes() {
    : >/tmp/stop
    wait "$starter"
    code=$?
    cat /tmp/starts
    return "$code"
}

# look_often CASE N SECONDS: looks N times, or as often as the time allows; succeeds if every answer is free or held.
look_often() {
    config=$(config_of "$1") free=0 held=0 other=0 i=0
    read -r now _ </proc/uptime
    end=$((${now%.*} + $3))
    while [ "$i" -lt "$2" ] && [ "${now%.*}" -lt "$end" ]; do
        xtask lock-status --config "$config" >/tmp/look 2>&1
        case $? in
            0) free=$((free + 1)) ;;
            1) held=$((held + 1)) ;;
            *) other=$((other + 1)); cp /tmp/look /tmp/other ;;
        esac
        i=$((i + 1))
        read -r now _ </proc/uptime # unlike `date`, without a process
    done
    echo "$i looks: $free free, $held held, $other other"
    [ "$other" = 0 ] || { cat /tmp/other; return 1; }
}

echo
echo "@END 0"
while read -r line; do
    eval "$line" >/tmp/out 2>&1 </dev/null
    status=$?
    cat /tmp/out
    echo "@END $status"
done
AGENT
chmod +x "$root/init"
(cd "$root" && find . | "$parts/busybox" cpio -o -H newc 2>/dev/null) >"$stage/initramfs"
rm -rf "$root"

### The machines ###

# boot NAME ROLE QEMU-OPTION…
#
# Never with KVM: in some cloud machines /dev/kvm exists but does not work. `norandmaps` lets the emulator reuse the code
# it translated for an earlier run of the same program: a process then starts in a third of the time.
boot() {
    local name=$1 role=$2 fd
    shift 2
    mkfifo "$stage/$name".{in,out} "$stage/$name-monitor".{in,out}
    qemu-system-x86_64 -name "$name" -accel tcg -m 384 -nodefaults -display none -no-reboot \
        -kernel "$parts/vmlinuz" -initrd "$stage/initramfs" \
        -append "console=ttyS0 loglevel=4 panic=-1 norandmaps machine=$name role=$role" \
        -serial "file:$stage/$name.console" -chardev "pipe,id=agent,path=$stage/$name" -serial chardev:agent \
        -chardev "pipe,id=monitor,path=$stage/$name-monitor" -mon chardev=monitor,mode=control \
        "$@" </dev/null >"$stage/$name.qemu" 2>&1 &
    qemu[$name]=$!
    exec {fd}<>"$stage/$name.in" && to[$name]=$fd
    exec {fd}<>"$stage/$name.out" && from[$name]=$fd
    exec {fd}<>"$stage/$name-monitor.in" && monitor_to[$name]=$fd
    exec {fd}<>"$stage/$name-monitor.out" && monitor_from[$name]=$fd
}

# answer NAME [SECONDS]: waits for the command to end and sets $out and $code; without an answer, $code is `none`.
answer() {
    local part='' line='' end=$((SECONDS + ${2:-90}))
    out='' code=none
    while ((SECONDS < end)) && kill -0 "${qemu[$1]}" 2>/dev/null; do
        # On a timeout, read has kept the beginning of a line.
        if ! IFS= read -r -t 1 -u "${from[$1]}" part; then line+=$part; continue; fi
        line+=$part
        # Output without a final newline precedes the mark on its line.
        [[ -z ${line%@END *} ]] || out+="  ${line%@END *}"$'\n'
        if [[ $line == *"@END "* ]]; then code=${line##*@END }; return; fi
        line=''
    done
}

ask() { printf '%s\n' "$2" >&"${to[$1]}"; }

tell() { ask "$1" "$2"; answer "$1" "${3:-90}"; }

# monitor NAME COMMAND EVENT: sends QEMU a command and waits for the event.
monitor() {
    local line
    printf '%s\n' '{"execute":"qmp_capabilities"}' "{\"execute\":\"$2\"}" >&"${monitor_to[$1]}"
    while IFS= read -r -t 10 -u "${monitor_from[$1]}" line; do
        [[ $line != *"\"event\": \"$3\""* ]] || return 0
    done
    echo "ERROR: QEMU does not $2 $1"
    exit 1
}

failed=0
# verdict CHECK CODES [TEXT]: passes if $code is one of CODES and $out contains TEXT.
verdict() {
    if [[ " $2 " == *" $code "* && $out == *"${3:-}"* ]]; then
        printf 'ok: %s\n' "$1"
    else
        printf 'ERROR: %s: exit code %s, expected %s%s\n%s' "$1" "$code" "${2// / or }" "${3:+ and \"$3\"}" "$out"
        failed=$((failed + 1))
    fi
}

# must WHAT: gives up if the last command, part of the set-up, failed.
must() {
    [[ $code == 0 ]] && return
    printf 'ERROR: %s: exit code %s\n%s' "$1" "$code" "$out"
    tail -n 20 "$stage"/*.console "$stage"/*.qemu
    exit 1
}

cable() { echo "stream,id=$1,server=$2,addr.type=unix,addr.path=$stage/cable-$1"; }
boot server server \
    -netdev "$(cable a on)" -device virtio-net-pci,netdev=a,mac=52:54:00:00:01:01,romfile= \
    -netdev "$(cable b on)" -device virtio-net-pci,netdev=b,mac=52:54:00:00:02:01,romfile=
# Once the server answers, its ends of the cables exist.
answer server
must "the server boots"
boot a client -netdev "$(cable a off)" -device virtio-net-pci,netdev=a,mac=52:54:00:00:01:02,romfile=
boot b client -netdev "$(cable b off)" -device virtio-net-pci,netdev=b,mac=52:54:00:00:02:02,romfile=
tell server serve; must "the server serves"
answer a; must "client a boots"
answer b; must "client b boots"
tell a "mount_archive 1"; must "client a mounts the archive"
tell b "mount_archive 2"; must "client b mounts the archive"
tell server outlast_grace; must "the server's grace period ends"
echo "Linux $kernel: an NFS 4.2 server and clients a and b are ready after $SECONDS s"

### The checks ###

held="state: held (active scrape)"
free="state: free"
unknown="state: unknown"

n=0
# A new archive for each check: a server gives no delegation for a file it has just recalled one for, and clients cache.
fresh() {
    n=$((n + 1))
    tell server "mkdir /archive/$n"; must "a new archive"
}

take() { tell a "hold $n $1"; must "client a takes the lock ($1)"; }
let_go() { tell a release; must "client a releases the lock"; }

# Sets $table to the lock file's lines in the server's /proc/locks.
table() {
    tell server "table $n"
    table=$(sed -E 's/^ *[0-9]+: *//; s/ +/ /g' <<<"${out%$'\n'}" | paste -sd ';')
    table=${table:-nothing}
    code=0
}

declare -A where=([server]="on the server" [a]="on client a" [b]="on client b")

# asked MACHINE CHECK CODES [LINE]
asked() {
    tell "$1" "look $n"
    verdict "$2, asked ${where[$1]}" "$3" "${4:-}"
}

for machine in server a b; do
    fresh
    asked $machine "free: no lock file" 0 "$free"
done

for how in append readwrite lock-run; do
    case $how in
        append) by="client a as the host runner does (exec 9>>)" ;;
        readwrite) by="client a through a descriptor for reading and writing (exec 9<>)" ;;
        lock-run) by="lock-run on client a" ;;
    esac
    for machine in a b; do
        fresh
        take $how
        asked $machine "held: by $by" 1 "$held"
        let_go
        asked $machine "free: released by $by" 0 "$free"
    done

    # The server is asked first: a look from client b recalls the delegation, and the lock shows up at the server.
    fresh
    take $how
    table
    # Linux 6.12 gives none for a file that is opened write-only.
    [[ $how == append ]] || verdict "the server gave client a a write delegation" 0 "DELEG  ACTIVE    WRITE"
    asked server "never free: held by $by, in the server's table as $table" "1 2"
    let_go
    asked server "free: released by $by" 0 "$free"

    fresh
    take $how
    let_go
    table
    asked server "free: released by $by before anyone looked, in the server's table as $table" 0 "$free"
done

for machine in server b; do
    fresh
    take readwrite
    tell $machine "run $n echo A SECOND SCRAPE"
    verdict "refused: lock-run while client a holds the lock, ${where[$machine]}" "1 2" "ERROR: "
    let_go
    tell $machine "run $n echo A SCRAPE"
    verdict "let in: lock-run after client a released the lock, ${where[$machine]}" 0 "A SCRAPE"
done

# NFS clients cache that a file does not exist: Linux 6.12 for 30 s, Linux 7.3 until the folder is listed.
fresh
tell b "look $n"; must "client b looks"
take append
asked b "held: by client a, with a lock file that was not there when client b looked before" 1 "$held"
let_go

fresh
take append
let_go
tell b "look $n"; must "client b looks"
tell a "rm \$(lock_of $n)"; must "client a deletes the lock file"
take append
asked b "never free: held by client a, with a lock file made anew after client b looked before" "1 2"
let_go

# beside MACHINE LOOKS
beside() {
    local counts
    fresh
    tell a "start_scrapes $n"; must "client a starts scrapes"
    tell "$1" "look_often $n $2 $look_seconds" $((look_seconds + 60))
    counts=$(grep -o '[0-9]* looks: .*' <<<"$out") || counts="no answer"
    [[ $counts == "$2 looks"* ]] || echo "note: $look_seconds s were not enough for $2 looks"
    verdict "every look beside a loop of starts gets an answer, asked ${where[$1]} ($counts)" 0
    tell a stop_scrapes
    counts="${counts%%:*}, $(grep -o '[0-9]* starts, .*' <<<"$out")" || counts+="no answer"
    verdict "no start on client a is refused beside looks ${where[$1]} ($counts)" 0
}
beside b "$looks"
beside server $((looks / 10))

# The server is cut off, and comes back.
fresh
take readwrite
asked b "held: by client a, before the server is cut off" 1 "$held"
monitor server stop STOP
ask b "look $n 15"
ask a "look $n 15"
answer b
verdict "unknown within 15 s: the server is cut off, asked on client b" 2 "$unknown"
answer a
# The holder's own lock table may have said so before.
verdict "never free within 15 s: the server is cut off, asked on client a, which holds the lock" "1 2"
monitor server cont RESUME
asked b "held: the server is back" 1 "$held"
let_go

if ((failed > 0)); then
    echo "ERROR: $failed check(s) failed, after $SECONDS s"
    exit 1
fi
echo "All checks passed, after $SECONDS s."
