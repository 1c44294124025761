"""Runs a command of agw with TLS put into the plan: `serve.py PYTHON -m agw serve -f FILE ...`.

What the file `tls.json` beside the configuration says is added to the plan that was loaded, at the start and at every
reload: `{"listeners": {name: TlsServerPlan}, "clusters": {name: TlsClientPlan}}`, where `*` is every other name. So the
data path is tested as a plan describes it, whatever keys a configuration has for it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import agw.config
from agw.cli import main
from agw.runtime.plan import ClusterPlan, ListenerPlan, Plan, TlsClientPlan, TlsServerPlan


class Additions(msgspec.Struct):
    listeners: dict[str, TlsServerPlan] = {}
    clusters: dict[str, TlsClientPlan] = {}


def added(plan: Plan, more: Additions) -> Plan:
    replace = msgspec.structs.replace

    def listener(old: ListenerPlan) -> ListenerPlan:
        return replace(old, tls=more.listeners.get(old.name, more.listeners.get("*", old.tls)))

    def cluster(old: ClusterPlan) -> ClusterPlan:
        return replace(old, tls=more.clusters.get(old.name, more.clusters.get("*", old.tls)))

    binds = [replace(bind, listeners=[listener(old) for old in bind.listeners]) for bind in plan.binds]
    return replace(plan, binds=binds, clusters=[cluster(old) for old in plan.clusters])


def install() -> None:
    original = agw.config.load_file

    def load_file(path: Any, environ: Mapping[str, str]) -> agw.config.Loaded:
        loaded = original(path, environ)
        more = msgspec.json.decode(Path(path).with_name("tls.json").read_bytes(), type=Additions)
        return msgspec.structs.replace(loaded, plan=added(loaded.plan, more))

    agw.config.load_file = load_file


if __name__ == "__main__":
    install()
    sys.exit(main(sys.argv[4:]))
