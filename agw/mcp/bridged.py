"""Conversations across eras: a legacy caller over a modern target, a modern caller over a legacy target.

Rules:
- both look like any other conversation to the caller's side: same methods, results in the caller's era;
- a modern target's questions (`input_required`) become requests to the legacy caller on the stream of its call, and the
  call is repeated with the answers, a bounded number of times;
- a legacy target's questions park the call: the modern caller gets them as `input_required` with a sealed pointer, and its
  retry goes on with the very same call (`parking`).

Source: MCP 2026-07-28, "Multi Round-Trip Requests"; reference sections 3.1, 3.2.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from agw.mcp import errors, message, param_headers, revisions
from agw.mcp.bridge import capabilities, requests, results, rounds
from agw.mcp.bridge import errors as bridge_errors
from agw.mcp.legacy_session import Flight, LegacySession
from agw.mcp.listen import Watch
from agw.mcp.message import Members, Message
from agw.mcp.modern_peer import ModernPeer
from agw.mcp.parking import Parked
from agw.mcp.peer import Hello, Sink
from agw.mcp.target import Target
from agw.mcp.transport import Headers

if TYPE_CHECKING:
    from agw.mcp.farm import Farm, Pooled
    from agw.mcp.modern import ModernRequest

log = logging.getLogger(__name__)

ANSWER_S = 600.0
"""How long a person may take to answer a question."""

STATE_ONLY_PAUSE_S = 0.5
"""Pause before a call is repeated that a target answered with state alone (it sheds load)."""


class OverModern:
    """A legacy session's conversation with a modern-only target."""

    def __init__(self, peer: ModernPeer, session: LegacySession) -> None:
        self.peer = peer
        self.session = session
        self.target = peer.target
        self.result = peer.result
        self.capabilities = peer.capabilities
        self._schemas: dict[str, param_headers.Annotations] | None = None
        hello = session.hello
        self._capabilities = message.encode(capabilities.client_to_modern(message.members(hello.capabilities), hello.version))
        self.watch = Watch(peer, Hello(peer.version, self._capabilities, hello.client_info), self._heard)

    def _heard(self, note: Message) -> None:
        session = self.session
        if (note.method or "").endswith("/list_changed") and not session.view.is_plain:
            session.view.changed(self.target, note.method or "")
        else:
            session.tell(session.outward_note(self.target, note).raw)

    async def listen(self) -> None:
        """The caller has a stream for what belongs to no request."""
        self.watch.start()

    async def close(self) -> None:
        """The session ends."""
        self.watch.stop()

    def _envelope(self) -> requests.Envelope:
        level = self.session.level
        return requests.Envelope(
            self.peer.version, self._capabilities, self.session.hello.client_info, None if level is None else message.text(level))

    async def request(
        self, method: str, params: bytes | None, ident: bytes, sink: Sink | None, *, headers: Headers = (), timeout_s: float | None = None
    ) -> bytes:
        """Like `Peer.request`, answered as a legacy target would."""
        if method in ("resources/subscribe", "resources/unsubscribe"):
            return await self._subscribe(method, params)
        params = again = requests.own_params(params)
        refreshed = False
        for number in range(rounds.MAX_ROUNDS):
            annotations = await self._annotations(method, again)
            out = requests.to_modern(method, again, self._envelope(), annotations)
            extra = [(name.lower(), value) for name, value in out.headers if name.lower().startswith(b"mcp-param-")]
            own = ident if number == 0 else b'"agw-%d-%b"' % (number, secrets.token_hex(4).encode())
            try:
                raw = await self.peer.request(method, out.params, own, sink, headers=[*headers, *extra], timeout_s=timeout_s)
            except errors.TargetError as error:
                if error.code == errors.HEADER_MISMATCH and method == "tools/call" and not refreshed:
                    self._schemas, refreshed = None, True
                    continue
                raise bridge_errors.to_legacy(error.raw(), method) from None
            if results.result_type(raw) != results.INPUT_REQUIRED:
                return results.to_legacy(method, raw, self.session.hello.version)
            asked = rounds.split(raw, method)
            answered = await self._ask(asked.questions, sink) if asked.questions else None
            if answered is None:
                await asyncio.sleep(STATE_ONLY_PAUSE_S)
            again = rounds.retry_params(params, answered, asked.state)
        raise errors.RpcError(errors.INTERNAL, "The target asked for input too many times", reason="bridge")

    async def fetch(self, method: str, params: bytes, hello: Hello) -> bytes:
        """A list, as the target gives it."""
        out = requests.to_modern(method, params, self._envelope())
        return await self.peer.request(method, out.params, b'"agw-list"', None)

    async def _ask(self, questions: list[rounds.Question], sink: Sink | None) -> bytes:
        session = self.session
        missing = rounds.undeclared(questions, message.members(session.hello.capabilities))
        if missing is not None or not isinstance(sink, Flight):
            raise errors.RpcError(errors.INTERNAL, f"The target asks for something the client did not declare: {missing}", reason="bridge")
        flight = sink
        loop = asyncio.get_running_loop()
        waiting: list[tuple[rounds.Question, asyncio.Future[bytes]]] = []
        idents: list[bytes] = []
        try:
            for question in questions:
                future: asyncio.Future[bytes] = loop.create_future()
                waiting.append((question, future))
                idents.append(session.ask(question, flight.answer.send, future))
            async with asyncio.timeout(ANSWER_S):
                answered = [(question, message.parse(await future)) for question, future in waiting]
        except TimeoutError:
            raise errors.RpcError(errors.INTERNAL, "The client did not answer the target's question in time", reason="bridge") from None
        finally:
            for ident in idents:
                session.pending.pop(ident, None)
        return rounds.input_responses(answered)

    async def _annotations(self, method: str, params: bytes | None) -> param_headers.Annotations | None:
        """What the tool wants mirrored in headers, from the target's own list."""
        if method != "tools/call" or self.target.plan.kind != "http":
            return None
        if self._schemas is None:
            self._schemas = {}
            cursor: bytes | None = None
            for _ in range(64):
                page = message.members(await self.fetch(
                    "tools/list", b"{}" if cursor is None else b'{"cursor":%b}' % cursor, self.session.hello))
                for tool in message.elements(page.get("tools")):
                    if b"x-mcp-header" not in bytes(tool):
                        continue
                    parts = message.members(tool)
                    found = param_headers.annotations(parts.get("inputSchema"))
                    name = message.text(parts.get("name"))
                    if found and name is not None:
                        self._schemas[name] = found
                following = page.get("nextCursor")
                if following is None or message.text(following) is None:
                    break
                cursor = bytes(following)
        return self._schemas.get(message.text(message.members(params).get("name")) or "")

    async def _subscribe(self, method: str, params: bytes | None) -> bytes:
        uri = message.text(message.members(params).get("uri"))
        if uri is None:
            raise errors.RpcError(errors.INVALID_PARAMS, "params.uri must be a string")
        if "resources" not in self.capabilities:
            raise errors.method_not_found(method)
        self.watch.watch(uri, method == "resources/subscribe")
        return b"{}"


class OverLegacy:
    """A modern request's conversation with a legacy target: a pooled session, or the one its earlier round is parked in."""

    def __init__(self, farm: Farm, target: Target, request: ModernRequest, hello: Hello, audience: bytes) -> None:
        self.farm = farm
        self.target = target
        self.caller = request
        self.hello = hello
        self.audience = audience
        self.result: Members = {}
        self.capabilities: Members = {}

    @classmethod
    async def open(cls, farm: Farm, target: Target, request: ModernRequest) -> OverLegacy:
        """Make sure that the target can be reached and learn what it offers. Errors: RpcError."""
        declared = capabilities.client_to_legacy(message.members(request.hello.capabilities))
        hello = Hello(revisions.NEWEST_LEGACY, message.encode(declared), request.hello.client_info)
        level = message.text(request.level)
        audience = request.audience + (level or "").encode()
        self = cls(farm, target, request, hello, audience)
        pooled = await self._borrow(alone=False)
        self.result, self.capabilities = pooled.peer.result, pooled.peer.capabilities
        farm.give_back(pooled)
        return self

    async def _borrow(self, *, alone: bool) -> Pooled:
        pooled = await self.farm.borrow(self.target, self.hello, self.audience, alone=alone)
        level = self.caller.level
        peer = pooled.peer
        if level is not None and peer.level != level and "logging" in peer.capabilities:
            peer.level = level
            try:
                await peer.request("logging/setLevel", b'{"level":%b}' % level, b'"agw-level"', None)
            except errors.RpcError as error:
                log.info("a target did not take the log level", extra={"target": self.target.name, "error": error.message})
        return pooled

    async def fetch(self, method: str, params: bytes, hello: Hello) -> bytes:
        """A list, as the target gives it."""
        pooled = await self._borrow(alone=False)
        try:
            return await pooled.peer.request(method, params, b'"agw-list"', None)
        finally:
            self.farm.give_back(pooled)

    async def request(
        self, method: str, params: bytes | None, ident: bytes, sink: Sink | None, *, headers: Headers = (), timeout_s: float | None = None
    ) -> bytes:
        """Like `Peer.request`, answered as a modern target would."""
        retry = rounds.parse_retry(params)
        lot = self.caller.view.service.parking
        parked: Parked | None = None
        if retry.state is not None:
            parked = lot.claim(retry.state, self.caller.principal, method, retry.params)
            if parked is None:
                raise errors.RpcError(errors.INVALID_PARAMS, "Unknown or expired requestState", status=400)
            parked.answer(retry.responses)
        else:
            pooled = await self._borrow(alone=self.target.is_channel)
            legacy = [(name, value) for name, value in headers if not name.startswith(b"mcp-param-")]
            parked = Parked(self.farm, pooled, method, retry.params, message.members(self.caller.hello.capabilities), self.caller.principal)
            parked.start(requests.to_legacy(retry.params), ident, legacy, timeout_s)
        try:
            outcome = await parked.step(sink)
        except errors.TargetError as error:
            round_ = bridge_errors.url_round(error.raw(), method, message.members(self.caller.hello.capabilities))
            if round_ is not None:
                return round_
            raise bridge_errors.to_modern(error.raw()) from None
        except asyncio.CancelledError:
            await asyncio.shield(parked.abandon())
            raise
        if isinstance(outcome, bytes):
            return results.to_modern(method, outcome, bytes(self.result["serverInfo"]) if "serverInfo" in self.result else None)
        return rounds.input_required(outcome, lot.park(parked))


