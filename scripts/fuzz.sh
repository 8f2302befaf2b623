#!/usr/bin/env bash
# Fuzzes one target for some time: scripts/fuzz.sh TARGET SECONDS. Targets: decode_v3, decode_v5, session.
# Starts from the corpus that is kept in fuzz/corpus/TARGET, and from what earlier runs on this machine found. A crash
# leaves its input in fuzz/artifacts/TARGET and ends with an error; then the input belongs into the corpus, with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?usage: scripts/fuzz.sh TARGET SECONDS}
seconds=${2:?usage: scripts/fuzz.sh TARGET SECONDS}
cache=${CARILLON_CACHE:-$HOME/.cache/carillon}

# What `cargo fuzz` does for a build without sanitizer, which a stable compiler can do: our code has no `unsafe`, so a
# sanitizer would find nothing that assertions do not.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
export CARGO_TARGET_DIR=$cache/fuzz-target
# With an explicit target, build scripts and macros are not instrumented.
host=$(rustc -vV | awk '/^host:/ { print $2 }')
cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$host" --bin "$target"

found=$cache/fuzz-corpus/$target
mkdir -p "$found" "fuzz/corpus/$target" "fuzz/artifacts/$target"
exec "$CARGO_TARGET_DIR/$host/release/$target" "$found" "fuzz/corpus/$target" \
  -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
  -max_len=4096 -print_final_stats=1 -verbosity="${FUZZ_VERBOSITY:-1}"
