#!/usr/bin/env bash
# The directions of dependencies (docs/ARCHITECTURE.md), read from Cargo's own metadata:
#   node -> raft-store -> fabric-core -> cluster-proto; openraft and RocksDB in raft-store only; no runtime, socket or
#   TLS below raft-store; chaos-tests sees cluster-proto only and starts the product as processes; conformance-tests uses
#   its processes.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

broken=0
complain() { printf 'layers: %s\n' "$*" >&2; broken=1; }

metadata=$(cargo metadata --format-version 1 --no-deps --locked)

# Direct dependencies (not the ones of tests) of workspace member $1.
direct() { jq -r --arg p "$1" '.packages[] | select(.name == $p) | .dependencies[] | select(.kind == null) | .name' <<<"$metadata"; }

# only PACKAGE HOLDER...: nobody but the holders may name PACKAGE.
only() {
  local package=$1 member; shift
  while read -r member; do
    case " $* " in *" $member "*) ;; *) complain "$member depends on $package; only: $*" ;; esac
  done < <(jq -r --arg d "$package" '.packages[] | select(any(.dependencies[]; .name == $d)) | .name' <<<"$metadata")
}

# ours MEMBER ALLOWED...: of this workspace's crates, MEMBER may depend on these.
ours() {
  local member=$1 dependency; shift
  while read -r dependency; do
    case " $* " in *" $dependency "*) ;; *) complain "$member depends on $dependency; of ours it may see: ${*:-none}" ;; esac
  done < <(direct "$member" | grep -Fxf <(jq -r '.packages[].name' <<<"$metadata") || true)
}

# free MEMBER PACKAGE...: nothing of these anywhere below MEMBER.
free() {
  local member=$1 package tree; shift
  tree=$(cargo tree --locked -p "$member" -e normal --prefix none --format '{p}' | awk '{ print $1 }' | sort -u)
  for package in "$@"; do
    if grep -qx "$package" <<<"$tree"; then complain "$package is in the tree of $member"; fi
  done
}

only openraft raft-store
only rocksdb  raft-store
ours cluster-proto
ours fabric-core cluster-proto
ours raft-store  fabric-core cluster-proto
ours carillon    raft-store fabric-core cluster-proto
ours chaos-tests cluster-proto
ours conformance-tests chaos-tests
free fabric-core tokio quinn tonic rustls socket2 rand openraft rocksdb
free raft-store  quinn tonic rustls rumqttd

[ "$broken" -eq 0 ] || exit 1
echo "layers: as they should be"
