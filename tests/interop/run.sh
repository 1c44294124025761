#!/bin/bash
# Real MCP clients, through a real `agw serve` with two workers, to real MCP servers (`make interop`, some minutes); the official
# conformance suite (`make conformance`); all clients times all servers (`make matrix`). The first installation takes two minutes.
#
#   tests/interop/run.sh [--only PART] [--long] [--workers N] [--agw PATH]
#   tests/interop/run.sh conformance [--quick] [--only LEG] [--wire WIRE] [--workers N]   legs.py
#   tests/interop/run.sh oauth [--only LEG] [--client CLIENT]                             oauth.py
#   tests/interop/run.sh matrix [--only SERVER] [--client CLIENT]                         matrix.py
#
# Installs pinned packages from PyPI and npm into .venv/interop-* and build/interop. See README.md for what is checked.
#
# INTEROP_PYTHON  the interpreter for the Python packages (default the one of .venv)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${INTEROP_PYTHON:-$root/.venv/bin/python}
node_tree=$root/build/interop/node

# venv NAME PACKAGE...: made once; made again when the list of packages changes.
venv() {
    local tree=$root/.venv/interop-$1
    shift
    if [ "$(cat "$tree/installed" 2>/dev/null)" = "$*" ]; then return; fi
    echo "installing $*"
    "$python" -m venv --clear "$tree"
    "$tree/bin/python" -m pip install -q --disable-pip-version-check "$@"
    echo "$*" >"$tree/installed"
}

venv mcp2 mcp==2.3.0 uvicorn==0.54.0 mcp-server-time==2026.10.19
venv mcp1 mcp==1.30.0
case ${1:-} in
conformance) program=legs.py; limit=7200; shift ;;
oauth) program=oauth.py; limit=1800; shift ;;
matrix) program=matrix.py; limit=7200; shift; venv fastmcp fastmcp==4.1.0 fastmcp-tasks==4.1.0 ;;
*) program=run.py; limit=1800 ;;
esac

if ! cmp -s "$here/package.json" "$node_tree/installed"; then
    echo "installing npm packages"
    mkdir -p "$node_tree"
    cp "$here/package.json" "$node_tree/package.json"
    (cd "$node_tree" && timeout 600 npm install --no-audit --no-fund --no-package-lock --loglevel=error)
    cp "$here/package.json" "$node_tree/installed"
fi
case $("$node_tree/node_modules/.bin/node" --version) in
v24.*) ;;
*) echo "the npm package node did not install its binary; try: (cd build/interop/node && npm rebuild node)" >&2; exit 1 ;;
esac

exec timeout "$limit" "$root/.venv/bin/python" "$here/$program" "$@"
