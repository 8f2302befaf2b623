# shellcheck shell=sh
# Sourced before cargo: `. scripts/env.sh`. Where builds go, and the RocksDB that is linked instead of compiled.
# Works in bash and in plain sh. Prints nothing; sets nothing that is already set.

carillon_cache=${CARILLON_CACHE:-$HOME/.cache/carillon}

# One target directory for every checkout, so that a new one does not build the dependencies again.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$carillon_cache/target}"

# Without the kept library nothing is set, and cargo compiles RocksDB itself: slower, same result.
if [ -z "${ROCKSDB_LIB_DIR:-}" ] && [ -f Cargo.lock ]; then
  carillon_rocksdb=$carillon_cache/rocksdb-$(awk '/^name = "rocksdb"$/ { getline; gsub(/"/, "", $3); print $3; exit }' Cargo.lock)
  if [ -f "$carillon_rocksdb/librocksdb.a" ]; then
    export ROCKSDB_LIB_DIR="$carillon_rocksdb" ROCKSDB_STATIC=1
  fi
  unset carillon_rocksdb
fi
unset carillon_cache
