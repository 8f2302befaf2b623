#!/usr/bin/env bash
# Every relative link in the documentation leads to a file.
set -euo pipefail
cd "$(dirname "$0")/.."

broken=0
while IFS=: read -r file link; do
  target=${link#](} target=${target%)} target=${target%%#*}
  case $target in ''|http://*|https://*|mailto:*) continue ;; esac
  [ -e "$(dirname "$file")/$target" ] || { printf 'docs: %s links to %s, which is not there\n' "$file" "$target" >&2; broken=1; }
done < <(git ls-files -z '*.md' | xargs -0 grep -oHE '\]\([^) ]+\)')
[ "$broken" -eq 0 ] || exit 1
echo "docs: every link leads somewhere"
