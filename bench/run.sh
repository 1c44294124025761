#!/bin/sh
# Entry of `make bench`: prepares bench/.venv once, installs missing peers, then runs bench/run.py with the same arguments.
# Set BENCH_SKIP_INSTALL=1 to leave the system alone (peers that are not there are skipped with a message).
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
venv="$here/.venv"

if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import uvloop' 2>/dev/null; then
    "$venv/bin/python" -m pip install --quiet -r "$here/requirements.txt"
fi
if [ "${BENCH_SKIP_INSTALL:-0}" != 1 ]; then
    "$here/install_peers.sh"
fi
cd "$here/.."
exec "$venv/bin/python" -m bench.run "$@"
