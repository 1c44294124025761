#!/bin/sh
# Runs the MCP mix of locustfile.py, headless and short, against a running gateway.
#
#   bench/locust/run.sh [URL of the MCP endpoint] [locust options...]
#   bench/locust/run.sh http://127.0.0.1:3000/mcp -u 100 -r 20 -t 60s
#   bench/locust/run.sh --target 9001           only starts the MCP server to put behind the gateway, until Ctrl-C
#
# Default: http://127.0.0.1:3000/mcp, 20 users, 20 s. If nobody listens there, `agw serve` (the demo server behind the
# gateway, 2 workers) is started for the time of the run. Locust gets its own environment, bench/locust/.venv (it pins
# flask, gevent and others). Ends with 1 if any request failed. Only on 127.0.0.1 unless you name another URL.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
venv="$here/.venv"

if [ "${1:-}" = --target ]; then
    bench_python="$here/../.venv/bin/python"
    [ -x "$bench_python" ] || { echo "run bench/run.sh --list once: it makes bench/.venv" >&2; exit 1; }
    cd "$here/../.."
    exec "$bench_python" -m bench.load.sse_backend --port "${2:-9001}" --rate "${3:-1}"
fi

url=http://127.0.0.1:3000/mcp
default_url=1
case "${1:-}" in
    http://*|https://*) url=$1; default_url=0; shift ;;
esac
rest=${url#*://}
case "$rest" in
    */*) path="/${rest#*/}" ;;
    *) path=/mcp ;;
esac
base="${url%%://*}://${rest%%/*}"

if [ ! -x "$venv/bin/locust" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet -r "$here/requirements.txt"
fi
[ $# -gt 0 ] || set -- -u 20 -r 10 -t 20s
agw="${AGW_BIN:-$here/../../.venv/bin/agw}"
gateway=
if [ $default_url = 1 ] && ! "$venv/bin/python" -c 'import socket; socket.create_connection(("127.0.0.1", 3000), 1)' 2>/dev/null
then
    STATS_ADDR=127.0.0.1:15020 READINESS_ADDR=127.0.0.1:15021 $agw serve --workers 2 >/dev/null &
    gateway=$!
    trap 'kill -TERM $gateway 2>/dev/null; wait $gateway 2>/dev/null || true' EXIT
    trap 'exit 130' INT TERM HUP
    sleep 2
fi
MCP_PATH="${MCP_PATH:-$path}" "$venv/bin/locust" -f "$here/locustfile.py" --headless --only-summary \
    --exit-code-on-error 1 --stop-timeout 5 --host "$base" "$@"
