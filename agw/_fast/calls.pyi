"""MCP requests that need no Python code: known session, known target, known name, in the plainest form.

The service (agw.mcp) judges a request fully and then notes here what it found; the exchange asks `find_way` before it hands
a request over. A request that is answered this way costs what a relayed request costs.

Rules:
- only requests that the service would send to one target over HTTP unchanged but for a name: `tools/call`, and with one
  target (`plain`) also `tools/list`, `prompts/get` and `resources/read`;
- everything unusual is left to the service, which knows all the rules;
- an answer that is no plain JSON result goes to the service too, on the connection it came on (`Fetch` adopts it).

C functions: `find_way(table, head, buf, envelope, body, n, rpc, way, found)`, `may_relay(table, text, n)`.
"""

from typing import Protocol, type_check_only

from typing_extensions import disjoint_base

from agw._fast.policy import Choice

@type_check_only
class Flight(Protocol):
    """A request under way (the exchange)."""

    def give_up(self) -> int:
        """The client cancelled it: its answer ends without a response. Returns the number of its target."""

@disjoint_base
class CallSession:
    """A session's ways. Owner: the service, which takes it out of `CallTable.sessions` when the session ends."""

    def __init__(self, choices: list[Choice | None], version: bytes, log_fields: bytes = b"", principal: bytes = b"") -> None:
        """`choices` by target, each with the target's session id in its header edits; `version` as negotiated; `log_fields`: a JSON
        fragment for the access log, empty or from a comma on."""
    @property
    def choices(self) -> list[Choice | None]:
        """May be changed in place when a target's session is opened anew."""
    @property
    def version(self) -> bytes: ...
    @property
    def log_fields(self) -> bytes: ...
    @property
    def principal(self) -> bytes:
        """`Identity.key` of whoever may use it."""
    @property
    def flights(self) -> dict[bytes, Flight]:
        """By raw id: what is under way here."""
    @property
    def used_ns(self) -> int:
        """When it was used last, on the reactor's clock; 0: not yet."""

@disjoint_base
class CallTable:
    """What one service lets the data path do without it."""

    def __init__(self, targets: int, plain: bool, guarded: bool, watched: bool) -> None:
        """`guarded`: only requests with a Host from `learn_host` and without Origin. `watched`: results may need rewriting."""
    @property
    def sessions(self) -> dict[bytes, CallSession]:
        """By session id; the service adds and removes."""
    @property
    def tools(self) -> dict[bytes, tuple[int, bytes, bool]]:
        """Target and own name by public name, both raw."""
    @property
    def modern(self) -> list[Choice | None]:
        """By target: where modern requests go."""
    @property
    def hosts(self) -> set[bytes] | None: ...
    @property
    def plain(self) -> bool: ...
    @property
    def watched(self) -> bool: ...
    def learn_tool(self, public: bytes, target: int, own: bytes, modern: bool) -> None:
        """A tool's public name leads to `own` at `target`. Bounded: a full table starts anew.

        `modern`: no argument has to be mirrored in a header, so modern requests may go this way too.
        """
    def learn_host(self, host: bytes) -> None:
        """A value of Host passed the guard."""
    @property
    def stamp(self) -> int:
        """Another one whenever a name may lead elsewhere than before; licences (`gate.License`) bear it."""
    def forget_tools(self) -> None:
        """Names may lead elsewhere now."""

def contains(text: bytes, needle: bytes, rare: int) -> bool:
    """How answers are searched: is `needle` in `text`? `rare` is the index of its rarest octet, which is looked for first. For tests."""
