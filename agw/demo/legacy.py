"""Streamable HTTP of 2025-03-26 to 2025-11-25: initialize, sessions, GET and DELETE.

Source: the "Lifecycle" and "Transports" pages of those revisions. Choices where the text leaves one:
- a client that asks for a version outside the range gets the nearest one in it (2024-11-05 gets 2025-03-26);
- a request is answered as JSON unless it asks for progress; then as an event stream, without event ids;
- a client that goes away does not cancel its call ("disconnection SHOULD NOT be interpreted as cancelling"); the call
  ends by itself within a minute and its messages are dropped, since there is nothing to resume;
- a cancelled call is answered by an empty event stream: there is no response to a cancelled request;
- batches exist in 2025-03-26 only; their requests run one after the other, without progress.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

from agw.admin.message import HttpError, Request, Response, event_stream
from agw.demo import tools
from agw.demo.answers import CAPABILITIES, INSTRUCTIONS, Answer, internal_error, server_info
from agw.demo.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Id,
    Message,
    Object,
    RpcError,
    classify,
    encode,
    failure,
    result,
)
from agw.demo.sessions import MAX_CALLS, MAX_STREAMS, Session, SessionTable
from agw.demo.streams import Outbox, idle_events, no_events, progress, progress_token

log = logging.getLogger(__name__)

VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
"""Versions spoken here, oldest first. They are dates, so text order is their order."""

BATCH_VERSION = "2025-03-26"
MAX_BATCH = 50

_SESSION_HEADER = "mcp-session-id"
_VERSION_HEADER = "mcp-protocol-version"


def nearest_version(requested: str) -> str:
    """The version to answer an `initialize` with: the requested one, else the newest before it, else the oldest."""
    return max((version for version in VERSIONS if version <= requested), default=VERSIONS[0])


class LegacyEndpoint:
    """The MCP endpoint for clients of the session-based versions. Owner: the caller's loop; `close` ends all calls."""

    def __init__(self, sessions: SessionTable, keep_alive_s: float) -> None:
        self._sessions = sessions
        self._keep_alive_s = keep_alive_s

    def close(self) -> None:
        """End all sessions and what runs for them."""
        self._sessions.end_all()

    async def post(self, request: Request, value: object) -> Response:
        """Answer a POST whose body is the JSON `value`. Errors: RpcError."""
        if isinstance(value, list):
            return await self._batch(self._session(request), value)
        message = classify(value)
        if message.method == "initialize" and message.id is not None and request.header(_SESSION_HEADER) is None:
            return self._initialize(message.id, message.params, Answer(request))
        session = self._session(request, message.id)
        if message.id is None:
            self._notify(session, message)
            return Response(202)
        answer = Answer(request)
        if message.method != "tools/call":
            return answer.json(result(message.id, self._result(session, message)))
        return await self._call(session, message.id, message.params, answer)

    async def get(self, request: Request) -> Response:
        """Open a session's stream. Nothing is ever sent on it but keep-alives, and its end with the session."""
        session = self._session(request)
        if not Answer(request).accepts_events:
            raise HttpError(406, "accept must allow text/event-stream")
        if session.streams >= MAX_STREAMS:
            raise HttpError(429, "too many streams in this session")
        return event_stream(self._session_stream(session), headers=((_SESSION_HEADER, session.id),))

    async def delete(self, request: Request) -> Response:
        """End a session."""
        self._sessions.end(self._session(request))
        return Response(204)

    def _session(self, request: Request, id: Id | None = None) -> Session:
        """The session a request names. Errors: RpcError with status 400 (none, or wrong version) or 404 (unknown)."""
        named = request.header_values(_SESSION_HEADER)
        if len(named) != 1:
            raise RpcError(INVALID_REQUEST, "exactly one Mcp-Session-Id is needed", id=id)
        session = self._sessions.find(named[0])
        if session is None:
            raise RpcError(INVALID_REQUEST, "no such session", status=404, id=id)
        # 2025-06-18 "Protocol Version Header": absent is allowed here, for the session tells the version.
        if any(version != session.version for version in request.header_values(_VERSION_HEADER)):
            raise RpcError(INVALID_REQUEST, f"this session speaks {session.version}", id=id)
        return session

    def _initialize(self, id: Id, params: Object, answer: Answer) -> Response:
        requested = params.get("protocolVersion")
        if not isinstance(requested, str) or not isinstance(params.get("capabilities"), dict):
            raise RpcError(INVALID_PARAMS, "protocolVersion and capabilities are needed", status=200, id=id)
        if not isinstance(params.get("clientInfo"), dict):
            raise RpcError(INVALID_PARAMS, "clientInfo is needed", status=200, id=id)
        version = nearest_version(requested)
        session = self._sessions.open(version)
        if session is None:
            raise RpcError(INTERNAL_ERROR, "too many sessions", status=503, id=id)
        agreed: Object = {
            "protocolVersion": version,
            "capabilities": CAPABILITIES,
            "serverInfo": server_info(titled=_is_structured(session)),
            "instructions": INSTRUCTIONS,
        }
        return answer.json(result(id, agreed), headers=((_SESSION_HEADER, session.id),))

    def _notify(self, session: Session, message: Message) -> None:
        """Take a notification or a response. Unknown ones are ignored: nobody could be told."""
        if message.method == "notifications/cancelled":
            id = message.params.get("requestId")
            # True equals 1 as a key, and is no id.
            if isinstance(id, (str, int)) and not isinstance(id, bool) and id in session.calls:
                session.calls[id].cancel()

    def _result(self, session: Session, message: Message) -> Object:
        """The result of a request that needs no waiting. Errors: RpcError, 200 where 404 would end the session."""
        if message.method == "ping":
            return {}
        if message.method == "tools/list":
            if message.params.get("cursor") is not None:
                raise RpcError(INVALID_PARAMS, "unknown cursor", status=200, id=message.id)
            return {"tools": tools.listing(structured=_is_structured(session))}
        if message.method == "initialize":
            raise RpcError(INVALID_REQUEST, "the session is initialized already", id=message.id)
        raise RpcError(METHOD_NOT_FOUND, "method not found", status=200, id=message.id)

    async def _call(self, session: Session, id: Id, params: Object, answer: Answer) -> Response:
        """`tools/call`: in a task of the session, so that it outlives the connection and can be cancelled by id."""
        outbox = Outbox()
        token = progress_token(params) if answer.accepts_events else None
        task = self._start(session, id, params, token, outbox.put, outbox.close)
        if token is not None or not answer.accepts_json:
            return event_stream(outbox.events(self._keep_alive_s))
        await asyncio.wait({task})  # unlike awaiting the task, this does not cancel it when the client leaves
        messages = outbox.messages()
        return answer.json(messages[-1]) if messages else event_stream(no_events())

    def _start(
        self,
        session: Session,
        id: Id,
        params: Object,
        token: Id | None,
        put: Callable[[Object], None],
        close: Callable[[], None],
    ) -> asyncio.Task[None]:
        """Begin a call. `put` gets its progress and its response (none if cancelled), `close` is called last."""
        if id in session.calls:
            raise RpcError(INVALID_REQUEST, "a request with this id is running", id=id)
        if len(session.calls) >= MAX_CALLS:
            raise RpcError(INTERNAL_ERROR, "too many requests in this session", status=429, id=id)
        try:
            run = tools.prepare(params, structured=_is_structured(session))
        except RpcError as error:
            error.id, error.status = id, 200
            raise

        async def report(done: int, total: int, text: str) -> None:
            if token is not None:
                put(progress(token, done, total, text))

        async def call() -> None:
            try:
                put(result(id, await run(report)))
            except Exception:  # the border of a call: a broken tool costs its caller one error
                log.exception("tool failed")
                put(failure(internal_error(), id))

        def finished(task: asyncio.Task[None]) -> None:
            session.calls.pop(id, None)
            self._sessions.touch(session)
            close()

        task = asyncio.get_running_loop().create_task(call())
        session.calls[id] = task
        task.add_done_callback(finished)
        return task

    async def _batch(self, session: Session, values: list[object]) -> Response:
        if session.version != BATCH_VERSION:
            raise RpcError(INVALID_REQUEST, f"{session.version} has no batches")
        if not 0 < len(values) <= MAX_BATCH:
            raise RpcError(INVALID_REQUEST, f"a batch has 1 to {MAX_BATCH} messages")
        responses: list[Object] = []
        for value in values:
            try:
                message = classify(value)
                if message.id is None:
                    self._notify(session, message)
                elif message.method != "tools/call":
                    responses.append(result(message.id, self._result(session, message)))
                else:
                    done = self._start(session, message.id, message.params, None, responses.append, lambda: None)
                    await asyncio.wait({done})
            except RpcError as error:
                responses.append(failure(error))
        if not responses:
            return Response(202)
        return Response(200, encode(responses), (("content-type", "application/json"),))

    async def _session_stream(self, session: Session) -> AsyncGenerator[bytes, None]:
        session.streams += 1
        try:
            async for event in idle_events(session.ended, self._keep_alive_s):
                yield event
        finally:
            session.streams -= 1
            self._sessions.touch(session)


def _is_structured(session: Session) -> bool:
    return session.version >= "2025-06-18"
