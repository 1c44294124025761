#!/bin/sh
# The security scenarios only; arguments as for bench/mcp/run.sh. `--quick`: six minutes, without the HTTP routes.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
keys=security_jwt_rules_limit,security_modern,security_none,jwt_cold,jwt_100000,limits_saturation,limits_keys_1m
more=security_all,security_http_jwt,security_none_http
case " $* " in
*" --scenario "*) ;;
*" --quick "*) set -- --scenario "$keys" --runs 4 "$@" ;;
*) set -- --scenario "$keys,$more" "$@" ;;
esac
exec "$here/../mcp/run.sh" "$@"
