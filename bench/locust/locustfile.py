"""A realistic MCP mix over streamable HTTP: what agents do all day, rather than the fastest loop of one call.

Each user opens a session (initialize, notifications/initialized, tools/list), keeps a GET event stream open beside it,
calls the tools `echo` and `add` with pauses, lists the tools now and then, and after some calls ends the session
(DELETE) and starts again. Every answer is checked: id, result, echoed text. Revision 2025-06-18, session id in a
header; answers may be JSON or an event stream.

The server behind the gateway must offer `echo {text}` and `add {a, b}`; load/sse_backend.py does. Locust's own
ceiling is about 3,000 requests per second and process: this measures behaviour under a mix, not the ceiling of the
gateway.

Environment: MCP_PATH (/mcp), MCP_STREAM=0 (no GET stream), MCP_CALLS (calls per session, 20), MCP_WAIT_S (longest
pause between calls, 0.5; the shortest is a tenth of it).
"""

import json
import os
import random
from typing import Any

import gevent  # type: ignore[import-untyped,unused-ignore]
from locust import FastHttpUser, between, events, task
from locust.exception import StopUser

PATH = os.environ.get("MCP_PATH", "/mcp")
WITH_STREAM = os.environ.get("MCP_STREAM", "1") != "0"
CALLS_PER_SESSION = int(os.environ.get("MCP_CALLS", "20"))
LONGEST_WAIT_S = float(os.environ.get("MCP_WAIT_S", "0.5"))
REVISION = "2025-06-18"
BOTH = "application/json, text/event-stream"
_OPEN_RETRIES = 5


class McpUser(FastHttpUser):
    """One agent with one session at a time."""

    wait_time = between(LONGEST_WAIT_S / 10, LONGEST_WAIT_S)
    network_timeout = 30.0
    connection_timeout = 10.0

    def on_start(self) -> None:
        """Open the first session."""
        self._reader: gevent.Greenlet | None = None
        self._open()

    def on_stop(self) -> None:
        """End the session that is open."""
        self._close()

    @task(12)
    def call_echo(self) -> None:
        """tools/call with text of 10 to 2,000 characters."""
        text = "x" * random.choice((10, 100, 100, 500, 2000))
        result = self._request("tools/call", {"name": "echo", "arguments": {"text": text}}, "tools/call echo", text)
        self._count(result)

    @task(6)
    def call_add(self) -> None:
        """tools/call with two numbers."""
        a, b = random.randrange(1000), random.randrange(1000)
        result = self._request(
            "tools/call", {"name": "add", "arguments": {"a": a, "b": b}}, "tools/call add", str(a + b)
        )
        self._count(result)

    @task(1)
    def list_tools(self) -> None:
        """tools/list, as clients do after a list_changed."""
        self._request("tools/list", {}, "tools/list", "echo")

    @task(1)
    def ping(self) -> None:
        """Ping."""
        self._request("ping", {}, "ping")

    def _count(self, result: object) -> None:
        self._calls += 1
        if result is None or self._calls >= CALLS_PER_SESSION:
            self._close()
            self._open()

    def _open(self) -> None:
        """Initialize a session; give up this user after some attempts."""
        self._calls = 0
        self._next_id = 0
        self._session = ""
        client = {"name": "agw-locust", "version": "1"}
        params = {"protocolVersion": REVISION, "capabilities": {}, "clientInfo": client}
        for _ in range(_OPEN_RETRIES):
            if self._request("initialize", params, "initialize", "protocolVersion") is not None:
                break
            gevent.sleep(1)
        else:
            raise StopUser
        self._notify("notifications/initialized")
        self._request("tools/list", {}, "tools/list", "echo")
        if WITH_STREAM:
            self._reader = gevent.spawn(self._read_stream)

    def _close(self) -> None:
        """DELETE the session and stop reading its stream."""
        if self._reader is not None:
            self._reader.kill(block=True, timeout=1)
            self._reader = None
        if self._session:
            with self.client.delete(PATH, headers=self._headers(), name="DELETE", catch_response=True) as answer:
                # 405: the server does not let clients end sessions (MCP 2025-06-18, transports, session management)
                if answer.status_code in (200, 202, 204, 405):
                    answer.success()
                else:
                    answer.failure(f"status {answer.status_code}")
            self._session = ""

    def _headers(self, accept: str = BOTH) -> dict[str, str]:
        headers = {"Accept": accept, "Content-Type": "application/json"}
        if self._session:
            headers |= {"Mcp-Session-Id": self._session, "MCP-Protocol-Version": REVISION}
        return headers

    def _request(self, method: str, params: dict[str, Any], name: str, expect: str = "") -> Any:
        """Send a request and return its result; None, and a failure in the statistics, if it is not the right one."""
        self._next_id += 1
        message = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}
        body = json.dumps(message, separators=(",", ":"))
        with self.client.post(PATH, data=body, headers=self._headers(), name=name, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}: {(answer.text or '')[:100]}")
                return None
            reply = find_reply(answer.text or "", answer.headers.get("content-type") or "", self._next_id)
            if reply is None or "result" not in reply:
                answer.failure(f"no result: {(answer.text or '')[:100]}")
                return None
            if expect and expect not in json.dumps(reply["result"]):
                answer.failure("wrong result")
                return None
            if method == "initialize":
                self._session = answer.headers.get("mcp-session-id") or ""
            answer.success()
            return reply["result"]

    def _notify(self, method: str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "method": method})
        with self.client.post(PATH, data=body, headers=self._headers(), name=method, catch_response=True) as answer:
            if answer.status_code in (200, 202, 204):
                answer.success()
            else:
                answer.failure(f"status {answer.status_code}")

    def _read_stream(self) -> None:
        """Read the GET stream until it is killed; each event is counted as `GET stream: event`."""
        with self.client.get(
            PATH, headers=self._headers("text/event-stream"), name="GET stream: open", stream=True, catch_response=True
        ) as answer:
            if answer.status_code == 405:  # the server offers no stream, which is allowed
                answer.success()
                return
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return
            answer.success()
        try:
            while line := answer._response.readline(b"\n"):  # geventhttpclient hands lines out as they arrive
                if line.startswith(b"data:"):
                    events.request.fire(  # type: ignore[no-untyped-call,unused-ignore]
                        request_type="SSE",
                        name="GET stream: event",
                        response_time=None,  # an event answers nothing; only their number means something
                        response_length=len(line),
                        exception=None,
                        context={},
                    )
        except (OSError, gevent.GreenletExit):
            pass
        finally:
            answer._response.release()


def find_reply(text: str, content_type: str, wanted: int) -> dict[str, Any] | None:
    """The JSON-RPC message with the wanted id in a JSON body or in the events of a stream."""
    if "text/event-stream" in content_type:
        lines = text.replace("\r\n", "\n").split("\n")
        found = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    else:
        found = [text]
    for candidate in filter(None, found):
        try:
            message = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(message, dict) and message.get("id") == wanted:
            return message
    return None
