#!/usr/bin/env bash
# Installs the packages of tests/peers/node beside its package.json, and prints where Node is.
# Does nothing if they were installed from the same lock file. Needs node 20 or later, and npm.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/node

# Two runs at once would undo each other's work; the lock is on this folder and ends with this process.
exec 9< "$here"
flock 9

# The stamp is written last: an installation that was interrupted on the way is made again.
stamp="$here/node_modules/made-from"
wanted=$(node --version && cat "$here/package-lock.json")

if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "node: installing $here" >&2
    npm ci --prefix "$here" --ignore-scripts --no-audit --no-fund --silent >&2
    printf '%s\n' "$wanted" > "$stamp"
fi

command -v node
