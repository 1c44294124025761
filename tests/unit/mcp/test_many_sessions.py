"""What is shared or spread because sessions are many."""

from agw.mcp import message
from agw.mcp.streams import KEEP_ALIVE, KEEP_ALIVE_S, EventStream
from agw.mcp.target import MAX_GREETINGS, Target
from agw.runtime.plan import McpTargetPlan

HELLO = b'{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"n%d","version":"1"}}'


class Client:
    """Takes the place of a call."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.on_close: object = None
        self.open = True

    def start(self, status: int, lines: bytes) -> None:
        """The head."""

    def write(self, data: bytes) -> None:
        """A piece."""
        self.written.append(data)


def target() -> Target:
    return Target(0, McpTargetPlan(name="t", kind="stdio"), None, 0)


def test_equal_greetings_are_kept_once() -> None:
    server = target()
    first, again = server.greeting(HELLO % 1), server.greeting(bytes(bytearray(HELLO % 1)))
    assert first is again
    assert message.text(first[0]["protocolVersion"]) == "2025-06-18"
    assert set(first[1]) == {"tools"}


def test_greetings_are_bounded() -> None:
    server = target()
    for number in range(3 * MAX_GREETINGS):
        server.greeting(HELLO % number)
    assert len(server._greetings) <= MAX_GREETINGS


def test_only_a_silent_stream_is_kept_alive() -> None:
    stream, client = EventStream(), Client()
    stream.attach(client, prime=False)  # type: ignore[arg-type]
    begun = stream._said_at
    assert client.written == [KEEP_ALIVE]
    stream.look_after(begun + KEEP_ALIVE_S - 1)
    assert client.written == [KEEP_ALIVE]
    stream.look_after(begun + KEEP_ALIVE_S)
    assert client.written == [KEEP_ALIVE] * 2
    stream.look_after(begun + KEEP_ALIVE_S + 5)
    assert client.written == [KEEP_ALIVE] * 2


def test_a_result_is_put_together() -> None:
    assert message.result(b'"a"', b'{"x":1}') == b'{"jsonrpc":"2.0","id":"a","result":{"x":1}}'
