"""HTTP/1.1 framing: heads to offsets, bodies to runs of octets. Never touches a socket and never reads a clock.

The data path uses the C functions of http1.pxd; the classes here are the same machine for tests, fuzzing and tools.

Rules:
- what is said about an octet stream depends on the octets only, never on how they were split;
- CRLF only, one reading only: whatever two parsers could understand differently is an error (RFC 9112 section 11.2);
- ERROR is for ever; nothing behind a framing error is looked at;
- every loop is linear in the input, every length and count has a limit;
- no exception for bad input: only misuse (wrong types) and lack of memory raise.

Sources: RFC 9110 (semantics), RFC 9112 (framing), RFC 3986 (targets). docs/http.md lists what is refused.
"""

from typing import Final, Self

from typing_extensions import disjoint_base

NEED_DATA: Final = 0
"""`next_event`: everything fed so far is used up; feed more."""
HEAD: Final = 1
"""`next_event`: a head is complete, and the properties describe it."""
BODY: Final = 2
"""`next_event`: `body` has one or more octets of content."""
END: Final = 3
"""`next_event`: the message is complete. The next event belongs to the next message."""
ERROR: Final = 4
"""`next_event`: framing is lost; `error` says why. The connection cannot be used any more."""

@disjoint_base
class Limits:
    """Bounds of one parser; immutable, and may be shared.

    Units:  octets, except `max_headers` (fields).
    Errors: ValueError outside 0 to 64 MiB (fields: 0 to 65535).
    """

    def __init__(
        self,
        *,
        max_line: int = 8192,
        max_field: int = 16384,
        max_head: int = 32768,
        max_headers: int = 100,
        max_chunk_line: int = 4096,
        max_chunk_ext: int = 16384,
        max_trailers: int = 8192,
    ) -> None:
        """State the bounds.

        max_line: the request or status line (414, or 502 in a response); max_field: one field line (431);
        max_head, max_headers: the whole head including its last empty line, and its fields (431); max_chunk_line: one
        chunk-size line; max_chunk_ext: all chunk extensions of a body together; max_trailers: the trailer section (400).
        """

@disjoint_base
class Parser:
    """What both directions have in common; use RequestParser or ResponseParser.

    Invariant: however the input is split, the same heads, body octets and ends, or the same ERROR.
    Owner:  the parser holds the octets it was fed until they are used; bytes handed out are copies.
    Sequence: HEAD BODY* END, again and again; interim responses add heads of their own before the final one.
    """

    def __new__(cls, limits: Limits, *args: object) -> Self: ...
    def feed(self, data: bytes) -> None:
        """Append what was received. Costs a copy of what is not used yet, so take events until NEED_DATA in between."""

    def next_event(self) -> int:
        """The next event: NEED_DATA, HEAD, BODY, END or ERROR. Call again until NEED_DATA or ERROR."""

    @property
    def version(self) -> int:
        """10 or 11. A minor version above 1 is read as 1 (RFC 9110 section 2.5). From HEAD until the next HEAD."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """(name, value) in wire order, names as sent, values without surrounding blanks. From HEAD until the next HEAD."""

    @property
    def keep_alive(self) -> bool:
        """May the connection carry another message, by version and Connection (RFC 9112 section 9.3)?"""

    @property
    def content_length(self) -> int:
        """The Content-Length in octets; -1 when absent."""

    @property
    def chunked(self) -> bool:
        """Is the body framed by chunks? False where a chunked body is announced but none can follow (HEAD, 304)."""

    @property
    def body(self) -> bytes:
        """The octets of the last BODY event; never empty then."""

    @property
    def error(self) -> tuple[int, str]:
        """(HTTP status hint, reason) after ERROR, else (0, ""). Requests: 400, 414, 417, 431, 501, 505; responses: 502."""

class RequestParser(Parser):
    """Requests of one connection, one after another; pipelined ones are parsed when the one before is taken.

    Whether a body follows is decided by RFC 9112 section 6.3 without its leniencies: Content-Length beside
    Transfer-Encoding, a repeated length, or a coding other than `chunked` is ERROR, whatever the values.
    """

    def __init__(self, limits: Limits) -> None: ...
    @property
    def method(self) -> bytes:
        """The method, case kept (RFC 9110 section 9.1). Any token is allowed here."""

    @property
    def target(self) -> bytes:
        """The request target as sent, in one of the four forms of RFC 9112 section 3.2."""

    @property
    def path(self) -> bytes:
        """The path of the target, without query and not normalised: `*` for OPTIONS *, empty for CONNECT, `/` for an
        absolute form without one."""

    @property
    def host(self) -> bytes:
        """`host[:port]`: the target's authority in absolute form and CONNECT, else Host (RFC 9112 section 3.2.2). Empty
        only in HTTP/1.0."""

    @property
    def expect_continue(self) -> bool:
        """`Expect: 100-continue` in an HTTP/1.1 request. Any other expectation is ERROR 417."""

    @property
    def upgrade(self) -> bytes:
        """The Upgrade field if Connection names it, else empty (RFC 9110 section 7.8)."""

class ResponseParser(Parser):
    """The response to one request, interim responses (1xx but 101) included as heads of their own.

    After END nothing more is parsed: the connection's next response needs a new parser, and `surplus` what it starts with.
    """

    def __init__(self, limits: Limits, request_method: bytes = b"GET") -> None:
        """`request_method` decides whether a body follows (RFC 9112 section 6.3): none after HEAD."""

    def feed_eof(self) -> None:
        """The peer closed: ends a body framed by the end of the connection; inside any other message it is ERROR 502."""

    def next_event(self) -> int:
        """See Parser. NEED_DATA for ever after END."""

    @property
    def status(self) -> int:
        """The status code, 100 to 999."""

    @property
    def reason(self) -> bytes:
        """The reason phrase; may be empty."""

    @property
    def surplus(self) -> bytes:
        """Octets behind the end of the response; empty before END. Poison on a connection with one request in flight."""

def normalised_path(path: bytes) -> bytes | None:
    """The one form under which a path is routed, authorised, logged and forwarded; None for what must be refused.

    Escapes of unreserved characters are decoded, other escapes get upper-case digits, dot segments are removed, empty
    segments merged. Idempotent, and never longer than `path`.

    Refused: no leading `/`, a broken escape, an escaped `/`, `\\` or control octet (%00 to %1f, %7f), a raw `\\`, and
    dot segments that lead above the root: what a backend might understand differently from the router.

    Shape:  the path only, without `?` and query.
    Source: RFC 3986 section 6.2.2; merging of empty segments and the refusals are ours.
    """
