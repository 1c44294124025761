#!/bin/sh
# Entry of `make bench`: prepares bench/.venv once, compiles the paced client, installs missing peers, then runs
# bench/run.py with the same arguments. Needs a C compiler, as agw itself does.
# BENCH_SKIP_INSTALL=1 leaves the system alone: peers that are not there are skipped with a message.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
venv="$here/.venv"
cd "$here/.."

if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import uvloop, Cython, setuptools, cryptography' 2>/dev/null; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
fi
built=$(ls "$here"/load/_pacer.*.so 2>/dev/null | head -n 1)
if [ -z "$built" ] || [ "$here/load/_pacer.pyx" -nt "$built" ] || ! "$venv/bin/python" -c 'import bench.load._pacer' 2>/dev/null; then
    # from its own directory: setuptools would read the pyproject.toml of agw
    (cd "$here/load" && "$venv/bin/cythonize" -i -q -f _pacer.pyx >/dev/null) ||
        echo "bench: the paced client was not compiled; the open-loop scenarios will fail" >&2
fi
if [ "${BENCH_SKIP_INSTALL:-0}" != 1 ]; then
    "$here/install_peers.sh"
fi
exec "$venv/bin/python" -m "${BENCH_MODULE:-bench.run}" "$@"
