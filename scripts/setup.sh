#!/usr/bin/env bash
# Prepares a machine to build and try Carillon: system packages, and RocksDB compiled once for all later builds.
# Safe to run again: when nothing is missing it says so and ends in well under a second.
#
#   scripts/setup.sh [--quiet] [--interop]
#
# --quiet: no word when there is nothing to do. --interop: also MQTT clients of other vendors, for interoperability tests.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${CARILLON_CACHE:-$HOME/.cache/carillon}
quiet=false interop=false
for argument in "$@"; do
  case $argument in
    --quiet) quiet=true ;;
    --interop) interop=true ;;
    *) printf 'setup: unknown option %s (there are --quiet and --interop)\n' "$argument" >&2; exit 2 ;;
  esac
done

say()  { printf '%s\n' "setup: $*"; }
fail() { printf '%s\n' "setup: $*" >&2; exit 1; }

# ---- system packages ---------------------------------------------------------------------------------------------

# bindgen loads libclang when RocksDB's bindings are generated. Its C++ library, libclang-cpp.so, is another one, and
# is there on machines that have LLVM's run-time packages alone.
have_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  local pattern
  for pattern in 'libclang.so*' 'libclang-[0-9]*.so*'; do
    compgen -G "/usr/lib/llvm-*/lib/$pattern" >/dev/null && return 0
    compgen -G "/usr/lib*/$pattern" >/dev/null && return 0
    compgen -G "/usr/lib/*-linux-gnu/$pattern" >/dev/null && return 0
  done
  return 1
}

missing_packages() {
  command -v g++           >/dev/null || echo g++
  have_libclang                       || echo libclang-dev
  command -v mosquitto_sub >/dev/null || echo mosquitto-clients
  command -v curl          >/dev/null || echo curl
  command -v jq            >/dev/null || echo jq
}

install_packages() {
  local packages=("$@") as_root=()
  command -v apt-get >/dev/null \
    || fail "these are missing and there is no apt-get here to install them: ${packages[*]} (names as in Debian 12)"
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || fail "these are missing: ${packages[*]}. Not root, and no sudo without password: please run
         apt-get install ${packages[*]}"
    as_root=(sudo -n)
  fi
  say "installing ${packages[*]}"
  "${as_root[@]}" apt-get update -qq \
    || fail "apt-get update failed: is there a network? Wanted: ${packages[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null \
    || fail "apt-get install failed for: ${packages[*]}"
}

# ---- RocksDB -----------------------------------------------------------------------------------------------------

# The version of a package in Cargo.lock.
locked() { awk -v name="\"$1\"" '$1 == "name" && $3 == name { getline; gsub(/"/, "", $3); print $3; exit }' Cargo.lock; }

# A crate that depends on nothing but exactly our RocksDB: its build leaves the library.
write_crate() {
  local dir=$1
  mkdir -p "$dir/src"
  cat > "$dir/Cargo.toml" <<TOML
[package]
name = "rocksdb-library"
version = "0.0.0"
edition = "2021"

[dependencies]
librocksdb-sys = { version = "=$(locked librocksdb-sys)", default-features = false, features = ["lz4", "static", "bindgen-runtime"] }

[workspace]
TOML
  : > "$dir/src/lib.rs"
}

# Says every 30 seconds how far the compilation of $1 (a build directory) has come, until killed.
report_progress() {
  local dir=$1 start=$SECONDS done_files=0 all=0
  while sleep 30; do
    done_files=$(find "$dir" -path '*librocksdb-sys-*/out/*' -name '*.o' 2>/dev/null | wc -l)
    [ "$all" -gt 0 ] || all=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path "*librocksdb-sys-$(locked librocksdb-sys)/rocksdb_lib_sources.txt" -exec cat {} + 2>/dev/null | grep -c '\.cc' || true)
    say "RocksDB: $done_files of about $all files after $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s"
  done
}

build_rocksdb() {
  local dir=$1 work=$cache/build-rocksdb-$2 reporter library
  say "compiling RocksDB $(locked librocksdb-sys | sed 's/.*+//'), once on this machine: about 17 minutes on two cores."
  say "it is kept in $dir; every later build links it."
  write_crate "$work"
  report_progress "$work/target" 9>&- & reporter=$!
  # shellcheck disable=SC2064 # the process id is wanted as it is now
  trap "kill $reporter 2>/dev/null || true" EXIT
  if ! env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC -u CARGO_TARGET_DIR \
      cargo build --quiet --release --manifest-path "$work/Cargo.toml" --target-dir "$work/target"; then
    fail "RocksDB did not compile: the reason stands above. A crate that could not be fetched needs a network, once;
         'Unable to find libclang' needs libclang-dev, or LIBCLANG_PATH set to where libclang.so lies."
  fi
  kill "$reporter" 2>/dev/null || true
  trap - EXIT
  library=$(find "$work/target/release/build" -path '*librocksdb-sys-*/out/librocksdb.a' -print -quit)
  [ -n "$library" ] || fail "the build of librocksdb-sys left no librocksdb.a under $work/target"
  keep_library "$library" "$dir"
  rm -rf "$work"
  say "RocksDB is ready in $dir"
}

# Copies under another name first: a half-written library is never taken for a whole one.
keep_library() {
  mkdir -p "$2"
  cp "$1" "$2/.librocksdb.a.partial"
  mv -f "$2/.librocksdb.a.partial" "$2/librocksdb.a"
}

ensure_rocksdb() {
  local version dir
  version=$(locked rocksdb)
  [ -n "$version" ] || fail "Cargo.lock names no rocksdb: run this inside a checkout of Carillon"
  dir=$cache/rocksdb-$version
  [ -f "$dir/librocksdb.a" ] && return 0
  mkdir -p "$cache"
  # One build at a time; who waited finds it done.
  exec 9>"$cache/rocksdb.lock"
  flock -n 9 || { say "another setup is compiling RocksDB: waiting for it"; flock 9; }
  [ -f "$dir/librocksdb.a" ] || build_rocksdb "$dir" "$version"
  exec 9>&-
}

# ---- clients of other vendors ------------------------------------------------------------------------------------

# One line each, and exactly these: what a run shows must not depend on the day of the installation.
python_clients=(paho-mqtt==2.1.0 gmqtt==0.7.0)
node_clients=(mqtt@5.14.1)

# have_stamp FILE WANTED: whether FILE says that exactly WANTED was installed; the stamp is written last.
have_stamp() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

install_python_clients() {
  local dir=$1
  have_stamp "$dir/.installed" "${python_clients[*]}" && return
  command -v python3 >/dev/null || fail "--interop needs python3 (with its venv module)"
  say "installing ${python_clients[*]} into $dir"
  rm -rf "$dir"
  python3 -m venv "$dir" || fail "python3 cannot make a venv in $dir: on Debian, install python3-venv"
  "$dir/bin/pip" install --quiet --disable-pip-version-check "${python_clients[@]}" \
    || fail "pip could not install ${python_clients[*]}: is there a network?"
  printf '%s' "${python_clients[*]}" > "$dir/.installed"
}

install_node_clients() {
  local dir=$1
  have_stamp "$dir/.installed" "${node_clients[*]}" && return
  command -v node >/dev/null && command -v npm >/dev/null || fail "--interop needs node and npm (Node.js 18 or newer)"
  say "installing ${node_clients[*]} into $dir"
  rm -rf "$dir"
  mkdir -p "$dir"
  npm install --prefix "$dir" --silent --no-audit --no-fund --no-update-notifier "${node_clients[@]}" \
    || fail "npm could not install ${node_clients[*]}: is there a network?"
  printf '%s' "${node_clients[*]}" > "$dir/.installed"
}

ensure_interop() {
  mkdir -p "$cache/interop"
  exec 9>"$cache/interop.lock"
  flock 9
  install_python_clients "$cache/interop/venv"
  install_node_clients "$cache/interop/node"
  exec 9>&-
}

# ---- main --------------------------------------------------------------------------------------------------------

[ "$(uname -s)" = Linux ] || fail "Carillon is built and tried on Linux only; this is $(uname -s)"
command -v cargo >/dev/null || fail "no cargo: install a Rust toolchain (1.95 or newer) first, see https://rustup.rs"

mapfile -t wanted < <(missing_packages)
if [ "${#wanted[@]}" -gt 0 ]; then install_packages "${wanted[@]}"; fi
mapfile -t wanted < <(missing_packages)
[ "${#wanted[@]}" -eq 0 ] || fail "still missing after the installation: ${wanted[*]}"
ensure_rocksdb
if $interop; then ensure_interop; fi
$quiet || say "everything is there (packages; RocksDB $(locked rocksdb) in $cache)"
