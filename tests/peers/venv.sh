#!/usr/bin/env bash
# Makes .venv, the Python environment of the tests' peers, beside the repository's Cargo.toml, and prints its python.
# Does nothing if it was made from the same requirements by the same Python. PYTHON names another interpreter.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$(cd "$here/../.." && pwd)/.venv
python=${PYTHON:-python3}

# Two runs at once would undo each other's work; the lock is on this folder and ends with this process.
exec 9< "$here"
flock 9

# The stamp is written last: an environment that was interrupted on the way is made again.
stamp="$venv/made-from"
wanted=$("$python" --version && cat "$here/requirements.txt")

if [ ! -x "$venv/bin/python" ] || [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "venv: making $venv" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" >&2
    printf '%s\n' "$wanted" > "$stamp"
fi

echo "$venv/bin/python"
