"""MCP clients made of plain HTTP: every header and octet is the test's, streams are read event by event.

    session = Session(Endpoint(port, "/mcp"))           # initialize, notifications/initialized
    answer = session.call("echo", {"text": "x"})         # tools/call; the response message
    with session.open("tools/call", {...}) as stream:    # the same, read as it comes

Every request has a connection of its own, so that with several workers any of them may get it. Waits are bounded
(`PATIENCE`).
"""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

PATIENCE = 8.0
NEWEST = "2025-11-25"
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
BOTH = "application/json, text/event-stream"


class Event(NamedTuple):
    """One event of a stream; `data` None when the block has none."""

    id: str | None
    data: str | None
    retry: int | None

    @property
    def message(self) -> Any:
        return json.loads(self.data or "null")


class Answer(NamedTuple):
    """A whole HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def messages(self) -> list[Any]:
        """The JSON-RPC messages in it, in whichever form."""
        return [json.loads(raw) for raw in self.raws]

    @property
    def raws(self) -> list[bytes]:
        """The same as octets."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return [line[5:].strip() for line in self.body.split(b"\n") if line.startswith(b"data:") and line[5:].strip()]
        return [self.body] if self.body else []

    @property
    def message(self) -> Any:
        """The last message: the response."""
        return self.messages[-1]

    @property
    def error(self) -> Any:
        """The error of the response."""
        assert "error" in self.message, (self.status, self.body[:500])
        return self.message["error"]

    @property
    def result(self) -> Any:
        """The result of the response."""
        assert "result" in self.message, (self.status, self.body[:500])
        return self.message["result"]

    @property
    def text(self) -> str:
        """The text of a tool's result."""
        return "".join(part["text"] for part in self.result["content"])


class Stream:
    """An answer read as it comes."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self.response = connection.getresponse()
        self.status = self.response.status
        self.headers = {name.lower(): value for name, value in self.response.getheaders()}
        self.last_id: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        if self.connection.sock is not None:
            self.connection.sock.close()
        self.response.close()
        self.connection.close()

    def patience(self, seconds: float) -> None:
        """How long a read may take from now on."""
        sock = self.connection.sock or getattr(getattr(self.response.fp, "raw", None), "_sock", None)
        assert sock is not None
        sock.settimeout(seconds)

    def event(self) -> Event | None:
        """The next event with an id, data or retry; None at the end. Comments are passed over. Errors: TimeoutError."""
        ident: str | None = None
        data: str | None = None
        retry: int | None = None
        while line := self.response.readline():
            line = line.rstrip(b"\r\n")
            if not line:
                if ident is not None or data is not None or retry is not None:
                    return Event(ident, data, retry)
                continue
            name, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data = value if data is None else data + "\n" + value
            elif name == "id":
                ident = self.last_id = value
            elif name == "retry":
                retry = int(value)
        return None

    def message(self) -> Any:
        """The next JSON-RPC message. Errors: EOFError at the end of the stream."""
        while True:
            event = self.event()
            if event is None:
                raise EOFError("the stream ended")
            if event.data:
                return event.message

    def until(self, fits: Callable[[Any], bool]) -> Any:
        """The first message that fits."""
        while not fits(found := self.message()):
            pass
        return found

    def rest(self) -> list[Any]:
        """All messages until the end."""
        found = []
        while (event := self.event()) is not None:
            if event.data:
                found.append(event.message)
        return found

    def messages_for(self, seconds: float) -> list[Any]:
        """What comes within `seconds` of silence, then leave."""
        found = []
        self.patience(seconds)
        try:
            while (event := self.event()) is not None:
                if event.data:
                    found.append(event.message)
        except TimeoutError:
            pass
        self.close()
        return found


class Endpoint:
    """Where a server is."""

    def __init__(self, port: int, path: str = "/mcp") -> None:
        self.port = port
        self.path = path

    def connect(self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> http.client.HTTPConnection:
        """Send one request on a connection of its own. A header whose value is None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        fields = {"Accept": BOTH if method == "POST" else "text/event-stream"}
        if body is not None:
            fields["Content-Type"] = "application/json"
        merged = {name: value for name, value in {**fields, **(headers or {})}.items() if value is not None}
        connection.request(method, self.path, body, merged)
        return connection

    def send(self, method: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        """One request and its whole answer; `body` as octets, or something to encode."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = self.connect(method, raw, headers)
        try:
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, body: object, headers: dict[str, str] | None = None) -> Answer:
        """A POST."""
        return self.send("POST", body, headers)

    def modern(self, method: str, params: dict[str, Any] | None = None, *, ident: Any = 1, headers: dict[str, str] | None = None,
               meta: dict[str, Any] | None = None, capabilities: dict[str, Any] | None = None) -> Answer:
        """A modern request, correct but for what `headers` (None removes one) and `meta` say."""
        return self.post(*modern_request(method, params, ident, headers, meta, capabilities))

    def modern_stream(self, method: str, params: dict[str, Any] | None = None, *, ident: Any = 1, headers: dict[str, str] | None = None,
                      meta: dict[str, Any] | None = None, capabilities: dict[str, Any] | None = None) -> Stream:
        """The same, read as it comes."""
        body, fields = modern_request(method, params, ident, headers, meta, capabilities)
        return Stream(self.connect("POST", body, fields))


class As(Endpoint):
    """An endpoint whose requests all carry one bearer token, or None."""

    def __init__(self, port: int, bearer: str | None, path: str = "/mcp") -> None:
        super().__init__(port, path)
        self.bearer = bearer

    def connect(self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> http.client.HTTPConnection:
        own = {} if self.bearer is None else {"Authorization": f"Bearer {self.bearer}"}
        return super().connect(method, body, {**own, **(headers or {})})


def modern_request(method: str, params: dict[str, Any] | None, ident: Any, headers: dict[str, str] | None, meta: dict[str, Any] | None,
                   capabilities: dict[str, Any] | None) -> tuple[bytes, dict[str, str]]:
    """Body and header fields."""
    params = dict(params or {})
    envelope = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": capabilities or {}, f"{META}clientInfo": {"name": "t", "version": "1"}}
    params["_meta"] = {name: value for name, value in {**envelope, **(meta or {})}.items() if value is not ...}
    fields = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    name = params.get("taskId") if method.startswith("tasks/") else params.get("uri") if method == "resources/read" else params.get("name")
    if isinstance(name, str):
        fields["Mcp-Name"] = name
    return json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode(), {**fields, **(headers or {})}


def initialize(version: str = NEWEST, capabilities: dict[str, Any] | None = None, ident: Any = 0) -> dict[str, Any]:
    """The message that opens a session."""
    params = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": {"name": "test", "version": "1"}}
    return {"jsonrpc": "2.0", "id": ident, "method": "initialize", "params": params}


class Session:
    """A legacy session."""

    def __init__(self, endpoint: Endpoint, version: str = NEWEST, capabilities: dict[str, Any] | None = None) -> None:
        self.endpoint = endpoint
        self._ids = itertools.count(1)
        self.opened = endpoint.post(initialize(version, capabilities))
        assert self.opened.status == 200, (self.opened.status, self.opened.body[:500])
        self.id = self.opened.headers.get("mcp-session-id", "")
        self.hello = self.opened.result
        self.version = self.hello["protocolVersion"]
        self.headers = {"Mcp-Session-Id": self.id}
        if self.version >= "2025-06-18":
            self.headers["MCP-Protocol-Version"] = self.version
        assert self.notify("notifications/initialized").status == 202

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.delete()

    def message(self, method: str, params: Any = None, ident: Any = None) -> dict[str, Any]:
        """A request."""
        return {"jsonrpc": "2.0", "id": next(self._ids) if ident is None else ident, "method": method, **({} if params is None else {"params": params})}

    def post(self, body: object, headers: dict[str, str] | None = None) -> Answer:
        """Anything."""
        return self.endpoint.post(body, {**self.headers, **(headers or {})})

    def request(self, method: str, params: Any = None, *, ident: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """A request and its whole answer."""
        return self.post(self.message(method, params, ident), headers)

    def notify(self, method: str, params: Any = None) -> Answer:
        """A notification."""
        return self.post({"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})})

    def call(self, tool: str, arguments: Any = None, *, ident: Any = None, meta: Any = None) -> Answer:
        """A tool."""
        return self.request("tools/call", call(tool, arguments, meta), ident=ident)

    def open(self, method: str, params: Any = None, *, ident: Any = None, headers: dict[str, str] | None = None) -> Stream:
        """A request, read as it comes."""
        body = json.dumps(self.message(method, params, ident)).encode()
        return Stream(self.endpoint.connect("POST", body, {**self.headers, **(headers or {})}))

    def open_call(self, tool: str, arguments: Any = None, *, ident: Any = None, meta: Any = None) -> Stream:
        """A tool, read as it comes."""
        return self.open("tools/call", call(tool, arguments, meta), ident=ident)

    def listen(self, last_event_id: str | None = None) -> Stream:
        """The GET stream."""
        extra = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        return Stream(self.endpoint.connect("GET", None, {**self.headers, **extra}))

    def answer(self, ask: Any, result: Any) -> Answer:
        """Answer a request of the server."""
        return self.post({"jsonrpc": "2.0", "id": ask["id"], "result": result})

    def delete(self) -> Answer:
        """End it."""
        return self.endpoint.send("DELETE", None, self.headers)

    def names(self, method: str = "tools/list") -> list[str]:
        """The names (or URIs) in a list, over all pages."""
        return [item.get("uri") or item.get("name") for item in self.all(method)]

    def all(self, method: str = "tools/list") -> list[Any]:
        """All items of a list."""
        return list(self._pages(method))

    def _pages(self, method: str) -> Iterator[Any]:
        params: dict[str, Any] | None = None
        for _ in range(1000):
            page = self.request(method, params).result
            [items] = [value for value in page.values() if isinstance(value, list)]
            yield from items
            if "nextCursor" not in page:
                return
            params = {"cursor": page["nextCursor"]}
        raise AssertionError("pages without end")


def call(tool: str, arguments: Any = None, meta: Any = None) -> dict[str, Any]:
    """The params of a tools/call."""
    return {"name": tool, **({} if arguments is None else {"arguments": arguments}), **({} if meta is None else {"_meta": meta})}
