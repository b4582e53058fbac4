#!/usr/bin/env bash
# `make run`: mounts a store, making it where there is none, and says in five lines what to try.
set -euo pipefail
tsfs=$1 store=$2 mnt=$3
mkdir -p "$mnt"
if ! findmnt -rn --mountpoint "$mnt" -t fuse.tsfs >/dev/null; then
    "$tsfs" mount --create "$store" "$mnt"
fi
cat <<EOT
Mounted at $mnt. To stop: $tsfs umount $mnt
  echo first > $mnt/note; $tsfs mark then $mnt; echo second > $mnt/note; $tsfs log $mnt/note
  cat $mnt/.tsfs/marks/then/note          # as it was then; .tsfs/at/-15m and .tsfs/at/yesterday are any instant
  ls -l $mnt/.tsfs/versions/note          # each version of it; cp, diff and grep work on them
  rm $mnt/note; $tsfs undelete $mnt/note  # nothing is gone until retention says so
  $tsfs --help; $tsfs status $mnt
EOT
