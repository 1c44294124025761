#!/bin/sh
# The security scenarios only; arguments as for bench/mcp/run.sh. `--quick` takes about six minutes.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
keys=security_jwt_rules_limit,security_modern,security_http_jwt,security_none,jwt_cold,jwt_100000,limits_saturation,limits_keys_1m
case " $* " in
*" --quick "*) set -- --runs 5 "$@" ;;
*) keys="$keys,security_all" ;;
esac
case " $* " in
*" --scenario "*) exec "$here/../mcp/run.sh" "$@" ;;
esac
exec "$here/../mcp/run.sh" --scenario "$keys" "$@"
