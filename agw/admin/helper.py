"""The helper process: admin, metrics and readiness listeners, and the demo MCP server. Off the data path.

It is forked by the supervisor with its sockets already bound. It reads the arena, hears of new configurations through
its channel, and asks the supervisor for everything that changes something. It fetches the documents of the plan
(`agw.admin.documents`), whose keeper is the supervisor. It dies with the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec
import uvloop

from agw import __version__
from agw._fast import process
from agw.admin.access import Access
from agw.admin.http import HttpServer
from agw.admin.server import AdminServer
from agw.admin.stats import Phase, ReadinessServer, StatsServer
from agw.runtime.documents import Fetched
from agw.runtime.plan_security import AdminAuthPlan, DocumentPlan
from agw.runtime.snapshot import LabelIndex, Labels
from agw.shm.layout import Arena
from agw.supervisor.channel import Channel, ChannelClosed, Message
from agw.telemetry.collector import BackendLabels, ConfigState, MetricsSource, RouteLabels, Value, no_documents
from agw.telemetry.collector import Labels as MetricLabels
from agw.telemetry.logs import OperatorLog

if TYPE_CHECKING:
    from agw.admin.documents import DocumentFetcher

log = logging.getLogger(__name__)


class HelperSockets(msgspec.Struct):
    """Bound sockets, None means the listener is off; and who may use that of the administration, None is everybody."""

    admin: socket.socket | None = None
    admin_auth: AdminAuthPlan | None = None
    stats: socket.socket | None = None
    readiness: socket.socket | None = None
    demo: socket.socket | None = None

    def unlink(self) -> None:
        """Take unix sockets out of the file system; the supervisor's last act."""
        for sock in (self.admin, self.stats, self.readiness):
            name = sock.getsockname() if sock is not None and sock.fileno() >= 0 and sock.family == socket.AF_UNIX else ""
            if isinstance(name, str) and name:
                with contextlib.suppress(OSError):
                    os.unlink(name)

    def close(self) -> None:
        """Close all of them in this process."""
        for sock in (self.admin, self.stats, self.readiness, self.demo):
            if sock is not None:
                sock.close()


class SharedLevel:
    """The log level of the whole instance: set here, spread by the supervisor."""

    def __init__(self, own: OperatorLog, helper: Helper) -> None:
        self._own = own
        self._helper = helper

    @property
    def level(self) -> str:
        """The level in force."""
        return self._own.level

    def set_level(self, level: str) -> None:
        """Change the level in all processes. Errors: ValueError for an unknown name."""
        self._own.set_level(level)
        self._helper.tell(Message("level", text=self._own.level))

    def reset(self) -> None:
        """Back to the configured level, in all processes."""
        self._own.reset()
        self._helper.tell(Message("level", text=self._own.level))


class Helper:
    """Everything the helper process owns."""

    def __init__(
        self, arena: Arena, labels: LabelIndex, document: object, sockets: HelperSockets, channel: Channel, operator_log: OperatorLog, prefix: str,
        documents: Iterable[DocumentPlan], kept: Iterable[Fetched],
    ) -> None:
        self._arena = arena
        self._labels = labels.labels
        self._document = document
        self._sockets = sockets
        self._channel = channel
        self._prefix = prefix
        self._plans = list(documents)
        self._kept = list(kept)
        self._fetcher: DocumentFetcher | None = None
        self._level = SharedLevel(operator_log, self)
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)

    def run(self) -> int:
        """Serve until the supervisor ends; returns the exit code."""
        self._loop.add_reader(self._channel.fileno(), self._on_channel)
        self._loop.add_signal_handler(signal.SIGTERM, self._loop.stop)
        self._loop.run_until_complete(self._start())
        self.tell(Message("ready"))
        self._loop.run_forever()
        return 0

    async def _start(self) -> None:
        # References live on self: the servers must not be collected while the loop runs.
        access = None if self._sockets.admin_auth is None else Access(self._sockets.admin_auth)
        source = MetricsSource(self._arena, labels=self._metric_labels, config=self._config_state, version=__version__, prefix=self._prefix,
                               documents=self._document_numbers, limits=self._arena.limit_counts, admin=lambda: {} if access is None else access.results)
        self._admin = AdminServer(config_dump=lambda: self._document, arena=self._arena, stop=self._stop, log_level=self._level, access=access)
        self._stats = StatsServer(source)
        self._readiness = ReadinessServer(phase=self._phase, arena=self._arena)
        if self._sockets.admin is not None:
            await self._admin.serve(self._sockets.admin)
        if self._sockets.stats is not None:
            await self._stats.serve(self._sockets.stats)
        if self._sockets.readiness is not None:
            await self._readiness.serve(self._sockets.readiness)
        if self._sockets.demo is not None:
            from agw.demo.server import demo_handler

            self._demo = HttpServer(demo_handler())
            await self._demo.listen(self._sockets.demo)
        self._adopt_documents(self._plans)

    def _adopt_documents(self, plans: list[DocumentPlan]) -> None:
        """Fetch these from now on; the HTTP client is loaded when there is the first."""
        if self._fetcher is None:
            if not plans:
                return
            from agw.admin.documents import DocumentFetcher, public_address

            self._fetcher = DocumentFetcher(self._report, self._kept, guard=public_address)
            self._kept = []
        self._fetcher.adopt(plans)

    def _report(self, news: Fetched) -> None:
        self.tell(Message("fetched", text=news.url, payload=msgspec.msgpack.encode(news)))

    def _document_numbers(self) -> Mapping[str, Mapping[tuple[str, ...], Value]]:
        return no_documents() if self._fetcher is None else {"ages": self._fetcher.ages_s(), "fetches": self._fetcher.fetches()}

    def tell(self, message: Message) -> None:
        """Send to the supervisor; what its socket does not take now goes out when it does."""
        try:
            self._channel.send(message)
        except ChannelClosed:
            self._loop.stop()
            return
        if self._channel.pending:
            self._loop.add_writer(self._channel.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        try:
            self._channel.flush()
        except ChannelClosed:
            self._loop.stop()
        if not self._channel.pending:
            self._loop.remove_writer(self._channel.fileno())

    def _stop(self) -> None:
        self.tell(Message("quit"))

    def _phase(self) -> Phase:
        phase = self._arena.phase
        return "running" if phase == "running" else "draining" if phase == "draining" else "starting"

    def _config_state(self) -> ConfigState:
        return ConfigState(self._arena.synchronized, self._arena.generation)

    def _metric_labels(self) -> MetricLabels:
        return MetricLabels(
            {i: RouteLabels(*(part or "unknown" for part in key)) for i, key in enumerate(self._labels.routes)},
            {i: BackendLabels(*key) for i, key in enumerate(self._labels.backends)},
        )

    def _on_channel(self) -> None:
        try:
            messages = self._channel.receive()
        except ChannelClosed:
            self._loop.stop()
            return
        for message, _ in messages:
            if message.op == "document":
                self._document = msgspec.json.decode(message.payload)
                self._labels = msgspec.msgpack.decode(message.labels, type=Labels)
            elif message.op == "fetch":
                self._adopt_documents(msgspec.msgpack.decode(message.payload, type=list[DocumentPlan]))
            elif message.op == "want" and self._fetcher is not None:
                self._fetcher.want(message.text)
            elif message.op == "stop":
                self._loop.stop()


def main(
    arena: Arena, labels: LabelIndex, document: object, sockets: HelperSockets, channel: Channel, operator_log: OperatorLog, prefix: str, parent: int,
    documents: Iterable[DocumentPlan] = (), kept: Iterable[Fetched] = (),
) -> int:
    """The helper's life after the fork; returns its exit code. It fetches `documents`; `kept` are copies its predecessor fetched."""
    process.set_name(b"agw-helper")
    process.set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        return 0
    try:
        return Helper(arena, labels, document, sockets, channel, operator_log, prefix, documents, kept).run()
    except Exception:
        log.exception("helper failed")
        return 1
