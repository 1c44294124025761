"""A finished request as the access log's expressions see it (`agw.security.contract.Request`, and what came of it).

Rules:
- made while the exchange finishes, of what it noted; a LogView holds copies and outlives it;
- header fields, query and parameters are there only when `AccessLog.looks` was set as the request came.
"""

from typing import Any

from typing_extensions import disjoint_base

from agw._fast.exchange import Exchange

@disjoint_base
class LogView:
    """One request. Made by `view` only."""

    @property
    def method(self) -> str:
        """"" for what was no request."""
    @property
    def path(self) -> bytes:
        """Normalised."""
    @property
    def query(self) -> bytes | None: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case, wire order."""
    @property
    def peer(self) -> bytes:
        """The client's address without port."""
    @property
    def secure(self) -> bool: ...
    @property
    def hopped(self) -> bool: ...
    @property
    def labels(self) -> tuple[str, str, str, str, str] | None:
        """(bind, gateway, listener, route, rule); None without a route."""
    @property
    def credentials(self) -> tuple[bytes, ...]:
        """Lower-case names of headers that hold credentials for this gateway."""
    @property
    def elsewhere(self) -> bool:
        """May the query or a cookie hold one?"""
    @property
    def certificate(self) -> Any: ...
    @property
    def status(self) -> int: ...
    @property
    def answer(self) -> list[tuple[bytes, bytes]]:
        """Fields of the upstream's answer; none of the gateway's own answers."""
    @property
    def rpc(self) -> str:
        """Method of the MCP message, "" for none."""
    @property
    def kind(self) -> str:
        """tool, prompt, resource or ""."""
    @property
    def name(self) -> str:
        """Of the tool, prompt or resource, as the client says it."""
    @property
    def target(self) -> str:
        """Name of the MCP target, "" when there was none or several."""
    @property
    def params(self) -> bytes | None:
        """Parameters of the MCP message, JSON."""
    @property
    def backend(self) -> str: ...
    @property
    def protocol(self) -> str:
        """http or mcp, "" without a backend."""
    @property
    def started_ns(self) -> int:
        """When it came, ns since the epoch."""
    def values(self, name: bytes) -> list[bytes]:
        """All values of a request header; `name` in lower case."""

def view(x: Exchange) -> LogView:
    """The request of an exchange that finishes. Errors: ValueError when it is over."""
