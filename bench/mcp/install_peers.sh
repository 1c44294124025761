#!/bin/sh
# MCP proxies to compare with, each in an environment of its own (their requirements exclude one another). Optional: a peer
# that cannot be installed is skipped with a message.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

peer() {  # environment, requirement
    venv="$here/$1"
    [ -e "$venv/installed" ] && return 0
    rm -rf "$venv"
    if "${PYTHON:-python3}" -m venv "$venv" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$2"; then
        : >"$venv/installed"
    else
        rm -rf "$venv"
        echo "install_peers: $2 is absent; the other peers run without it" >&2
    fi
}

peer .venv-fastmcp "fastmcp==4.1.0"
peer .venv-mcp-proxy "mcp-proxy==0.13.0"
