#!/usr/bin/env bash
# The story of Carillon in half a minute, with real processes and real MQTT clients: a push to four terminals, one of
# them offline; the leader is killed; nothing accepted is lost. Ends with an error when anything is not as told.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

work=$(mktemp -d "${TMPDIR:-/tmp}/carillon-demo.XXXXXX")
step_limit_s=20        # anything the story waits for happens within this
started=$(date +%s%N)

# ---- telling -----------------------------------------------------------------------------------------------------

now_ms() { echo $((($(date +%s%N) - started) / 1000000)); }
tell() { local ms; ms=$(now_ms); printf '%3d.%01d s  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$*"; }
more() { printf '         %s\n' "$*"; }
chapter() { printf '\n%s\n' "$*"; }
wrong() { printf '\nNOT AS TOLD: %s\nEverything is kept in %s\n' "$*" "$work" >&2; keep=true; exit 1; }

# until_true WHAT COMMAND...: waits until the command succeeds.
until_true() {
  local what=$1 deadline=$((SECONDS + step_limit_s)); shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || wrong "$what did not happen within $step_limit_s s"
    sleep 0.05
  done
}

# ---- the parts ---------------------------------------------------------------------------------------------------

node() { jq -r --argjson id "$1" ".nodes[] | select(.id == \$id) | .$2" "$work/cluster/cluster.json"; }

# The CLI, asking one of the nodes that live.
api_node=1
c() {
  CARILLON_API=$(node "$api_node" api) CARILLON_CA=$work/cluster/certs/ca.pem CARILLON_TOKEN=@$work/cluster/admin.token \
    "$carillon" "$@"
}

declare -A clients=()

# connect TERMINAL NODE: mosquitto_sub with the terminal's credential and a session that outlives the connection.
connect() {
  local name=$1 address; address=$(node "$2" mqtt)
  mosquitto_sub -h "${address%:*}" -p "${address#*:}" -i "$name" -u default -P "$(cat "$work/$name.token")" \
    -c -q 1 -t 'news/#' -F '%t: %p' >>"$work/$name.received" 2>>"$work/$name.errors" &
  clients[$name]=$!
  until_true "$name connecting to node $2" online "$name"
}

# `wait` takes the shell's own report of the killed job, so that it does not appear in the story.
disconnect() { kill "${clients[$1]}" 2>/dev/null || true; { wait "${clients[$1]}" || true; } 2>/dev/null; unset "clients[$1]"; }

online()   { c terminal get "$1" --json 2>/dev/null | jq -e '.online == true' >/dev/null; }
received() { [ -f "$work/$1.received" ] && grep -qxF -- "$2" "$work/$1.received"; }
status()   { c status "$1" --json | jq -r '"audience \(.audience) = pending \(.pending) + delivered \(.delivered)"'; }
is_status() { c status "$1" --json 2>/dev/null | jq -e ".pending == $2 and .delivered == $3" >/dev/null; }

stop_everything() {
  local name
  for name in "${!clients[@]}"; do kill "${clients[$name]}" 2>/dev/null || true; done
  scripts/cluster.sh down --dir "$work/cluster" >/dev/null 2>&1 || true
  $keep || rm -rf "$work"
}

keep=false
trap stop_everything EXIT
trap 'exit 130' INT TERM
carillon=${CARILLON:-$CARGO_TARGET_DIR/release/carillon}
[ -x "$carillon" ] || wrong "no binary at $carillon: run 'make demo', which builds it"
export CARILLON=$carillon

# ---- the story ---------------------------------------------------------------------------------------------------

chapter "1. Three nodes. Each keeps the replicated log and serves MQTT; each is a process with its own data and certificate."
scripts/cluster.sh up --dir "$work/cluster" >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; wrong "the cluster did not start"; }
leader=$(c cluster status --json | jq -r .leader)
[ "$leader" != null ] || wrong "the cluster is ready and has no leader"
tell "The cluster is up. Node $leader leads."

chapter "2. Four television sets get credentials: signed tokens that every node can check by itself."
for name in tv-1 tv-2 tv-3 tv-4; do
  c terminal credential "$name" --json | jq -er .token >"$work/$name.token" || wrong "no credential for $name"
done
tell "tv-1 to tv-4 are registered and have tokens."
for n in 1 2 3; do connect "tv-$n" "$n"; done
tell "tv-1, tv-2 and tv-3 are connected, each to another node. tv-4 is switched off."

chapter "3. The back-end pushes to all four, once."
before=$(now_ms)
answer=$(c push --to terminal:tv-1,tv-2,tv-3,tv-4 --topic news/today --qos 1 --ttl 1h --payload 'The bells are ringing' --json) \
  || wrong "the push was refused: $answer"
first=$(jq -r .push <<<"$answer")
tell "Accepted as push $first after $(($(now_ms) - before)) ms: two of three nodes have it on disk."
more "$(status "$first")"
for n in 1 2 3; do until_true "tv-$n receiving push $first" received "tv-$n" 'news/today: The bells are ringing'; done
until_true "three acknowledgements" is_status "$first" 1 3
tell "tv-1, tv-2 and tv-3 have it and acknowledged. Carillon knows who does not:"
more "$(status "$first")"
waiting=$(c status "$first" --terminals pending)
grep -q 'tv-4' <<<"$waiting" || wrong "tv-4 is not listed as pending: $waiting"
more "pending: tv-4"

chapter "4. The leader is killed, with SIGKILL: no goodbye, no flush."
api_node=$((leader % 3 + 1))
{ kill -KILL "$(node "$leader" pid)"; } 2>/dev/null
killed=$(now_ms)
tell "Node $leader is dead. The back-end keeps pushing, to node $api_node."
deadline=$((SECONDS + step_limit_s))
until answer=$(c push --to terminal:tv-1,tv-2,tv-3,tv-4 --topic news/today --qos 1 --ttl 1h \
    --idempotency-key after-the-kill --payload 'They still ring' --json 2>"$work/push.errors"); do
  [ "$SECONDS" -lt "$deadline" ] || wrong "no push was accepted within $step_limit_s s: $(cat "$work/push.errors")"
  sleep 0.02
done
second=$(jq -r .push <<<"$answer")
took=$(($(now_ms) - killed))
leader_after=$(c cluster status --json | jq -r .leader)
tell "Push $second is accepted, $took ms after the kill. Node $leader_after leads now."
disconnect "tv-$leader"
connect "tv-$leader" "$api_node"
tell "tv-$leader, whose node is gone, has connected to node $api_node; its session was waiting for it there."
for n in 1 2 3; do until_true "tv-$n receiving push $second" received "tv-$n" 'news/today: They still ring'; done
until_true "three acknowledgements" is_status "$second" 1 3
more "$(status "$second")"

chapter "5. tv-4 is switched on."
connect tv-4 "$api_node"
until_true "tv-4 receiving both pushes" received tv-4 'news/today: They still ring'
printf 'news/today: The bells are ringing\nnews/today: They still ring\n' >"$work/expected"
cmp -s "$work/expected" "$work/tv-4.received" || wrong "tv-4 should have received both pushes once, in order; it has: $(cat "$work/tv-4.received")"
tell "It received what it was owed, in order:"
while read -r line; do more "  $line"; done <"$work/tv-4.received"
for push in "$first" "$second"; do
  until_true "push $push delivered to all four" is_status "$push" 0 4
  more "push $push: $(status "$push")"
done

chapter "6. Everything stops cleanly."
for name in "${!clients[@]}"; do disconnect "$name"; done
scripts/cluster.sh down --dir "$work/cluster" >"$work/down.log" || wrong "the cluster did not stop: $(cat "$work/down.log")"
if grep -q killed "$work/down.log"; then wrong "a node had to be killed: $(cat "$work/down.log")"; fi
tell "Two pushes, four terminals, one killed leader; nothing lost, and every delivery accounted for."
