"""Runs a command of agw with documents put into the plan: `serve_documents.py PYTHON -m agw serve -f FILE ...`.

`documents.json` beside the configuration, if there is one, is a list of DocumentPlan, read at the start and at every reload; without,
the plan has what its configuration says. Every snapshot of
every worker logs what it finds and what it is told of each document ("document", with url, version and process), counts one decision,
and wants each URL named in the file `want`, fifty times a second. Times are short.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import agw.config
from agw.admin.documents import DocumentFetcher, Timing
from agw.cli import main
from agw.runtime.plan_security import DocumentPlan
from agw.runtime.snapshot import Snapshot
from agw.security.contract import SecurityHost
from agw.worker.documents import DocumentTable
from agw.worker.security import WorkerSecurity

COOLDOWN_S = 0.5
log = logging.getLogger("agw.test")


def install() -> None:
    load_original, attach_original = agw.config.load_file, WorkerSecurity.attach

    def load_file(path: Any, environ: Mapping[str, str]) -> agw.config.Loaded:
        loaded = load_original(path, environ)
        file = Path(path).with_name("documents.json")
        documents = msgspec.json.decode(file.read_bytes(), type=list[DocumentPlan]) if file.exists() else loaded.plan.documents
        return msgspec.structs.replace(loaded, plan=msgspec.structs.replace(loaded.plan, documents=documents))

    def attach(self: WorkerSecurity, snapshot: Snapshot) -> SecurityHost:
        host = attach_original(self, snapshot)
        for document in snapshot.plan.documents:

            def found(url: str = document.url) -> None:
                here = host.documents.get(url)
                log.warning("document", extra={"url": url, "version": here and here.version, "worker_pid": os.getpid(), "generation": snapshot.generation})

            host.documents.watch(document.url, found)
            found()
        host.count("jwt", "ok")
        host.spawn(wanting(host))
        return host

    agw.config.load_file = load_file
    WorkerSecurity.attach = attach  # type: ignore[method-assign]
    timing = Timing(floor=0.3, retry_first=0.1, retry_most=0.3, cooldown=COOLDOWN_S, attempt=2.0)
    DocumentFetcher.__init__.__kwdefaults__["timing"] = timing
    DocumentTable.__init__.__defaults__ = ((), COOLDOWN_S)


async def wanting(host: SecurityHost) -> None:
    while True:
        try:
            urls = Path("want").read_text().split()
        except FileNotFoundError:
            urls = []
        for url in urls:
            host.documents.want(url)
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    install()
    sys.exit(main(sys.argv[4:]))
