#!/usr/bin/env bash
# `make demo`: plays the transcript of README.md on a real mount, and prints what it does and what comes back.
set -euo pipefail
tsfs=$1
scratch=$(mktemp -d)
mnt=$scratch/mnt
mkdir "$mnt"
PATH=$(dirname "$tsfs"):$PATH
cleanup() {
    cd /
    tsfs umount "$mnt" 2>/dev/null || umount -l "$mnt" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT
step() { # a line of shell, shown and run
    printf '\n$ %s\n' "$1"
    eval "$1"
}

tsfs mount --create "$scratch/store" "$mnt" >/dev/null
cd "$mnt"
mkdir src
for n in 1 2 3; do printf 'line %s\n' 1 2 3 4 5 >"src/file$n.txt"; done

step 'echo "the plan" >plan.txt; tsfs mark monday'
step 'echo "a better plan" >plan.txt; sed -i s/3/three/ src/file2.txt; rm src/file3.txt'
step 'cat .tsfs/marks/monday/plan.txt'
step 'tsfs log plan.txt'
step 'tsfs diff . --from mark:monday'
step 'tsfs diff src/file2.txt --from mark:monday'
step 'ls src/.tsfs/deleted; tsfs undelete src/file3.txt'
step 'tsfs restore . --at mark:monday; cat plan.txt'
step 'tsfs log plan.txt    # restoring is a version too: it can be undone'
step 'tsfs status .'
