#!/usr/bin/env bash
# `make cluster`: three nodes as processes on the loopback device, with TLS, and two mounts; says what to try. Started again, it
# goes on where it was. `make cluster STOP=1` ends it. Everything is in one directory, and only processes noted there are ended.
set -euo pipefail
tsfs=$1 dir=$2 stop=${3:-}
base_port=${CLUSTER_PORT:-7100}

alive() { # NAME: whether the process noted under it is there, and is ours
    local pid
    pid=$(cat "$dir/$1.pid" 2>/dev/null) && [ -d "/proc/$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$dir/$1"
}
address() { echo "127.0.0.1:$((base_port + $1))"; }

if [ -n "$stop" ]; then
    for mnt in "$dir"/a "$dir"/b; do
        if findmnt -rn --mountpoint "$mnt" -t fuse.tsfs >/dev/null; then "$tsfs" umount --lazy "$mnt" || true; fi
    done
    for n in 3 2 1; do
        if alive "n$n"; then
            pid=$(cat "$dir/n$n.pid")
            kill "$pid"
            for _ in $(seq 300); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
        fi
        rm -f "$dir/n$n.pid"
    done
    echo "Stopped; $dir keeps what was in it. Remove it, or start again with: make cluster"
    exit 0
fi

start() { # N, and what follows the store on the command line
    local n=$1
    shift
    alive "n$n" && return
    # The noted process is the node itself.
    setsid "$tsfs" node "$dir/n$n" "$@" >>"$dir/n$n.log" 2>&1 &
    echo $! >"$dir/n$n.pid"
    for _ in $(seq 300); do
        "$tsfs" cluster status "$dir/n$n" >/dev/null 2>&1 && return
        alive "n$n" || { tail -3 "$dir/n$n.log" >&2; exit 1; }
        [ -S "$dir/n$n/node.sock" ] && return
        sleep 0.1
    done
    echo "node $n is not ready; see $dir/n$n.log" >&2
    exit 1
}

mkdir -p "$dir" && cd "$dir" && dir=$(pwd -P)
if [ ! -e n1/node.pem ]; then
    "$tsfs" cluster init --create "$dir/n1" --name n1 --address "$(address 1)" --listen "$(address 1)" >/dev/null
fi
start 1
for n in 2 3; do
    if [ -e "n$n/node.pem" ]; then
        start "$n"
    else
        token=$("$tsfs" cluster invite "$dir/n1" 2>/dev/null)
        start "$n" --join "$token" --name "n$n" --address "$(address "$n")" --listen "$(address "$n")"
    fi
done
printf 'waiting until all three decide '
for _ in $(seq 600); do
    "$tsfs" cluster status "$dir/n1" >/dev/null 2>&1 && break
    printf .
    sleep 0.2
done
echo
[ -e me.pem ] || "$tsfs" cluster client me "$dir/n1" --out "$dir/me.pem" >/dev/null
source=$(address 1),$(address 2),$(address 3):/
for mnt in a b; do
    mkdir -p "$mnt"
    findmnt -rn --mountpoint "$dir/$mnt" -t fuse.tsfs >/dev/null ||
        "$tsfs" mount "$source" "$dir/$mnt" -o "cert=$dir/me.pem" >/dev/null
done
"$tsfs" cluster status "$dir/n1" || true
cat <<EOT

Three nodes, and one tree mounted at $dir/a and $dir/b. Try:
  echo hello >$dir/a/note; cat $dir/b/note           # at once, on the other mount
  kill -9 \$(cat $dir/n1.pid); echo still >>$dir/b/note; cat $dir/a/note
  $tsfs cluster status --watch 1 $dir/n2             # who leads now; then start node 1 again: make cluster
  $tsfs clients $dir/n2; $tsfs locks $dir/n2
  $tsfs cluster drain n3 $dir/n2
Stop it with: make cluster STOP=1    Logs: $dir/n1.log …    Another place: make cluster CLUSTER=DIR
EOT
