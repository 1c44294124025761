#!/bin/sh
# The MCP scenarios: prepares as bench/run.sh does, installs the PyPI peers, then runs bench/mcp/run.py with the same arguments.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
if [ "${BENCH_SKIP_INSTALL:-0}" != 1 ]; then
    sh "$here/install_peers.sh"
fi
BENCH_MODULE=bench.mcp.run exec sh "$here/../run.sh" "$@"
