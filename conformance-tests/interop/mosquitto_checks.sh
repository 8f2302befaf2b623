#!/usr/bin/env bash
# mosquitto's clients against three nodes: mosquitto_checks.sh VERSION HOST:PORT HOST:PORT HOST:PORT
set -euo pipefail

case $1 in 3.1) version=mqttv31 ;; 3.1.1) version=mqttv311 ;; 5) version=mqttv5 ;; *) exit 2 ;; esac
nodes=("$2" "$3" "$4")
run=mosquitto-$$-${1//./}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
limit=15

# at NODE: the options that say where.
at() { printf -- '-h %s -p %s -V %s' "${nodes[$1]%:*}" "${nodes[$1]##*:}" "$version"; }

# say NODE TOPIC TEXT QOS [MORE...]
say() {
  local node=$1 topic=$2 text=$3 qos=$4; shift 4
  # shellcheck disable=SC2046
  mosquitto_pub $(at "$node") -t "$run/$topic" -m "$text" -q "$qos" "$@"
}

# hear NAME NODE TOPIC QOS COUNT [MORE...]: in the background, into $out/NAME; ready when this returns.
hear() {
  local name=$1 node=$2 topic=$3 qos=$4 count=$5; shift 5
  : >"$out/$name"
  # shellcheck disable=SC2046
  stdbuf -oL mosquitto_sub $(at "$node") -t "$topic" -q "$qos" -C "$count" -W "$limit" -d -F 'GOT %q %r %p' "$@" >"$out/$name" 2>&1 &
  pids[$name]=$!
  local deadline=$((SECONDS + limit))
  until grep -q SUBACK "$out/$name"; do
    [ "$SECONDS" -lt "$deadline" ] || { cat "$out/$name" >&2; exit 1; }
    sleep 0.02
  done
}

same() { [ "$1" = "$2" ] || { printf 'expected:\n%s\ngot:\n%s\n' "$2" "$1" >&2; exit 1; }; }

# heard NAME TEXT: waits for the end of it; that is what it got.
heard() {
  wait "${pids[$1]}" || { cat "$out/$1" >&2; exit 1; }
  same "$(sed -n 's/^GOT //p' "$out/$1")" "$2"
}

declare -A pids=()

qos_both_ways() {
  local from to
  for from in 0 1; do
    to=$((1 - from))
    hear "listener$from" "$to" "$run/way$from" 2 2
    say "$from" "way$from" one 1
    say "$from" "way$from" two 2
    heard "listener$from" $'1 0 one\n2 0 two'
  done
  hear zero 0 "$run/zero" 0 1
  say 0 zero none 0
  heard zero '0 0 none'
}

retained() {
  local qos
  for qos in 0 1 2; do
    say 0 "kept$qos" kept "$qos" -r
    say 0 behind it 1
    hear "kept$qos" 2 "$run/kept$qos" 2 1
    heard "kept$qos" "$qos 1 kept"
    say 0 "kept$qos" '' 1 -r
  done
}

will() {
  hear listener 1 "$run/will" 1 1
  : >"$out/dying"
  # shellcheck disable=SC2046
  stdbuf -oL mosquitto_sub $(at 0) -t "$run/nothing" --will-topic "$run/will" --will-payload gone --will-qos 1 -d >"$out/dying" 2>&1 &
  local dying=$!
  until grep -q SUBACK "$out/dying"; do sleep 0.02; done
  kill -KILL "$dying"
  wait "$dying" 2>/dev/null || true
  heard listener '1 0 gone'
}

session() {
  local expiry=()
  if [ "$version" = mqttv5 ]; then expiry=(-x 600); fi
  # shellcheck disable=SC2046
  mosquitto_sub $(at 0) -i "$run-moving" -c "${expiry[@]}" -t "$run/session" -q 2 -E
  say 1 session one 1
  say 1 session two 2
  hear moving 2 "$run/session" 2 2 -i "$run-moving" -c "${expiry[@]}"
  heard moving $'1 0 one\n2 0 two'
}

shared() {
  local n
  # Who gets how many is the server's affair: each listens for some seconds.
  for n in 0 1 2; do hear "member$n" "$n" "\$share/g/$run/shared" 1 7 -W 4; done
  for n in 1 2 3 4 5 6; do say 0 shared "$n" 1; done
  for n in 0 1 2; do wait "${pids[member$n]}" || true; done
  same "$(sed -n 's/^GOT //p' "$out"/member[012] | sort)" "$(for n in 1 2 3 4 5 6; do echo "1 0 $n"; done)"
}

request() {
  hear answering 1 "$run/request" 1 1
  # shellcheck disable=SC2046
  mosquitto_rr $(at 0) -t "$run/request" -e "$run/answer" -m question -q 1 -W "$limit" >"$out/answer" &
  local asking=$!
  heard answering '1 0 question'
  say 1 answer answer 1
  wait "$asking"
  same "$(cat "$out/answer")" answer
}

checks=(qos_both_ways retained will session)
if [ "$version" = mqttv5 ]; then checks+=(shared request); fi
for check in "${checks[@]}"; do
  $check
  echo "OK $check"
done
