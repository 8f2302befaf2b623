#!/usr/bin/env bash
# docs/mqtt-conformance.md keeps its word: every test it names exists, every statement has a test or a reason, and every
# statement stands there once.
set -euo pipefail
cd "$(dirname "$0")/.."
table=docs/mqtt-conformance.md
tests=conformance-tests/tests
statements_v5=251
statements_v3=141

broken=0
complain() { printf 'conformance: %s\n' "$*" >&2; broken=1; }

# The file that holds the tests of a chapter.
file_of() {
  case $1 in
    packet) echo conformance-tests/src/packet.rs ;;
    cluster|clients|interop) echo "$tests/$1.rs" ;;
    *) echo "$tests/conformance/$1.rs" ;;
  esac
}

# A test: an attribute that says so, and the function within the next two lines.
while IFS=: read -r chapter _ name; do
  file=$(file_of "$chapter")
  if [ ! -f "$file" ]; then complain "$chapter::$name: there is no $file"; continue; fi
  grep -A2 '^ *#\[test\]' "$file" | grep -q "fn $name()" || complain "$chapter::$name: no such test in $file"
done < <(grep -oE '`[a-z0-9_]+::[a-z0-9_]+`' "$table" | tr -d '`' | grep -v '^chapter::' | grep -v '::name$' | sort -u)

# rows VERSION: the rows of one version.
rows() { awk -v want="## MQTT $1" '/^## / { on = ($0 == want) } on && /^\| `\[MQTT-/' "$table"; }

check_version() {
  local version=$1 expected=$2 found
  found=$(rows "$version" | awk -F'|' '{ print $2 }' | sort -u | wc -l)
  [ "$found" -eq "$expected" ] || complain "MQTT $version: $found statements, not $expected"
  [ "$(rows "$version" | wc -l)" -eq "$found" ] || complain "MQTT $version: a statement stands there twice"
  while IFS='|' read -r _ id _ checked _; do
    case $checked in
      *'`'*|*'every packet'*|*'binds clients'*|*'does not apply'*) ;;
      *) complain "MQTT $version:$id has neither test nor reason" ;;
    esac
  done < <(rows "$version")
}

check_version 5.0 $statements_v5
check_version 3.1.1 $statements_v3
[ "$broken" -eq 0 ] || exit 1
echo "conformance: every statement has its test or its reason"
