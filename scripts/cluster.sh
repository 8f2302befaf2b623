#!/usr/bin/env bash
# A Carillon cluster on this machine: real processes, own certificates, own data directories.
#
#   scripts/cluster.sh up   --dir DIR [--control 3] [--edges N] [--base-port P] [--anonymous]
#   scripts/cluster.sh down --dir DIR
#
# DIR/cluster.json says what runs. `up` on a directory that was brought down starts the same cluster again, data and all;
# its other options are those of the first time. Several clusters live side by side in different directories.
# The binary is $CARILLON, or else the one built last under the target directory.
set -euo pipefail

host=127.0.0.1
ports_per_node=10
port_first=21000      # blocks are searched from here
port_last=32767       # above, Linux takes ports for outgoing connections
live_limit_s=30       # a node must serve /livez within this
ready_limit_s=60      # and /readyz within this after the cluster is founded
stop_limit_s=20       # a node asked to stop is killed after this

say()  { printf '%s\n' "$*"; }
fail() { printf 'cluster: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }

# ---- arguments ---------------------------------------------------------------------------------------------------

parse() {
  [ $# -ge 1 ] || usage
  action=$1; shift
  dir='' control=3 edges=0 base_port='' anonymous=false
  while [ $# -gt 0 ]; do
    case $1 in
      --anonymous) anonymous=true; shift; continue ;;
      --dir|--control|--edges|--base-port) [ $# -ge 2 ] || fail "$1 needs a value" ;;
      *) usage ;;
    esac
    case $1 in
      --dir) dir=$2 ;; --control) control=$2 ;; --edges) edges=$2 ;; --base-port) base_port=$2 ;;
    esac
    shift 2
  done
  [ -n "$dir" ] || fail "--dir is needed: where the cluster keeps everything"
  [[ $control =~ ^[1-9][0-9]*$ ]] || fail "--control is a number of at least 1"
  [[ $edges =~ ^[0-9]+$ ]] || fail "--edges is a number"
  [[ -z $base_port || $base_port =~ ^[1-9][0-9]*$ ]] || fail "--base-port is a number"
}

find_binary() {
  local candidate newest='' target
  if [ -n "${CARILLON:-}" ]; then
    carillon=$(command -v "$CARILLON") || fail "CARILLON is set to '$CARILLON', which is no program"
    return
  fi
  target=${CARGO_TARGET_DIR:-${CARILLON_CACHE:-$HOME/.cache/carillon}/target}
  for candidate in "$target/release/carillon" "$target/debug/carillon"; do
    if [ -x "$candidate" ] && { [ -z "$newest" ] || [ "$candidate" -nt "$newest" ]; }; then newest=$candidate; fi
  done
  [ -n "$newest" ] || fail "no carillon binary in $target: run 'make build', or set CARILLON"
  carillon=$newest
}

# ---- ports -------------------------------------------------------------------------------------------------------

# All local ports in use, TCP and UDP, one a line.
ports_in_use() {
  local hex
  awk 'FNR > 1 { split($2, a, ":"); print a[2] }' /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 2>/dev/null \
    | sort -u | while read -r hex; do echo $((16#$hex)); done
}

# block_free FIRST COUNT USED: whether COUNT ports from FIRST on are not among USED.
block_free() {
  awk -v first="$1" -v last=$(($1 + $2 - 1)) '$1 >= first && $1 <= last { taken = 1 } END { exit taken }' <<<"$3"
}

choose_ports() {
  local count=$((ports_per_node * (control + edges))) used first
  used=$(ports_in_use)
  if [ -n "$base_port" ]; then
    [ $((base_port + count - 1)) -le $port_last ] || fail "--base-port $base_port: the $count ports from there must stay below 32768"
    block_free "$base_port" "$count" "$used" || fail "--base-port $base_port: some of the $count ports from there are in use"
    return
  fi
  for ((first = port_first; first + count - 1 <= port_last; first += 100)); do
    if block_free "$first" "$count" "$used"; then base_port=$first; return; fi
  done
  fail "no $count free ports in a row between $port_first and $port_last"
}

# port ID OFFSET
port() { echo $((base_port + ports_per_node * ($1 - 1) + $2)); }
mqtt() { echo "$host:$(port "$1" 0)"; }
api()  { echo "$host:$(port "$1" 1)"; }
http() { echo "$host:$(port "$1" 2)"; }
link() { echo "$host:$(port "$1" 3)"; }
mqtts() { echo "$host:$(port "$1" 4)"; }
ws()   { echo "$host:$(port "$1" 5)"; }
wss()  { echo "$host:$(port "$1" 6)"; }

all_nodes() { seq 1 $((control + edges)); }
api_list() { local id list=''; for id in $(all_nodes); do list+="${list:+,}$(api "$id")"; done; echo "$list"; }
is_control() { [ "$1" -le "$control" ]; }

# ---- certificates and config: written once -----------------------------------------------------------------------

write_config() {
  local id=$1 node=$dir/node-$1 roles='"edge"' seeds='' control_api='' other
  if is_control "$id"; then roles='"control", "edge"'; fi
  for other in $(seq 1 "$control"); do
    seeds+="${seeds:+, }\"$(link "$other")\"" control_api+="${control_api:+, }\"$(api "$other")\""
  done
  cat > "$node/carillon.toml" <<TOML
[node]
id = $id
roles = [$roles]
data_dir = "$node/data"

[cluster]
seeds = [$seeds]
control_api = [$control_api]

[link]
address = "$(link "$id")"

[api]
address = "$(api "$id")"

[http]
address = "$(http "$id")"

[mqtt]
address = "$(mqtt "$id")"
tls_address = "$(mqtts "$id")"
ws_address = "$(ws "$id")"
wss_address = "$(wss "$id")"
tls_cert = "$node/certs/node.pem"
tls_key = "$node/certs/node.key"
anonymous = $anonymous

[tls]
ca = "$dir/certs/ca.pem"
cert = "$node/certs/node.pem"
key = "$node/certs/node.key"
TOML
}

write_node() {
  local id=$1 roles=edge
  if is_control "$id"; then roles=control,edge; fi
  mkdir -p "$dir/node-$id/data"
  "$carillon" certs node --ca "$dir/certs" --id "$id" --roles "$roles" --out "$dir/node-$id/certs" >/dev/null
  write_config "$id"
}

write_cluster() {
  local id
  mkdir -p "$dir"
  "$carillon" certs authority --out "$dir/certs" >/dev/null
  "$carillon" certs operator --ca "$dir/certs" --out "$dir/certs" >/dev/null
  for id in $(all_nodes); do write_node "$id"; done
  # What a later `up` must know; its presence says that everything above is complete.
  printf 'control=%s\nedges=%s\nbase_port=%s\nanonymous=%s\n' "$control" "$edges" "$base_port" "$anonymous" > "$dir/.settings.partial"
  mv "$dir/.settings.partial" "$dir/settings"
}

# ---- processes ---------------------------------------------------------------------------------------------------

declare -A pids=()
complete=false

# Whatever ends an unfinished `up` (an error, Ctrl-C) ends its processes too.
clean_up() {
  $complete && return
  local id
  for id in "${!pids[@]}"; do kill -KILL "${pids[$id]}" 2>/dev/null || true; done
  rm -f "$dir/cluster.json"
}

start_node() {
  local id=$1 node=$dir/node-$1
  # A session of its own, so that Ctrl-C in the caller's terminal does not reach it; the port lock stays here.
  setsid "$carillon" node --config "$node/carillon.toml" >>"$node/log" 2>&1 </dev/null 9>&- &
  pids[$id]=$!
  disown   # or the shell reports it when it is killed
}

# wait_for LIMIT ID PATH: until the node's HTTP side answers 200 there.
wait_for() {
  local deadline=$((SECONDS + $1)) id=$2 path=$3
  until curl -sf -m 2 -o /dev/null "http://$(http "$id")$path"; do
    kill -0 "${pids[$id]}" 2>/dev/null || fail "node $id ended; the last lines of $dir/node-$id/log:
$(tail -n 15 "$dir/node-$id/log")"
    [ "$SECONDS" -lt "$deadline" ] || fail "node $id does not answer $path after $1 s: $(curl -s -m 2 "http://$(http "$id")$path")
the last lines of $dir/node-$id/log:
$(tail -n 15 "$dir/node-$id/log")"
    sleep 0.1
  done
}

found_cluster() {
  local id members=()
  for id in $(seq 1 "$control"); do
    members+=(--node "id=$id,link=$(link "$id"),api=$(api "$id"),mqtt=$(mqtt "$id")")
  done
  "$carillon" cluster init --api "$(api 1)" --ca "$dir/certs/ca.pem" \
    --cert "$dir/certs/operator.pem" --key "$dir/certs/operator.key" \
    "${members[@]}" --token-out "$dir/admin.token" >"$dir/init.log" 2>&1 || fail "cluster init failed: $(cat "$dir/init.log")"
}

node_json() {
  local id=$1 roles='["edge"]'
  if is_control "$id"; then roles='["control","edge"]'; fi
  printf '  {"id": %s, "pid": %s, "roles": %s, "mqtt": "%s", "mqtts": "%s", "ws": "%s", "wss": "%s", "api": "%s", "http": "%s", "link": "%s", "data_dir": "%s", "log": "%s"}' \
    "$id" "${pids[$id]}" "$roles" "$(mqtt "$id")" "$(mqtts "$id")" "$(ws "$id")" "$(wss "$id")" "$(api "$id")" "$(http "$id")" "$(link "$id")" "$dir/node-$id/data" "$dir/node-$id/log"
}

write_json() {
  local id separator=''
  {
    printf '{"nodes": [\n'
    for id in $(all_nodes); do printf '%s' "$separator"; node_json "$id"; separator=$',\n'; done
    printf '\n], "ca": "%s", "admin_token": "%s"}\n' "$dir/certs/ca.pem" "$dir/admin.token"
  } > "$dir/.cluster.json.partial"
  mv "$dir/.cluster.json.partial" "$dir/cluster.json"
}

# ---- up and down -------------------------------------------------------------------------------------------------

up() {
  local id
  find_binary
  dir=$(realpath -m "$dir")
  [ ! -f "$dir/cluster.json" ] || fail "a cluster runs in $dir (or was killed there): scripts/cluster.sh down --dir $dir"
  ulimit -n "$(ulimit -Hn)"
  trap clean_up EXIT
  trap 'exit 130' INT TERM

  # Between choosing ports and listening on them no other `up` may choose.
  exec 9>"${TMPDIR:-/tmp}/carillon-ports-$(id -u).lock"
  flock -w 120 9 || fail "another cluster has been starting for two minutes"
  if [ -f "$dir/settings" ]; then
    # shellcheck source=/dev/null
    . "$dir/settings"
    say "Starting the cluster of $dir again."
  else
    choose_ports
    write_cluster
  fi
  for id in $(all_nodes); do start_node "$id"; done
  for id in $(all_nodes); do wait_for $live_limit_s "$id" /livez; done
  exec 9>&-

  [ -f "$dir/admin.token" ] || found_cluster
  for id in $(all_nodes); do wait_for $ready_limit_s "$id" /readyz; done
  write_json
  complete=true
  describe
}

describe() {
  local id
  say "The cluster of $dir is ready:"
  for id in $(all_nodes); do
    say "  node $id ($(is_control "$id" && echo 'control, edge' || echo 'edge'))  mqtt $(mqtt "$id")  mqtts $(mqtts "$id")  ws $(ws "$id")  wss $(wss "$id")  api $(api "$id")  http $(http "$id")  pid ${pids[$id]}"
  done
  cat <<TEXT

To try it:
  export CARILLON_API=$(api_list) CARILLON_CA=$dir/certs/ca.pem CARILLON_TOKEN=@$dir/admin.token
  export PATH=$(dirname "$carillon"):\$PATH
  carillon cluster status
  carillon terminal credential tv-1                      # what the terminal logs in with
  mosquitto_sub -h $host -p $(port 1 0) -i tv-1 -c -q 1 -t 'news/#' -u default -P TOKEN
  carillon push --to terminal:tv-1 --topic news/today --qos 1 --payload hello
  carillon status PUSH --watch
  scripts/cluster.sh down --dir $dir
TEXT
}

# Whether process $1 is the node of directory $2: a pid may have been given to somebody else since.
is_node() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "--config $2/carillon.toml"; }

down() {
  local pid id deadline running=()
  dir=$(realpath -m "$dir")
  if [ ! -f "$dir/cluster.json" ]; then say "No cluster runs in $dir."; return; fi
  while read -r id pid; do
    is_node "$pid" "$dir/node-$id" || continue
    # A stopped process must run to hear the request.
    kill -TERM "$pid" && kill -CONT "$pid" && running+=("$id:$pid")
  done < <(jq -r '.nodes[] | "\(.id) \(.pid)"' "$dir/cluster.json")
  deadline=$((SECONDS + stop_limit_s))
  for id in "${running[@]}"; do
    pid=${id#*:} id=${id%%:*}
    while is_node "$pid" "$dir/node-$id" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
    if is_node "$pid" "$dir/node-$id"; then
      say "node $id did not stop within $stop_limit_s s: killed"
      kill -KILL "$pid" 2>/dev/null || true
    fi
  done
  rm -f "$dir/cluster.json"
  say "The cluster of $dir is down (${#running[@]} nodes stopped). Its data stays; up starts it again, rm -r removes it."
}

parse "$@"
case $action in
  up) up ;;
  down) down ;;
  *) usage ;;
esac
