#!/usr/bin/env bash
# The commands of docs/guide.md work as printed: every fenced `sh` block, in order, in one shell, in an empty directory,
# with carillon from CARGO_TARGET_DIR (debug, or PROFILE=release) first in the path. The first command that fails ends
# it with its line in the guide. Where the kernel allows, all of it runs in a network of its own, so that the ports of
# the guide are free; otherwise they must be.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh
guide=$PWD/docs/guide.md
limit_s=${LIMIT_S:-180}

carillon=$CARGO_TARGET_DIR/${PROFILE:-debug}/carillon
[ -x "$carillon" ] || { echo "guide: there is no $carillon: cargo build -p carillon" >&2; exit 1; }
for needed in curl jq mosquitto_sub mosquitto_pub; do
  command -v "$needed" >/dev/null || { echo "guide: $needed is not installed" >&2; exit 1; }
done

work=$(mktemp -d "${TMPDIR:-/tmp}/carillon-guide.XXXXXX")
mkdir "$work/bin" "$work/run"
ln -s "$carillon" "$work/bin/carillon"

# The blocks, each command with the line it is printed on (for the error), and what ends with the shell.
{
  echo 'set -Eeuo pipefail'
  echo 'trap '\''kill $(jobs -p) 2>/dev/null || true'\'' EXIT'
  echo 'trap '\''printf "guide: line %s failed: %s\n" "$line" "$BASH_COMMAND" >&2'\'' ERR'
  awk '
    /^```sh$/ { inside = 1; printf "line=%d\necho \"--- line %d\"\n", NR + 1, NR + 1; next }
    /^```/    { inside = 0; next }
    inside    { print }
  ' "$guide"
} >"$work/guide.sh"

run=(env "PATH=$work/bin:$PATH" bash "$work/guide.sh")
if unshare --user --map-root-user --net --pid --fork --kill-child sh -c 'ip link set lo up' 2>/dev/null; then
  run=(unshare --user --map-root-user --net --pid --fork --kill-child sh -c 'ip link set lo up && exec "$@"' sh "${run[@]}")
fi
# A shell without the settings of whoever runs this.
cd "$work/run"
if env -u CARILLON_API -u CARILLON_TOKEN -u CARILLON_APP -u CARILLON_CA timeout "$limit_s" "${run[@]}"; then
  rm -rf "$work"
  echo "guide: every command works as printed"
else
  echo "guide: failed; everything is kept in $work" >&2
  exit 1
fi
