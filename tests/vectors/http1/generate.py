"""Writes the HTTP/1 framing vectors next to this file; the files, not this script, are what the tests read.

    python tests/vectors/http1/generate.py           write every vector, remove those no longer listed
    python tests/vectors/http1/generate.py --check   exit 1 if a file on disk differs from what would be written

A vector is `NAME.http` (the octets as they come off the wire) and `NAME.json` (what a parser must make of them):

    origin          which sentence of which RFC, or which CVE, the vector stands for
    limits          keyword arguments of Limits, where the vector is about a limit
    messages        the complete messages, in order; a message is an object of which each field given must match:
                    requests   method target path host version headers keep_alive expect_continue upgrade
                               content_length chunked body
                    responses  status reason version headers keep_alive content_length chunked body
                    (octets are written as Latin-1 text; `body_base64` replaces `body` where that would not be readable)
    incomplete      true: the octets end inside a message (it is no error, more is needed)
    invalid only:
    status          the status hints a parser may give (absent: any)
    at              "head" (default): refused before HEAD; "body": HEAD is delivered, END never is
    body            for at=body: the payload before the error, of which any prefix may have been delivered
    response only:
    request_method  the method the response answers (default GET)
    eof             the peer closes after the octets
    interim         the 1xx heads before the final one
    surplus         the octets after the end of the response

RFC numbers are section numbers of RFC 9112 (HTTP/1.1) unless they say 9110 (HTTP Semantics) or 3986 (URI).
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
VECTORS: dict[str, tuple[bytes, dict[str, Any]]] = {}

CRLF = b"\r\n"
ADMIN = b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"  # the request a smuggler hides
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


def text(octets: bytes) -> str:
    return octets.decode("latin-1")


def message(
    body: bytes | None = None, headers: list[tuple[bytes, bytes]] | None = None, **fields: Any
) -> dict[str, Any]:
    """One expected message; bytes become Latin-1 text, bodies that are not printable become base64."""
    out: dict[str, Any] = {key: text(value) if isinstance(value, bytes) else value for key, value in fields.items()}
    if headers is not None:
        out["headers"] = [[text(name), text(value)] for name, value in headers]
    if body is not None:
        if all(32 <= octet < 127 or octet in b"\r\n\t" for octet in body):
            out["body"] = text(body)
        else:
            out["body_base64"] = base64.b64encode(body).decode()
    return out


def put(kind: str, name: str, raw: bytes, expected: dict[str, Any]) -> None:
    key = f"{kind}/{name}"
    assert key not in VECTORS, f"two vectors are called {key}"
    VECTORS[key] = (raw, {field: value for field, value in expected.items() if value is not None})


def ok(name: str, raw: bytes, origin: str, *messages: dict[str, Any], **more: Any) -> None:
    put("request/valid", name, raw, {"origin": origin, "messages": list(messages), **more})


def bad(
    name: str, raw: bytes, origin: str, *status: int, before: list[dict[str, Any]] | None = None, **more: Any
) -> None:
    expected = {"origin": origin, "status": list(status or (400,)), "messages": before or [], **more}
    put("request/invalid", name, raw, expected)


def get(*lines: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    return CRLF.join([b"GET " + target + b" " + version, *lines]) + b"\r\n\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return CRLF.join([b"POST /p " + version, b"Host: a", *lines]) + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def request_lines() -> None:
    ok(
        "get-minimal",
        get(b"Host: a"),
        "3: request-line",
        message(
            b"",
            method=b"GET",
            target=b"/",
            path=b"/",
            host=b"a",
            version=11,
            keep_alive=True,
            expect_continue=False,
            upgrade=b"",
            content_length=-1,
            chunked=False,
            headers=[(b"Host", b"a")],
        ),
    )
    ok(
        "get-1.0-without-host",
        get(version=b"HTTP/1.0"),
        "3.2: Host is required of HTTP/1.1 only",
        message(b"", method=b"GET", target=b"/", host=b"", version=10, keep_alive=False, headers=[]),
    )
    ok(
        "get-1.0-with-host",
        get(b"Host: a:8080", version=b"HTTP/1.0"),
        "3.2",
        message(host=b"a:8080", version=10, keep_alive=False),
    )
    ok(
        "version-1.2-is-read-as-1.1",
        get(b"Host: a", version=b"HTTP/1.2"),
        "9110 2.5: a higher minor version is served as 1.1",
        message(b"", version=11, keep_alive=True),
    )
    ok("version-1.9-is-read-as-1.1", get(b"Host: a", version=b"HTTP/1.9"), "9110 2.5", message(b"", version=11))
    ok(
        "method-every-token-octet",
        get(b"Host: a").replace(b"GET", b"!#$%&'*+-.^_`|~09azAZ"),
        "9110 9.1: method = token",
        message(method=b"!#$%&'*+-.^_`|~09azAZ"),
    )
    ok(
        "method-lower-case-is-kept",
        get(b"Host: a").replace(b"GET", b"get"),
        "9110 9.1: the method is case-sensitive",
        message(method=b"get"),
    )
    ok("method-extension", get(b"Host: a").replace(b"GET", b"PROPFIND"), "9110 16.1", message(method=b"PROPFIND"))
    ok(
        "leading-crlf-once",
        CRLF + get(b"Host: a"),
        "2.2: at least one empty line before the request-line is ignored",
        message(method=b"GET", target=b"/"),
    )
    ok(
        "leading-crlf-twice",
        CRLF * 2 + get(b"Host: a"),
        "2.2: at least one; agw allows two",
        message(method=b"GET", target=b"/"),
    )
    bad("leading-crlf-thrice", CRLF * 3 + get(b"Host: a"), "2.2: at least one; agw allows two")
    ok(
        "leading-crlf-between-requests",
        post(b"Content-Length: 2", body=b"ok") + CRLF + get(b"Host: a"),
        "2.2: old clients send an extra CRLF after a POST",
        message(b"ok", method=b"POST"),
        message(b"", method=b"GET"),
    )
    bad("leading-crlf-flood", CRLF * 64 + get(b"Host: a"), "2.2 with rule 10: an endless CRLF run is cut")
    bad("leading-lf", b"\n" + get(b"Host: a"), "2.2: line terminator is CRLF")
    bad("leading-cr", b"\r" + get(b"Host: a"), "2.2: a bare CR is invalid")
    bad("leading-space", b" " + get(b"Host: a"), "3: request-line starts with the method")
    bad("leading-nul", b"\0" + get(b"Host: a"), "3: method = token")
    bad("leading-bom", b"\xef\xbb\xbf" + get(b"Host: a"), "3: method = token")

    for version, name in [
        (b"HTTP/2.0", "2.0"),
        (b"HTTP/0.9", "0.9"),
        (b"http/1.1", "lower-case"),
        (b"HTTP/1", "no-minor"),
        (b"HTTP/1.10", "two-digit-minor"),
        (b"HTTP/01.1", "leading-zero"),
        (b"HTTP/1,1", "comma"),
        (b"HTTP/11", "no-dot"),
        (b"HTTP/1.1 ", "trailing-space"),
        (b"HTTP/1.1\t", "trailing-tab"),
        (b"HTTP/ 1.1", "inner-space"),
        (b"XHTTP/1.1", "prefix"),
        (b"HTTPS/1.1", "https"),
        (b"ICE/1.0", "ice"),
        (b"HTTP/1.1\0", "nul"),
        (b"HTTP/1.1x", "letter-after"),
        (b"HTTP/-1.1", "minus"),
        (b"HTTP/+1.1", "plus"),
        (b"HTTP/1.\xb9", "superscript-digit"),
        (b"", "empty"),
        (b"HTTP/3.0", "3.0"),
        (b"HTTP/1.1\r", "double-cr"),
    ]:
        bad(
            f"version-{name}", get(b"Host: a", version=version), '2.3: HTTP-version = "HTTP/" DIGIT "." DIGIT', 400, 505
        )
    bad("version-absent", b"GET /\r\nHost: a\r\n\r\n", "HTTP/0.9 simple request", 400, 505)
    bad(
        "version-absent-h2-preface",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "9113 3.4: the HTTP/2 preface is no HTTP/1 request",
        400,
        505,
    )
    bad(
        "tls-client-hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)),
        "a TLS client on a clear port",
    )

    for line, name in [
        (b"GET  / HTTP/1.1", "two-spaces-after-method"),
        (b"GET /  HTTP/1.1", "two-spaces-before-version"),
        (b"GET\t/ HTTP/1.1", "tab-after-method"),
        (b"GET /\tHTTP/1.1", "tab-before-version"),
        (b"GET\x0b/ HTTP/1.1", "vt-after-method"),
        (b"GET /\x0cHTTP/1.1", "ff-before-version"),
        (b"GET /\rHTTP/1.1", "cr-before-version"),
        (b"GET\xa0/ HTTP/1.1", "nbsp-after-method"),
        (b" / HTTP/1.1", "empty-method"),
        (b"GET HTTP/1.1", "no-target"),
        (b"GET  HTTP/1.1", "empty-target"),
        (b"G@T / HTTP/1.1", "method-at-sign"),
        (b"GE(T / HTTP/1.1", "method-parenthesis"),
        (b"GET: / HTTP/1.1", "method-colon"),
        (b"G\0T / HTTP/1.1", "method-nul"),
        (b"G\xc9T / HTTP/1.1", "method-non-ascii"),
        (b'"GET" / HTTP/1.1', "method-quoted"),
        (b"GET/ HTTP/1.1", "no-space-after-method"),
        (b"GET /HTTP/1.1", "no-space-before-version"),
        (b"GET", "method-only"),
    ]:
        bad(
            f"request-line-{name}",
            line + b"\r\nHost: a\r\n\r\n",
            "3: method SP request-target SP HTTP-version",
            400,
            505,
        )


def targets() -> None:
    def one(name: str, target: bytes, origin: str, **fields: Any) -> None:
        method = fields.pop("method", b"GET")
        host = fields.pop("host_line", b"Host: a")
        raw = method + b" " + target + b" HTTP/1.1\r\n" + host + b"\r\n\r\n"
        ok(f"target-{name}", raw, origin, message(method=method, target=target, **fields))

    one("query", b"/p?q=1&r=%20", "3.2.1: origin-form", path=b"/p", host=b"a")
    one("query-empty", b"/p?", "3.2.1", path=b"/p")
    one("query-with-question-marks", b"/p?a?b=/c", "3986 3.4: query may hold / and ?", path=b"/p")
    one(
        "double-slash",
        b"//evil.example/x",
        "3.2.1: absolute-path may start with //; it is no authority",
        path=b"//evil.example/x",
        host=b"a",
    )
    one("percent-encoded", b"/a%2Eb/%7Euser", "3.2.1: passed on as received", path=b"/a%2Eb/%7Euser")
    one("pchar", b"/-._~!$&'()*+,;=:@", "3986 3.3: pchar", path=b"/-._~!$&'()*+,;=:@")
    one(
        "absolute",
        b"http://b.example/p?q",
        "3.2.2: the host of absolute-form overrides Host",
        path=b"/p",
        host=b"b.example",
    )
    one("absolute-port", b"http://b.example:8080/p", "3.2.2", path=b"/p", host=b"b.example:8080")
    one("absolute-https", b"https://b.example/p", "3.2.2", path=b"/p", host=b"b.example")
    one("absolute-ipv6", b"http://[::1]:80/p", "3.2.2, 3986 3.2.2: IP-literal", path=b"/p", host=b"[::1]:80")
    one("absolute-without-path", b"http://b.example", "9110 4.2.3: an empty path means /", path=b"/", host=b"b.example")
    one(
        "absolute-scheme-upper-case",
        b"HTTP://b.example/p",
        "3986 3.1: schemes are case-insensitive",
        path=b"/p",
        host=b"b.example",
    )
    one(
        "absolute-at-in-path",
        b"http://b.example/@x",
        "3986 3.2: the authority ends at the first /",
        path=b"/@x",
        host=b"b.example",
    )
    one("asterisk-options", b"*", "3.2.4: asterisk-form", method=b"OPTIONS", path=b"*", host=b"a")
    one("origin-options", b"/p", "3.2.1", method=b"OPTIONS", path=b"/p")
    one(
        "looks-absolute-after-slash",
        b"/http://b.example/p",
        "3.2.1: origin-form",
        path=b"/http://b.example/p",
        host=b"a",
    )

    for target, name in [
        (b"*", "asterisk-get"),
        (b"*?q", "asterisk-query"),
        (b"/*\x01", "ctl"),
        (b"/a b", "space"),
        (b"/a\x7fb", "del"),
        (b"/a\0b", "nul"),
        (b"/a\xc3\xa9", "raw-utf8"),
        (b"/a\xff", "raw-ff"),
        (b"/a#frag", "fragment"),
        (b"#", "only-fragment"),
        (b"/p?q#f", "fragment-after-query"),
        (b"p", "relative"),
        (b"?q", "query-only"),
        (b"a:80", "authority-form-get"),
        (b"http://", "absolute-empty-authority"),
        (b"http:///p", "absolute-empty-host"),
        (b"http:/b/p", "absolute-one-slash"),
        (b"http:b", "absolute-no-slash"),
        (b"http://u@b/p", "absolute-userinfo"),
        (b"http://u:p@b/p", "absolute-user-password"),
        (b"http://b:x/p", "absolute-bad-port"),
        (b"http://b#f", "absolute-fragment"),
        (b"http://b\\c/p", "absolute-backslash-host"),
        (b"http://[::1/p", "absolute-unclosed-bracket"),
        (b"://b/p", "absolute-empty-scheme"),
        (b"http://a b/p", "absolute-space"),
        (b"/a\rb", "cr"),
        (b"/a\tb", "tab"),
        (b"/a\nb", "lf"),
    ]:
        bad(f"target-{name}", get(b"Host: a", target=target), "3.2: request-target; 3986 appendix A", 400, 505)


def fields() -> None:
    def one(name: str, line: bytes, origin: str, header: tuple[bytes, bytes]) -> None:
        ok(f"field-{name}", get(b"Host: a", line), origin, message(b"", headers=[(b"Host", b"a"), header]))

    one("value-ows-trimmed", b"X: \t v w \t ", "5.1: OWS around the value is not part of it", (b"X", b"v w"))
    one("value-no-space", b"X:v", "5: OWS is optional", (b"X", b"v"))
    one("value-empty", b"X:", "5: field-value may be empty", (b"X", b""))
    one("value-only-blanks", b"X: \t ", "5: field-value may be empty", (b"X", b""))
    one("value-inner-tab", b"X: a\tb", "9110 5.5: field-content may hold HTAB", (b"X", b"a\tb"))
    one("value-obs-text", b"X: \x80\xff\xc3\xa9", "9110 5.5: obs-text is opaque", (b"X", b"\x80\xff\xc3\xa9"))
    one("value-colon", b"X: :a:b:", "5: the first colon ends the name", (b"X", b":a:b:"))
    one("value-every-vchar", b"X: " + bytes(range(0x21, 0x7F)), "9110 5.5: VCHAR", (b"X", bytes(range(0x21, 0x7F))))
    one(
        "name-every-token-octet",
        b"!#$%&'*+-.^_`|~09azAZ: v",
        "9110 5.1: field-name = token",
        (b"!#$%&'*+-.^_`|~09azAZ", b"v"),
    )
    one("name-case-kept", b"x-MiXeD: v", "names are delivered as received", (b"x-MiXeD", b"v"))
    one(
        "name-underscore-framing",
        b"Transfer_Encoding: chunked",
        "the CGI spelling of a framing field frames nothing",
        (b"Transfer_Encoding", b"chunked"),
    )
    ok(
        "field-order-and-repeats",
        get(b"Host: a", b"Accept: a", b"X: 1", b"accept: b", b"X: 2", b"X: 1"),
        "9110 5.3: order of equal names is kept",
        message(
            headers=[(b"Host", b"a"), (b"Accept", b"a"), (b"X", b"1"), (b"accept", b"b"), (b"X", b"2"), (b"X", b"1")]
        ),
    )
    ok("field-host-last", get(b"X: 1", b"hOsT: b"), "9110 5.1: names are case-insensitive", message(host=b"b"))

    for line, name, origin in [
        (b"X : v", "space-before-colon", "5.1: whitespace before the colon MUST be refused"),
        (b"X\t: v", "tab-before-colon", "5.1"),
        (b": v", "empty-name", "HAProxy CVE-2023-25725"),
        (b":", "only-colon", "HAProxy CVE-2023-25725"),
        (b"X", "no-colon", "5: field-line"),
        (b"X v", "no-colon-with-space", "5: field-line"),
        (b"X: a\r\n b", "obs-fold-space", "5.2: obs-fold"),
        (b"X: a\r\n\tb", "obs-fold-tab", "5.2: obs-fold"),
        (b"X: a\r\n ", "obs-fold-blank", "5.2: a line of blanks is a fold, not the end of the head"),
        (b"X: a\0b", "nul-in-value", "9110 5.5: NUL; Envoy CVE-2019-9900"),
        (b"X: a\rb", "cr-in-value", "9110 5.5: CR; http-garden transducer bug 6"),
        (b"X: a\nb: c", "lf-in-value", "2.2: line terminator is CRLF"),
        (
            b"X: a\nTransfer-Encoding: chunked",
            "lf-hides-transfer-encoding",
            "a bare LF read as a line end by one hop only",
        ),
        (
            b"X: a\rTransfer-Encoding: chunked",
            "cr-hides-transfer-encoding",
            "a bare CR read as a line end by one hop only",
        ),
        (b"X: a\r", "cr-cr-lf", "2.2: a bare CR is invalid"),
        (b"X: a\x01b", "soh-in-value", "9110 5.5: CTL"),
        (b"X: a\x0bb", "vt-in-value", "9110 5.5: CTL"),
        (b"X: a\x0cb", "ff-in-value", "9110 5.5: CTL"),
        (b"X: a\x1fb", "us-in-value", "9110 5.5: CTL"),
        (b"X: a\x7fb", "del-in-value", "9110 5.5: CTL"),
        (b"X: a\x08", "bs-at-end-of-value", "9110 5.5: CTL"),
        (b"X\0Y: v", "nul-in-name", "9110 5.1: token"),
        (b"X Y: v", "space-in-name", "9110 5.1: token"),
        (b"X\x0b: v", "vt-in-name", "9110 5.1: token"),
        (b"X\xa0: v", "nbsp-in-name", "9110 5.1: token"),
        (b"X\xe9: v", "non-ascii-name", "9110 5.1: token"),
        (b"X\x7f: v", "del-in-name", "9110 5.1: token"),
        (b"X(: v", "parenthesis-in-name", "9110 5.1: token"),
        (b'"X": v', "quoted-name", "9110 5.1: token"),
        (b"X/Y: v", "slash-in-name", "9110 5.1: token"),
        (b"X@Y: v", "at-in-name", "9110 5.1: token"),
        (b"[X]: v", "brackets-in-name", "9110 5.1: token"),
        (b"{X}: v", "braces-in-name", "9110 5.1: token"),
        (b"X;Y: v", "semicolon-in-name", "9110 5.1: token"),
        (b"X,Y: v", "comma-in-name", "9110 5.1: token"),
        (b"X\r: v", "cr-in-name", "9110 5.1: token"),
    ]:
        bad(f"field-{name}", get(b"Host: a", line), origin)
    bad("field-first-line-folded", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "2.2: whitespace before the first field")
    bad("field-first-line-blank", b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n", "2.2: whitespace before the first field")
    bad("lf-after-request-line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", "2.2: line terminator is CRLF")
    bad("lf-after-host", b"GET / HTTP/1.1\r\nHost: a\n\r\n", "2.2")
    bad("lf-after-last-field", b"GET / HTTP/1.1\r\nHost: a\r\nX: v\n\r\n", "2.2")
    bad("lf-ends-head", b"GET / HTTP/1.1\r\nHost: a\r\n\n", "2.2")
    bad("lf-everywhere", b"GET / HTTP/1.1\nHost: a\n\n", "2.2")
    bad("cr-ends-head", b"GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n", "2.2: a bare CR is invalid")
    bad("cr-everywhere", b"GET / HTTP/1.1\rHost: a\r\r\r\n\r\n", "2.2: a bare CR is invalid")
    bad("lf-cr-ends-head", b"GET / HTTP/1.1\r\nHost: a\r\n\n\r", "2.2")


def hosts() -> None:
    for host, name in [
        (b"a", "name"),
        (b"b.example:443", "port"),
        (b"127.0.0.1:80", "ipv4"),
        (b"[::1]", "ipv6"),
        (b"[::1]:80", "ipv6-port"),
        (b"[2001:db8::7]:8443", "ipv6-long"),
        (b"A.Example", "upper-case"),
        (b"a-b_c.d~e", "unreserved"),
        (b"xn--bcher-kva.example", "punycode"),
        (b"[::]", "ipv6-any"),
        (b"[1:2:3:4:5:6:7:8]", "ipv6-full"),
        (b"[::ffff:10.0.0.1]:80", "ipv6-embedded-ipv4"),
    ]:
        ok(f"host-{name}", get(b"Host: " + host), "3.2, 3986 3.2.2", message(host=host))
    ok("host-ows-trimmed", get(b"Host: \t a \t"), "5.1", message(host=b"a", headers=[(b"Host", b"a")]))
    ok(
        "host-1.0-absolute-form",
        get(target=b"http://b/p", version=b"HTTP/1.0"),
        "3.2.2",
        message(host=b"b", path=b"/p", version=10),
    )
    bad("host-absent", get(b"X: 1"), "3.2: 400 for an HTTP/1.1 request without Host")
    bad("host-absent-absolute-form", get(b"X: 1", target=b"http://b/"), "3.2.2: Host is sent with absolute-form too")
    bad("host-absent-1.2", get(b"X: 1", version=b"HTTP/1.2"), "3.2, 9110 2.5")
    bad("host-twice", get(b"Host: a", b"Host: b"), "3.2: more than one Host; aiohttp CVE-2026-34525")
    bad("host-twice-equal", get(b"Host: a", b"Host: a"), "3.2")
    bad("host-twice-case", get(b"Host: a", b"X: 1", b"hOST: b"), "3.2")
    bad("host-twice-1.0", get(b"Host: a", b"Host: b", version=b"HTTP/1.0"), "3.2: any request message")
    for host, name in [
        (b"", "empty"),
        (b"a/b", "slash"),
        (b"a@b", "userinfo"),
        (b"u:p@b", "user-password"),
        (b"a b", "space"),
        (b"a\tb", "tab"),
        (b"a?b", "question-mark"),
        (b"a#b", "hash"),
        (b"a\\b", "backslash"),
        (b"a:x", "port-letters"),
        (b"a:8 0", "port-space"),
        (b"a:-1", "port-minus"),
        (b"a:+1", "port-plus"),
        (b"a:80:80", "two-ports"),
        (b"::1", "bare-ipv6"),
        (b"[::1", "unclosed"),
        (b"::1]", "unopened"),
        (b"[::1]x", "after-bracket"),
        (b"[]", "empty-brackets"),
        (b"[zz]", "no-ipv6"),
        (b"[12]", "ipv6-one-group"),
        (b"[:::]", "ipv6-three-colons"),
        (b"[...]", "ipv6-dots"),
        (b"[1:2:3:4:5:6:7:8:9]", "ipv6-nine-groups"),
        (b"[1::2::3]", "ipv6-two-gaps"),
        (b"[12345::]", "ipv6-five-digits"),
        (b":80", "only-port"),
        (b"b\xc3\xbccher", "utf8"),
        (b"<a>", "angle"),
        (b'"a"', "quoted"),
        (b"a^b", "caret"),
        (b"{a}", "braces"),
        (b"a|b", "pipe"),
        (b"a`b", "backtick"),
        (b"http://a", "url"),
        (b"a%zz", "bad-percent"),
        (b"a\x7f", "del"),
    ]:
        bad(f"host-{name}", get(b"Host: " + host), "3.2: Host with an invalid value; Starlette CVE-2026-48710")
    bad(
        "host-invalid-with-absolute-form",
        get(b"Host: a/b", target=b"http://b/"),
        "3.2: invalid Host is refused even if overridden",
    )
    bad("host-invalid-1.0", get(b"Host: a/b", version=b"HTTP/1.0"), "3.2: any request message")


def content_lengths() -> None:
    def one(name: str, value: bytes, origin: str, **more: Any) -> None:
        ok(
            f"cl-{name}",
            post(b"Content-Length:" + value, body=b"hello"),
            origin,
            message(b"hello", content_length=5, chunked=False),
            **more,
        )

    one("plain", b" 5", "6.2")
    one("ows-around", b"  5 \t", "5.1: OWS is trimmed")
    one("no-space", b"5", "5: OWS is optional")
    one("leading-zeros", b" 005", "9110 8.6: 1*DIGIT")
    one("leading-zeros-18-digits", b" 000000000000000005", "9110 8.6: 1*DIGIT")
    ok("cl-zero", post(b"Content-Length: 0"), "6.2", message(b"", content_length=0))
    ok("cl-name-case", post(b"CONTENT-LENGTH: 2", body=b"ok"), "9110 5.1", message(b"ok", content_length=2))
    ok(
        "cl-on-get",
        get(b"Host: a", b"Content-Length: 2") + b"ok",
        "9110 9.3.1: a body on GET is framed all the same",
        message(b"ok", method=b"GET"),
    )
    ok(
        "cl-on-head",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok",
        "9110 9.3.2",
        message(b"ok", method=b"HEAD"),
    )
    ok(
        "cl-1.0",
        post(b"Content-Length: 5", body=b"hello", version=b"HTTP/1.0"),
        "6.3",
        message(b"hello", version=10, keep_alive=False),
    )
    ok(
        "cl-body-looks-like-request",
        post(b"Content-Length: %d" % len(ADMIN), body=ADMIN),
        "6.3: the body is always the body",
        message(ADMIN),
    )
    ok(
        "cl-body-all-octets",
        post(b"Content-Length: 256", body=bytes(range(256))),
        "6: a body is octets",
        message(bytes(range(256))),
    )
    ok("cl-absent-post", post(), "6.3: no framing field, no body", message(b"", method=b"POST", content_length=-1))
    ok(
        "cl-absent-post-1.0",
        post(version=b"HTTP/1.0"),
        "6.3: a request is never close-delimited",
        message(b"", version=10),
    )
    ok("cl-incomplete", post(b"Content-Length: 6", body=b"hello"), "6.3: five of six octets", incomplete=True)
    ok(
        "cl-largest-incomplete",
        post(b"Content-Length: 999999999999999999", body=b"hello"),
        "18 digits are counted, not refused",
        incomplete=True,
    )

    smuggled = ADMIN + b"x" * 8
    for value, name, origin in [
        (b"+5", "plus", "gunicorn, http-garden: int() accepts a sign"),
        (b"-1", "minus", "9110 8.6: 1*DIGIT"),
        (b"-0", "minus-zero", "9110 8.6"),
        (b"0x5", "hex", "9110 8.6; protocol-http1 CVE-2023-38697"),
        (b"5_0", "underscore", "aiohttp CVE-2023-47627"),
        (b"", "empty", "HAProxy CVE-2023-40225"),
        (b"5,5", "list-equal", "6.3: a list is refused"),
        (b"5, 5", "list-equal-space", "6.3"),
        (b"5,6", "list-different", "6.3"),
        (b",5", "list-empty-first", "6.3"),
        (b"5,", "list-empty-last", "6.3"),
        (b"5 5", "two-numbers", "9110 8.6"),
        (b"5\t5", "two-numbers-tab", "9110 8.6"),
        (b"5.0", "decimal", "9110 8.6"),
        (b"5e0", "exponent", "9110 8.6"),
        (b"5;", "semicolon", "9110 8.6"),
        (b"5a", "letter-after", "9110 8.6"),
        (b"a5", "letter-before", "9110 8.6"),
        (b'"5"', "quoted", "9110 8.6"),
        (b"\xb2", "superscript", "Python's str.isdigit accepts superscripts"),
        (b"\xd9\xa5", "arabic-digit", "aiohttp CVE-2023-47627: Unicode digits"),
        (b"5\0", "nul-after", "9110 8.6"),
        (b"\x0b5", "vt-before", "Python's bytes.strip removes VT"),
        (b"5\x0c", "ff-after", "Python's bytes.strip removes FF"),
        (b"chunked", "word", "9110 8.6"),
        (b"NaN", "nan", "9110 8.6"),
        (b"0b1", "binary", "9110 8.6"),
        (b"0o5", "octal", "9110 8.6"),
    ]:
        bad(f"cl-{name}", post(b"Content-Length: " + value, body=b"hello" + smuggled), origin)
    for digits, name in [
        (b"1" + b"0" * 18, "19-digits"),
        (b"9223372036854775808", "2-63"),
        (b"18446744073709551616", "2-64"),
        (b"18446744073709551621", "2-64-plus-5"),
        (b"4" * 400, "400-digits"),
        (b"0" * 18 + b"5", "19-digits-leading-zeros"),
    ]:
        bad(f"cl-{name}", post(b"Content-Length: " + digits, body=b"hello"), "2.1: ^[0-9]{1,18}$", 400, 413)
    bad("cl-twice-equal", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), "6.3: one line or none")
    bad("cl-twice-different", post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello"), "6.3: CL.CL")
    bad("cl-twice-case", post(b"Content-Length: 0", b"X: 1", b"content-length: 5", body=b"hello"), "6.3: CL.CL")
    bad("cl-twice-one-empty", post(b"Content-Length:", b"Content-Length: 5", body=b"hello"), "HAProxy CVE-2023-40225")
    bad("cl-thrice-equal", post(*[b"Content-Length: 5"] * 3, body=b"hello"), "6.3")
    bad("cl-space-before-colon", post(b"Content-Length : 5", body=b"hello"), "5.1")
    bad("cl-bad-on-get", get(b"Host: a", b"Content-Length: x"), "6.3: whatever the method")


def transfer_encodings() -> None:
    def one(name: str, value: bytes, origin: str) -> None:
        ok(
            f"te-{name}",
            post(b"Transfer-Encoding:" + value, body=HELLO),
            origin,
            message(b"hello", chunked=True, content_length=-1),
        )

    one("chunked", b" chunked", "6.1")
    one("chunked-mixed-case", b" Chunked", "7: coding names are case-insensitive")
    one("chunked-upper-case", b" CHUNKED", "7")
    one("chunked-no-space", b"chunked", "5")
    one("chunked-ows-around", b" \t chunked \t", "5.1; llhttp: HTAB before the coding")
    ok("te-name-case", post(b"tRANSFER-eNCODING: chunked", body=HELLO), "9110 5.1", message(b"hello", chunked=True))
    ok(
        "te-on-get",
        get(b"Host: a", b"Transfer-Encoding: chunked") + HELLO,
        "6.1",
        message(b"hello", method=b"GET", chunked=True),
    )
    ok(
        "te-field-te-is-not-framing",
        get(b"Host: a", b"TE: trailers", b"Connection: TE"),
        "9110 10.1.4",
        message(b"", chunked=False),
    )

    body = b"0\r\n\r\n" + ADMIN
    for value, name, origin in [
        (b"chunked, identity", "chunked-identity", "7: identity is gone"),
        (b"identity", "identity", "7: identity is gone; gunicorn CVE-2024-1135"),
        (b"identity, chunked", "identity-chunked", "7: identity is gone"),
        (b"gzip, chunked", "gzip-chunked", "6.1: 501 for a coding not understood"),
        (b"gzip,chunked", "gzip-chunked-no-space", "6.1"),
        (b"gzip", "gzip", "6.3: chunked must be final"),
        (b"chunked, gzip", "chunked-gzip", "6.3: chunked must be final"),
        (b"xchunked", "xchunked", "gunicorn CVE-2024-6827, smuggler list"),
        (b"chunkedx", "chunkedx", "smuggler list"),
        (b"chunke", "chunke", "smuggler list"),
        (b"x chunked", "x-chunked-space", "smuggler list"),
        (b"chunked chunked", "chunked-space-chunked", "smuggler list"),
        (b"chunked,chunked", "chunked-chunked", "6.1: chunked is applied once"),
        (b"chunked, chunked", "chunked-chunked-space", "6.1"),
        (b"", "empty", "6.1: at least one coding"),
        (b",", "comma", "6.1"),
        (b", chunked", "empty-member-first", "6.1; http-garden"),
        (b"chunked,", "empty-member-last", "6.1; http-garden"),
        (b"chunked;", "semicolon", "7"),
        (b"chunked;q=1", "parameter", "7.1: chunked has no parameters"),
        (b"chunked; a=b", "parameter-space", "7.1"),
        (b'"chunked"', "quoted", "7"),
        (b"'chunked'", "single-quoted", "7"),
        (b"chunked\0", "nul-after", "smuggler list"),
        (b"\x0bchunked", "vt-before", "smuggler list; Python's strip"),
        (b"chunked\x0c", "ff-after", "smuggler list; Python's strip"),
        (b"chunked\x85", "nel-after", "smuggler list: Latin-1 whitespace"),
        (b"\xa0chunked", "nbsp-before", "smuggler list: Latin-1 whitespace"),
        (b"chun\xe2\x84\xaaed", "kelvin-sign", "str.lower maps U+212A to k"),
        (b"chun\r\n ked", "folded", "5.2: obs-fold"),
        (b"\r\n chunked", "folded-first", "5.2: obs-fold"),
        (b"trailers", "trailers", "6.1"),
        (b"deflate", "deflate", "6.1"),
    ]:
        bad(f"te-{name}", post(b"Transfer-Encoding: " + value, body=body), origin, 400, 501)
    for lines, name, origin in [
        (
            [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
            "two-lines-equal",
            "6.1: one line, one coding",
        ),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], "two-lines-identity-last", "smuggler list"),
        ([b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"], "two-lines-identity-first", "smuggler list"),
        ([b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"], "two-lines-gzip-first", "6.1"),
        ([b"Transfer-Encoding: chunked", b"transfer-encoding: cow"], "two-lines-cow", "smuggler list"),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding:"], "two-lines-empty", "smuggler list"),
        ([b"Transfer-Encoding : chunked"], "space-before-colon", "5.1; smuggler list"),
        ([b"Transfer-Encoding\t: chunked"], "tab-before-colon", "5.1; smuggler list"),
        ([b"Transfer-Encoding\x0b: chunked"], "vt-before-colon", "smuggler list"),
        ([b" Transfer-Encoding: chunked"], "space-before-name", "5.2; smuggler list"),
        ([b"X: x\r\n Transfer-Encoding: chunked"], "in-a-fold", "5.2; smuggler list"),
        ([b"\0Transfer-Encoding: chunked"], "nul-before-name", "smuggler list"),
        ([b"Transfer-Encoding\0: chunked"], "nul-after-name", "smuggler list"),
        ([b"Transfer-Encoding"], "no-colon", "5"),
        ([b"Transfer-Encoding chunked"], "no-colon-space", "5"),
    ]:
        bad(f"te-{name}", post(*lines, body=body), origin, 400, 501)
    for lines, name in [
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], "cl-te"),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], "te-cl"),
        ([b"Content-Length: 0", b"Transfer-Encoding: chunked"], "cl-zero-te"),
        ([b"Content-Length: 5", b"Transfer-Encoding: identity"], "cl-te-identity"),
        ([b"Content-Length: 5", b"Transfer-Encoding: xchunked"], "cl-te-unknown"),
        ([b"Content-Length: 5", b"Transfer-Encoding:"], "cl-te-empty"),
        ([b"Content-Length: x", b"Transfer-Encoding: chunked"], "cl-bad-te"),
        ([b"CONTENT-LENGTH: 5", b"X: 1", b"transfer-encoding: Chunked"], "cl-te-case"),
    ]:
        bad(
            f"desync-{name}",
            post(*lines, body=body),
            "6.3: TE and CL together; gunicorn CVE-2024-1135, Pingora CVE-2026-2835",
            400,
            501,
        )
    bad(
        "desync-te-1.0",
        post(b"Transfer-Encoding: chunked", body=body, version=b"HTTP/1.0"),
        "6.1: TE in HTTP/1.0 is faulty framing; Pingora CVE-2026-2836",
    )
    bad(
        "desync-te-1.0-keep-alive",
        post(b"Connection: keep-alive", b"Transfer-Encoding: chunked", body=body, version=b"HTTP/1.0"),
        "6.1; Pingora CVE-2026-2836",
    )
    bad(
        "desync-te-cl-1.0",
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=body, version=b"HTTP/1.0"),
        "6.1",
    )
    bad("desync-te-identity-1.0", post(b"Transfer-Encoding: identity", version=b"HTTP/1.0"), "6.1", 400, 501)


def chunk_grammar() -> None:
    def one(name: str, body: bytes, payload: bytes, origin: str, **more: Any) -> None:
        ok(f"chunk-{name}", chunked(body), origin, message(payload, chunked=True), **more)

    one("empty-body", b"0\r\n\r\n", b"", "7.1: last-chunk")
    one("one", HELLO, b"hello", "7.1")
    one("several", b"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", b"abcdef", "7.1")
    one("hex-lower", b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", "7.1: HEXDIG")
    one("hex-upper", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", "7.1: HEXDIG")
    one("hex-two-digits", b"1b\r\n" + b"x" * 27 + b"\r\n0\r\n\r\n", b"x" * 27, "7.1")
    one("leading-zeros", b"0005\r\nhello\r\n0\r\n\r\n", b"hello", "7.1: 1*HEXDIG")
    one("leading-zeros-15-digits", b"000000000000005\r\nhello\r\n0\r\n\r\n", b"hello", "7.1: 1*HEXDIG, 60 bits of it")
    one("last-of-many-zeros", b"5\r\nhello\r\n000\r\n\r\n", b"hello", '7.1: last-chunk = 1*"0"')
    one("data-with-crlf", b"9\r\n\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n\r\n", "7.1: chunk-data is octets")
    one(
        "data-all-octets",
        b"100\r\n" + bytes(range(256)) + b"\r\n0\r\n\r\n",
        bytes(range(256)),
        "7.1: chunk-data is octets",
    )
    one("extension-name", b"5;a\r\nhello\r\n0\r\n\r\n", b"hello", "7.1.1: unknown extensions are ignored")
    one("extension-value", b"5;a=b\r\nhello\r\n0\r\n\r\n", b"hello", "7.1.1")
    one("extension-several", b"5;a=b;c;d=e\r\nhello\r\n0\r\n\r\n", b"hello", "7.1.1")
    one("extension-quoted", b'5;a="b"\r\nhello\r\n0\r\n\r\n', b"hello", "7.1.1: chunk-ext-val = quoted-string")
    one("extension-quoted-semicolon", b'5;a="b;c=d"\r\nhello\r\n0\r\n\r\n', b"hello", "7.1.1")
    one("extension-quoted-blanks", b'5;a="b \tc"\r\nhello\r\n0\r\n\r\n', b"hello", "7.1.1: qdtext")
    one("extension-quoted-pair", b'5;a="b\\"c"\r\nhello\r\n0\r\n\r\n', b"hello", "7.1.1: quoted-pair")
    one("extension-on-last", b"5\r\nhello\r\n0;a=b\r\n\r\n", b"hello", "7.1")
    one("trailer", b"5\r\nhello\r\n0\r\nX: v\r\n\r\n", b"hello", "7.1.2: trailers are dropped")
    one("trailer-several", b"5\r\nhello\r\n0\r\nX: v\r\nY:\r\nZ: \t\x80 \r\n\r\n", b"hello", "7.1.2")
    ok(
        "chunk-trailer-does-not-merge",
        chunked(b"0\r\nX-User: root\r\n\r\n"),
        "9110 6.5.1: trailers are not merged; aiohttp CVE-2026-22815",
        message(b"", headers=[(b"Host", b"a"), (b"Transfer-Encoding", b"chunked")]),
    )
    one(
        "trailer-framing-fields",
        b"5\r\nhello\r\n0\r\nContent-Length: x\r\nTransfer-Encoding: gzip\r\nHost: b\r\n\r\n",
        b"hello",
        "9110 6.5.1: framing and routing fields in trailers are dropped, never read",
    )
    ok(
        "chunk-many-one-octet",
        chunked(b"1\r\nx\r\n" * 300 + b"0\r\n\r\n"),
        "aiohttp CVE-2025-69229: many small chunks",
        message(b"x" * 300),
    )
    ok(
        "chunk-size-largest-incomplete",
        chunked(b"f" * 15 + b"\r\nhello"),
        "60 bits are counted, not refused",
        incomplete=True,
    )
    ok("chunk-incomplete-size", chunked(b"5"), "7.1", incomplete=True)
    ok("chunk-incomplete-data", chunked(b"5\r\nhel"), "7.1", incomplete=True)
    ok("chunk-incomplete-data-crlf", chunked(b"5\r\nhello\r"), "7.1", incomplete=True)
    ok("chunk-incomplete-last", chunked(b"5\r\nhello\r\n0\r\n"), "7.1", incomplete=True)
    ok("chunk-incomplete-trailer", chunked(b"0\r\nX: v\r\n"), "7.1.2", incomplete=True)

    def no(name: str, body: bytes, origin: str, *status: int, payload: bytes = b"", **more: Any) -> None:
        bad(f"chunk-{name}", chunked(body), origin, *(status or (400,)), at="body", body=text(payload), **more)

    for size, name, origin in [
        (b"", "size-empty", "7.1: 1*HEXDIG"),
        (b" 5", "size-space-before", "7.1; http-garden"),
        (b"5 ", "size-space-after", "7.1; http-garden"),
        (b"5\t", "size-tab-after", "7.1"),
        (b"\t5", "size-tab-before", "7.1"),
        (b"0x5", "size-0x", "7.1; http-garden: strtol"),
        (b"0X5", "size-0x-upper", "7.1"),
        (b"+5", "size-plus", "7.1; http-garden: int()"),
        (b"-5", "size-minus", "7.1"),
        (b"-0", "size-minus-zero", "7.1"),
        (b"5_0", "size-underscore", "7.1; int() accepts 5_0"),
        (b"5h", "size-letter", "7.1"),
        (b"g", "size-not-hex", "7.1"),
        (b"5,", "size-comma", "7.1"),
        (b"5.0", "size-decimal", "7.1"),
        (b"5\0", "size-nul", "7.1"),
        (b"5\x0b", "size-vt", "7.1"),
        (b"\xd9\xa5", "size-arabic-digit", "7.1"),
        (b"5 5", "size-two-numbers", "7.1"),
        (b";a", "size-only-extension", "7.1"),
        (b'"5"', "size-quoted", "7.1"),
        (b"5 ;a", "extension-space-before", "rule 2: no blanks in the size line"),
        (b"5;a\0b", "extension-nul", "7.1.1: token"),
        (b"5;a\rb", "extension-cr", "7.1.1; http-garden EXT.TERM"),
        (b"5;a\x01", "extension-ctl", "7.1.1: token"),
        (b'5;a="b\x01"', "extension-quoted-ctl", "7.1.1: qdtext"),
        (b"5\r", "size-cr-cr-lf", "2.2: a bare CR"),
        (b"5\rX", "size-cr-x", "2.2: a bare CR; http-garden TERM.EXT"),
    ]:
        no(name, size + b"\r\nhello\r\n0\r\n\r\n", origin)
    for digits, name in [
        (b"0" * 15 + b"5", "size-16-digits-leading-zeros"),
        (b"f" * 16, "size-16-f"),
        (b"7" + b"f" * 15, "size-2-63-minus-1"),
        (b"1" + b"0" * 16, "size-17-digits"),
        (b"f" * 17, "size-17-f"),
        (b"0" * 16 + b"5", "size-17-digits-leading-zeros"),
        (b"1" + b"0" * 15 + b"5" + b"0" * 3, "size-wraps-2-64"),
        (b"f" * 200, "size-200-digits"),
    ]:
        no(
            name,
            digits + b"\r\nhello\r\n0\r\n\r\n",
            "7.1: overflow; more than 60 bits are refused by their digits",
            400,
            413,
        )
    no("size-lf", b"5\nhello\r\n0\r\n\r\n", "http-garden TERM: bare LF after the size")
    no("size-lf-later", b"5\r\nhello\r\n0\n\r\n", "http-garden TERM", payload=b"hello")
    no("extension-lf", b"5;a\nhello\r\n0\r\n\r\n", "http-garden EXT.TERM: bare LF after an extension")
    no(
        "extension-lf-inside",
        b"2;\nxx\r\n4c\r\n0\r\n\r\n" + ADMIN + b"0\r\n\r\n",
        "http-garden TERM.EXT: a bare LF inside the extension",
    )
    no(
        "extension-lf-quoted",
        b'5;a="\n"\r\nhello\r\n0\r\n\r\n',
        "http-garden TERM.EXT: a bare LF inside a quoted extension value",
    )
    no("extension-cr-quoted", b'5;a="\r"\r\nhello\r\n0\r\n\r\n', "a bare CR inside a quoted extension value")
    no(
        "extension-crlf-quoted",
        b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n',
        "quoting does not shield a CRLF",
        payload=b'"\r\nhe',
    )
    no("data-without-crlf", b"5\r\nhello0\r\n\r\n", "7.1: CRLF after chunk-data; h11 CVE-2025-43859", payload=b"hello")
    no("data-xx-for-crlf", b"5\r\nhelloXX0\r\n\r\n", "h11 CVE-2025-43859: two octets for CRLF", payload=b"hello")
    no("data-lf-for-crlf", b"5\r\nhello\n0\r\n\r\n", "7.1", payload=b"hello")
    no("data-cr-for-crlf", b"5\r\nhello\r0\r\n\r\n", "7.1", payload=b"hello")
    no("data-cr-cr-lf", b"5\r\nhello\r\r\n0\r\n\r\n", "7.1", payload=b"hello")
    no("data-lf-cr", b"5\r\nhello\n\r0\r\n\r\n", "7.1", payload=b"hello")
    no(
        "data-longer-than-size",
        b"5\r\nhello world\r\n0\r\n\r\n",
        "http-garden SPILL; Envoy 1.40 accepts surplus octets",
        payload=b"hello",
    )
    no("data-shorter-than-size", b"7\r\nhello\r\n0\r\n\r\n", "http-garden SPILL", payload=b"hello\r\n")
    no("data-space-before-crlf", b"5\r\nhello \r\n0\r\n\r\n", "7.1", payload=b"hello")
    no("data-extra-crlf", b"5\r\nhello\r\n\r\n0\r\n\r\n", "7.1", payload=b"hello")
    no("last-followed-by-data", b"0\r\nhello\r\n\r\n", "7.1: last-chunk carries no data; hello is no trailer field")
    no("last-lf", b"5\r\nhello\r\n0\r\n\n", "7.1", payload=b"hello")
    no("last-cr-x", b"5\r\nhello\r\n0\r\n\rX", "7.1", payload=b"hello")
    for line, name in [
        (b"X", "no-colon"),
        (b"X : v", "space-before-colon"),
        (b": v", "empty-name"),
        (b"X: a\nY: b", "lf"),
        (b"X: a\rb", "cr"),
        (b"X: a\0b", "nul"),
        (b"X: a\r\n b", "obs-fold"),
        (b" X: v", "leading-space"),
        (b"X: \x01", "ctl"),
        (b"X(: v", "name-not-token"),
        (b"X\xe9: v", "name-non-ascii"),
    ]:
        no(
            f"trailer-{name}",
            b"5\r\nhello\r\n0\r\n" + line + b"\r\n\r\n",
            "7.1.2: trailers are checked before they are dropped",
            payload=b"hello",
        )


def connection_rules() -> None:
    for version, value, keep in [
        (b"HTTP/1.1", None, True),
        (b"HTTP/1.1", b"close", False),
        (b"HTTP/1.1", b"Close", False),
        (b"HTTP/1.1", b"keep-alive", True),
        (b"HTTP/1.1", b"keep-alive, close", False),
        (b"HTTP/1.1", b"close, keep-alive", False),
        (b"HTTP/1.1", b"x, close", False),
        (b"HTTP/1.1", b"closed", True),
        (b"HTTP/1.1", b"x-close", True),
        (b"HTTP/1.1", b", close ,", False),
        (b"HTTP/1.0", None, False),
        (b"HTTP/1.0", b"keep-alive", True),
        (b"HTTP/1.0", b"Keep-Alive", True),
        (b"HTTP/1.0", b"close", False),
        (b"HTTP/1.0", b"keep-alive, close", False),
        (b"HTTP/1.0", b"x", False),
        (b"HTTP/1.0", b"keep-alive-not", False),
    ]:
        shown = (
            "none"
            if value is None
            else text(value)
            .strip(" ,")
            .replace(", ", "-then-")
            .replace("Close", "Close-upper")
            .replace("Keep", "Upper-keep")
        )
        raw = get(b"Host: a", *([] if value is None else [b"Connection: " + value]), version=version)
        name = f"keep-alive-{text(version[5:])}-{shown}" + ("-list" if value and value.startswith(b",") else "")
        ok(name, raw, "9.3: persistence", message(b"", keep_alive=keep))
    ok(
        "keep-alive-two-lines",
        get(b"Host: a", b"Connection: x", b"Connection: close"),
        "9.3, 9110 5.3",
        message(keep_alive=False),
    )
    ok(
        "keep-alive-proxy-connection-ignored",
        get(b"Host: a", b"Proxy-Connection: close"),
        "C.2.2: Proxy-Connection has no meaning",
        message(keep_alive=True),
    )
    ok(
        "keep-alive-field-ignored-1.0",
        get(b"Host: a", b"Keep-Alive: timeout=5", version=b"HTTP/1.0"),
        "9.3",
        message(keep_alive=False),
    )
    ok(
        "connection-names-custom-field",
        get(b"Host: a", b"X: 1", b"Connection: X"),
        "9110 7.6.1",
        message(headers=[(b"Host", b"a"), (b"X", b"1"), (b"Connection", b"X")]),
    )
    ok("connection-empty", get(b"Host: a", b"Connection:"), "9110 7.6.1", message(keep_alive=True))
    for named in [b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization"]:
        short = text(named).lower()
        bad(
            f"connection-names-{short}",
            post(b"Connection: " + named, b"Content-Length: 2", body=b"ok"),
            "rule 8: hop-by-hop abuse",
        )
    bad("connection-names-host-case", get(b"Host: a", b"Connection: close, hOsT"), "rule 8: hop-by-hop abuse")
    bad(
        "connection-names-authorization-second-line",
        get(b"Host: a", b"Connection: close", b"Connection: x,Authorization"),
        "rule 8: hop-by-hop abuse",
    )
    bad(
        "connection-names-content-length-unsent",
        get(b"Host: a", b"Connection: \tcontent-length\t"),
        "rule 8: whether it is sent or not",
    )

    ok(
        "expect-continue",
        post(b"Expect: 100-continue", b"Content-Length: 2", body=b"ok"),
        "9110 10.1.1",
        message(b"ok", expect_continue=True),
    )
    ok(
        "expect-continue-case",
        post(b"expect: 100-Continue", b"Content-Length: 2", body=b"ok"),
        "9110 10.1.1: case-insensitive",
        message(b"ok", expect_continue=True),
    )
    ok(
        "expect-continue-chunked",
        post(b"Expect: 100-continue", b"Transfer-Encoding: chunked", body=HELLO),
        "9110 10.1.1",
        message(b"hello", expect_continue=True),
    )
    ok(
        "expect-continue-1.0-ignored",
        post(b"Expect: 100-continue", b"Content-Length: 2", body=b"ok", version=b"HTTP/1.0"),
        "9110 10.1.1: MUST ignore it from HTTP/1.0",
        message(b"ok", expect_continue=False),
    )
    ok(
        "expect-twice",
        post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 2", body=b"ok"),
        "9110 10.1.1",
        message(b"ok", expect_continue=True),
    )
    for value, name in [
        (b"200-ok", "other"),
        (b"", "empty"),
        (b"100-continue, x", "list"),
        (b"100-continue;q=1", "parameter"),
        (b"100-continu", "short"),
    ]:
        bad(
            f"expect-{name}",
            post(b"Expect: " + value, b"Content-Length: 2", body=b"ok"),
            "9110 10.1.1: 417 for what cannot be met",
            417,
        )
    ok("expect-absent", post(b"Content-Length: 2", body=b"ok"), "9110 10.1.1", message(expect_continue=False))

    ok(
        "upgrade-websocket",
        get(b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket"),
        "9110 7.8",
        message(b"", upgrade=b"websocket", keep_alive=True),
    )
    ok(
        "upgrade-in-list",
        get(b"Host: a", b"Connection: keep-alive, upgrade", b"Upgrade: websocket"),
        "9110 7.8",
        message(upgrade=b"websocket"),
    )
    ok(
        "upgrade-not-named",
        get(b"Host: a", b"Upgrade: websocket"),
        "9110 7.8: Connection must name it",
        message(upgrade=b""),
    )
    ok(
        "upgrade-1.0-ignored",
        get(b"Host: a", b"Connection: Upgrade, keep-alive", b"Upgrade: websocket", version=b"HTTP/1.0"),
        "9110 7.8: MUST ignore Upgrade from HTTP/1.0",
        message(upgrade=b"", keep_alive=True),
    )
    ok(
        "upgrade-list",
        get(b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket, h2c"),
        "9110 7.8",
        message(upgrade=b"websocket, h2c"),
    )
    ok(
        "upgrade-with-body",
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 2", body=b"ok"),
        "9110 7.8: the body is always the body",
        message(b"ok", upgrade=b"websocket"),
    )
    for value, name in [
        (b"a b", "two-words"),
        (b'"close"', "quoted"),
        (b"close;x", "parameter"),
        (b"x/y", "slash"),
        (b"\xe9", "non-ascii"),
    ]:
        bad(f"connection-{name}", get(b"Host: a", b"Connection: " + value), "9110 7.6.1: connection-option = token")
    ok("upgrade-named-but-absent", get(b"Host: a", b"Connection: Upgrade"), "9110 7.8", message(upgrade=b""))


def pipelines() -> None:
    first = message(b"", method=b"GET", target=b"/1")
    ok(
        "pipeline-two-gets",
        get(b"Host: a", target=b"/1") + get(b"Host: b", target=b"/2"),
        "9.3.2",
        first,
        message(b"", target=b"/2", host=b"b"),
    )
    ok(
        "pipeline-post-get",
        post(b"Content-Length: 5", body=b"hello") + get(b"Host: b"),
        "9.3.2",
        message(b"hello", method=b"POST"),
        message(b"", method=b"GET", host=b"b", content_length=-1, headers=[(b"Host", b"b")]),
    )
    ok(
        "pipeline-chunked-get",
        chunked(HELLO) + get(b"Host: b"),
        "9.3.2",
        message(b"hello", chunked=True),
        message(b"", method=b"GET", chunked=False),
    )
    ok(
        "pipeline-chunked-trailer-get",
        chunked(b"0\r\nX: v\r\n\r\n") + get(b"Host: b"),
        "9.3.2",
        message(b"", chunked=True),
        message(b"", method=b"GET", headers=[(b"Host", b"b")]),
    )
    ok(
        "pipeline-ten",
        b"".join(get(b"Host: a", target=b"/%d" % n) for n in range(10)),
        "9.3.2",
        *[message(b"", target=b"/%d" % n) for n in range(10)],
    )
    ok(
        "pipeline-mixed",
        chunked(HELLO) + post(b"Content-Length: 2", body=b"ok") + post() + chunked(b"0\r\n\r\n"),
        "9.3.2",
        message(b"hello"),
        message(b"ok"),
        message(b""),
        message(b""),
    )
    ok(
        "pipeline-second-incomplete",
        get(b"Host: a", target=b"/1") + b"GET /2 HTTP/1.1\r\nHost",
        "9.3.2",
        first,
        incomplete=True,
    )
    ok(
        "pipeline-versions",
        post(b"Content-Length: 2", b"Connection: keep-alive", body=b"ok", version=b"HTTP/1.0") + get(b"Host: a"),
        "9.3",
        message(b"ok", version=10, keep_alive=True),
        message(version=11),
    )
    ok(
        "pipeline-expect-is-per-message",
        post(b"Expect: 100-continue", b"Content-Length: 2", body=b"ok") + get(b"Host: a"),
        "9110 10.1.1",
        message(expect_continue=True),
        message(expect_continue=False),
    )
    ok("incomplete-request-line", b"GET / HT", "3", incomplete=True)
    ok("incomplete-request-line-cr", b"GET / HTTP/1.1\r", "3", incomplete=True)
    ok("incomplete-field", b"GET / HTTP/1.1\r\nHost: a\r\nX: v", "5", incomplete=True)
    ok("incomplete-head-end", b"GET / HTTP/1.1\r\nHost: a\r\n\r", "2.1", incomplete=True)
    ok("incomplete-nothing", b"", "an idle connection", incomplete=True)
    bad(
        "pipeline-second-bad",
        get(b"Host: a", target=b"/1") + b"GET /2\r\n\r\n",
        "rule 4: complete requests come first",
        400,
        505,
        before=[first],
    )
    bad(
        "pipeline-garbage-after-post",
        post(b"Content-Length: 5", body=b"hello") + b"surplus\r\n\r\n",
        "6.3: octets after the body",
        400,
        505,
        before=[message(b"hello")],
    )
    bad(
        "pipeline-third-desync",
        get(b"Host: a", target=b"/1") + chunked(HELLO) + post(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        "rule 4",
        before=[first, message(b"hello")],
    )


def request_limits() -> None:
    small = {"max_line": 64, "max_field": 64, "max_head": 256, "max_headers": 4}
    bad(
        "limit-line",
        get(b"Host: a", target=b"/" + b"x" * 80),
        "3: 414 for a request-target too long",
        414,
        limits=small,
    )
    bad("limit-line-without-end", b"GET /" + b"x" * 80, "rule 10: counted while reading", 414, limits=small)
    bad(
        "limit-line-method",
        b"G" * 80 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
        "3: a method too long",
        400,
        414,
        501,
        limits=small,
    )
    bad("limit-line-default", get(b"Host: a", target=b"/" + b"x" * 8200), "8 KiB", 414)
    bad("limit-field", get(b"Host: a", b"X: " + b"v" * 80), "9110 5.4: 431", 431, limits=small)
    bad("limit-field-name", get(b"Host: a", b"X" * 80 + b": v"), "9110 5.4: 431", 431, limits=small)
    bad("limit-field-blanks", get(b"Host: a", b"X:" + b" " * 80 + b"v"), "blanks are counted too", 431, limits=small)
    bad(
        "limit-field-without-end",
        b"GET / HTTP/1.1\r\nX: " + b"v" * 80,
        "rule 10: counted while reading",
        431,
        limits=small,
    )
    bad("limit-field-default", get(b"Host: a", b"X: " + b"v" * 16400), "16 KiB", 431)
    bad(
        "limit-headers",
        get(b"Host: a", b"A: 1", b"B: 1", b"C: 1", b"D: 1"),
        "five fields where four are allowed",
        431,
        limits=small,
    )
    bad("limit-headers-default", get(b"Host: a", *[b"X: 1"] * 100), "101 fields", 431)
    bad(
        "limit-head",
        get(b"Host: a", *[b"X: " + b"v" * 50] * 3, target=b"/" + b"x" * 45),
        "256 octets of head",
        431,
        limits={**small, "max_head": 200},
    )
    bad("limit-head-default", get(b"Host: a", *[b"X: " + b"v" * 11000] * 3), "32 KiB", 431)
    ok(
        "limit-headers-reached",
        get(b"Host: a", b"A: 1", b"B: 1", b"C: 1"),
        "four of four fields",
        message(b""),
        limits=small,
    )
    ok("limit-headers-default-reached", get(b"Host: a", *[b"X: 1"] * 99), "100 fields", message(b""))
    ok(
        "limit-line-8000",
        get(b"Host: a", target=b"/" + b"x" * 7900),
        "3: at least 8000 octets",
        message(b"", target=b"/" + b"x" * 7900),
    )
    ok("limit-field-16000", get(b"Host: a", b"Authorization: " + b"t" * 16000), "16 KiB", message(b""))
    ok(
        "limit-is-per-message",
        get(b"Host: a", b"A: 1", b"B: 1", b"C: 1") * 3,
        "budgets start anew with each message",
        *[message(b"")] * 3,
        limits=small,
    )

    budget = {"max_chunk_line": 32, "max_chunk_ext": 64, "max_trailers": 64}
    any_limit = (400, 413, 431)
    ok(
        "limit-chunk-extension-within",
        chunked(b"5;a=0123456789\r\nhello\r\n0\r\n\r\n"),
        "a budget not used up",
        message(b"hello"),
        limits=budget,
    )
    ok(
        "limit-trailers-within",
        chunked(b"0\r\nX: 0123456789\r\n\r\n"),
        "a budget not used up",
        message(b""),
        limits=budget,
    )
    ok(
        "limit-chunk-budgets-per-message",
        chunked(b"1;a=0123456789\r\nx\r\n" * 3 + b"0\r\nX: 0123456789\r\n\r\n") * 3,
        "budgets start anew with each message",
        *[message(b"xxx")] * 3,
        limits=budget,
    )
    bad(
        "limit-chunk-line",
        chunked(b"5;" + b"a" * 40 + b"\r\nhello\r\n0\r\n\r\n"),
        "Go CVE-2023-39326",
        *any_limit,
        limits=budget,
        at="body",
    )
    bad(
        "limit-chunk-line-without-end",
        chunked(b"5;" + b"a" * 40),
        "counted while reading",
        *any_limit,
        limits=budget,
        at="body",
    )
    bad(
        "limit-chunk-extensions-sum",
        chunked(b"1;a=0123456789\r\nx\r\n" * 10 + b"0\r\n\r\n"),
        "Go CVE-2023-39326: summed over the body",
        *any_limit,
        limits=budget,
        at="body",
        body="xxxxxxxxxx",
    )
    bad(
        "limit-trailer-line",
        chunked(b"0\r\nX: " + b"v" * 80 + b"\r\n\r\n"),
        "aiohttp CVE-2026-22815",
        *any_limit,
        limits=budget,
        at="body",
    )
    bad(
        "limit-trailers-sum",
        chunked(b"0\r\n" + b"X: 0123456789\r\n" * 6 + b"\r\n"),
        "aiohttp CVE-2026-22815",
        *any_limit,
        limits=budget,
        at="body",
    )
    bad(
        "limit-trailers-without-end",
        chunked(b"0\r\nX: " + b"v" * 80),
        "counted while reading",
        *any_limit,
        limits=budget,
        at="body",
    )
    bad(
        "limit-chunk-line-default",
        chunked(b"5;" + b"a" * 4100 + b"\r\nhello\r\n0\r\n\r\n"),
        "4 KiB",
        *any_limit,
        at="body",
    )
    bad(
        "limit-chunk-extensions-default",
        chunked((b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 5 + b"0\r\n\r\n"),
        "16 KiB",
        *any_limit,
        at="body",
        body="xxxxx",
    )
    bad(
        "limit-trailers-default",
        chunked(b"0\r\n" + (b"X: " + b"v" * 4000 + b"\r\n") * 3 + b"\r\n"),
        "8 KiB",
        *any_limit,
        at="body",
    )


def reply(*lines: bytes, body: bytes = b"", status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return CRLF.join([status, *lines]) + b"\r\n\r\n" + body


def rok(name: str, raw: bytes, origin: str, *messages: dict[str, Any], **more: Any) -> None:
    *interim, final = messages if messages else (None,)
    put(
        "response/valid",
        name,
        raw,
        {"origin": origin, "interim": interim or None, "messages": [] if final is None else [final], **more},
    )


def rbad(name: str, raw: bytes, origin: str, **more: Any) -> None:
    put("response/invalid", name, raw, {"origin": origin, **more})


def responses() -> None:
    rok(
        "cl",
        reply(b"Content-Length: 5", body=b"hello"),
        "6.3",
        message(
            b"hello",
            status=200,
            reason=b"OK",
            version=11,
            keep_alive=True,
            content_length=5,
            chunked=False,
            headers=[(b"Content-Length", b"5")],
        ),
    )
    rok("cl-zero", reply(b"Content-Length: 0"), "6.3", message(b"", content_length=0, keep_alive=True))
    rok(
        "cl-ows-and-zeros",
        reply(b"Content-Length: \t005 ", body=b"hello"),
        "5.1, 9110 8.6",
        message(b"hello", content_length=5),
    )
    rok(
        "chunked",
        reply(b"Transfer-Encoding: chunked", body=HELLO),
        "7.1",
        message(b"hello", chunked=True, content_length=-1, keep_alive=True),
    )
    rok("chunked-case", reply(b"transfer-encoding: CHUNKED", body=HELLO), "7", message(b"hello", chunked=True))
    rok(
        "chunked-extension-trailer",
        reply(b"Transfer-Encoding: chunked", body=b'5;a="b;"\r\nhello\r\n0;c\r\nX: v\r\n\r\n'),
        "7.1.1, 7.1.2",
        message(b"hello", headers=[(b"Transfer-Encoding", b"chunked")]),
    )
    rok("chunked-empty", reply(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), "7.1", message(b""))
    rok("chunked-eof-after-end", reply(b"Transfer-Encoding: chunked", body=HELLO), "9.6", message(b"hello"), eof=True)
    rok("cl-eof-after-end", reply(b"Content-Length: 5", body=b"hello"), "9.6", message(b"hello"), eof=True)
    rok(
        "close-delimited",
        reply(b"X: v", body=b"hello"),
        "6.3: until the connection closes",
        message(b"hello", content_length=-1, chunked=False, keep_alive=False),
        eof=True,
    )
    rok("close-delimited-empty", reply(), "6.3", message(b""), eof=True)
    rok(
        "close-delimited-looks-like-response",
        reply(body=reply(b"Content-Length: 0")),
        "6.3",
        message(reply(b"Content-Length: 0")),
        eof=True,
    )
    rok(
        "close-delimited-1.0",
        reply(body=b"hello", status=b"HTTP/1.0 200 OK"),
        "6.3",
        message(b"hello", version=10, keep_alive=False),
        eof=True,
    )
    rok(
        "close-delimited-1.0-keep-alive",
        reply(b"Connection: keep-alive", body=b"hello", status=b"HTTP/1.0 200 OK"),
        "6.3: what ends by closing is not kept",
        message(b"hello", keep_alive=False),
        eof=True,
    )
    rok("close-delimited-open", reply(body=b"hello"), "6.3: not yet closed", incomplete=True)
    rok(
        "keep-alive-1.0",
        reply(b"Connection: keep-alive", b"Content-Length: 0", status=b"HTTP/1.0 200 OK"),
        "9.3",
        message(b"", keep_alive=True, version=10),
    )
    rok(
        "no-keep-alive-1.0",
        reply(b"Content-Length: 0", status=b"HTTP/1.0 200 OK"),
        "9.3",
        message(b"", keep_alive=False),
    )
    rok("connection-close", reply(b"Connection: close", b"Content-Length: 0"), "9.6", message(b"", keep_alive=False))
    rok(
        "connection-close-in-list",
        reply(b"Connection: x, CLOSE", b"Content-Length: 0"),
        "9.6",
        message(b"", keep_alive=False),
    )

    for line in (b"204 No Content", b"304 Not Modified"):
        code = int(line[:3])
        rok(f"{code}", reply(status=b"HTTP/1.1 " + line), "6.3: no body", message(b"", status=code, keep_alive=True))
        rok(f"{code}-eof", reply(status=b"HTTP/1.1 " + line), "6.3: no body", message(b"", status=code), eof=True)
    rok(
        "304-with-cl",
        reply(b"Content-Length: 5", status=b"HTTP/1.1 304 Not Modified"),
        "6.3: CL tells what 200 would have had",
        message(b"", status=304, keep_alive=True),
    )
    rok(
        "304-with-te",
        reply(b"Transfer-Encoding: chunked", status=b"HTTP/1.1 304 Not Modified"),
        "6.3",
        message(b"", status=304),
    )
    rok(
        "204-with-body",
        reply(b"X: v", body=b"hello", status=b"HTTP/1.1 204 No Content"),
        "6.3: octets after 204 are surplus",
        message(b"", status=204),
        surplus="hello",
    )
    rok(
        "head-with-cl",
        reply(b"Content-Length: 5"),
        "6.3: no body to HEAD",
        message(b"", keep_alive=True),
        request_method="HEAD",
    )
    rok("head-with-te", reply(b"Transfer-Encoding: chunked"), "6.3", message(b""), request_method="HEAD")
    rok("head-without-framing", reply(b"X: v"), "6.3", message(b"", keep_alive=True), request_method="HEAD")
    rok(
        "head-with-body",
        reply(b"Content-Length: 5", body=b"hello"),
        "6.3: octets after the head are surplus",
        message(b""),
        request_method="HEAD",
        surplus="hello",
    )
    rok(
        "head-lower-case-is-no-head",
        reply(b"Content-Length: 5", body=b"hello"),
        "9110 9.1: methods are case-sensitive",
        message(b"hello"),
        request_method="head",
    )
    rok(
        "post-answer",
        reply(b"Content-Length: 5", body=b"hello", status=b"HTTP/1.1 201 Created"),
        "6.3",
        message(b"hello", status=201),
        request_method="POST",
    )
    rok(
        "205-with-cl-zero",
        reply(b"Content-Length: 0", status=b"HTTP/1.1 205 Reset Content"),
        "9110 15.3.6",
        message(b"", status=205),
    )

    rok(
        "100-then-200",
        reply(status=b"HTTP/1.1 100 Continue") + reply(b"Content-Length: 5", body=b"hello"),
        "9110 15.2",
        message(status=100, reason=b"Continue"),
        message(b"hello", status=200),
    )
    rok(
        "103-then-200",
        reply(b"Link: </x>", status=b"HTTP/1.1 103 Early Hints") + reply(b"Content-Length: 0"),
        "9110 15.2",
        message(status=103, headers=[(b"Link", b"</x>")]),
        message(b"", status=200, headers=[(b"Content-Length", b"0")]),
    )
    rok(
        "100-102-103-then-chunked",
        b"".join(reply(status=b"HTTP/1.1 " + s) for s in (b"100 C", b"102 P", b"103 E"))
        + reply(b"Transfer-Encoding: chunked", body=HELLO),
        "9110 15.2: any number of interim responses",
        message(status=100),
        message(status=102),
        message(status=103),
        message(b"hello", status=200),
    )
    rok(
        "199-then-204",
        reply(status=b"HTTP/1.1 199 X") + reply(status=b"HTTP/1.1 204 N"),
        "9110 15.2: unknown 1xx",
        message(status=199),
        message(b"", status=204),
    )
    rok(
        "100-then-head-answer",
        reply(status=b"HTTP/1.1 100 C") + reply(b"Content-Length: 9"),
        "9110 15.2",
        message(status=100),
        message(b"", status=200),
        request_method="HEAD",
    )
    rok(
        "100-then-nothing-yet",
        reply(status=b"HTTP/1.1 100 Continue"),
        "9110 15.2",
        incomplete=True,
        interim=[message(status=100)],
    )
    rok(
        "101",
        reply(b"Upgrade: websocket", b"Connection: upgrade", status=b"HTTP/1.1 101 Switching") + b"\x81\x05hello",
        "9110 15.2.2: the head ends the HTTP part, what follows belongs to the new protocol",
        message(b"", status=101),
        surplus=text(b"\x81\x05hello"),
    )
    rok(
        "100-then-close-delimited",
        reply(status=b"HTTP/1.1 100 C") + reply(body=b"hello"),
        "6.3",
        message(status=100),
        message(b"hello"),
        eof=True,
    )

    zero = b"Content-Length: 0"
    for line, name, status, reason in [
        (b"HTTP/1.1 200 ", "reason-empty", 200, b""),
        (b"HTTP/1.1 200", "reason-missing", 200, b""),
        (b"HTTP/1.1 404 Not\tFound  here", "reason-blanks", 404, b"Not\tFound  here"),
        (b"HTTP/1.1 200 \xc3\x9cber", "reason-obs-text", 200, b"\xc3\x9cber"),
        (b"HTTP/1.1 299 X", "299", 299, b"X"),
        (b"HTTP/1.1 600 X", "600", 600, b"X"),
        (b"HTTP/1.1 999 X", "999", 999, b"X"),
        (b"HTTP/1.0 503 Busy", "1.0-503", 503, b"Busy"),
        (b"HTTP/1.2 200 OK", "version-1.2", 200, b"OK"),
    ]:
        rok(
            f"status-line-{name}",
            reply(zero, status=line),
            "4: status-line",
            message(b"", status=status, reason=reason),
        )
    rok(
        "field-obs-text",
        reply(zero, b"X: \xff\x80"),
        "9110 5.5",
        message(headers=[(b"Content-Length", b"0"), (b"X", b"\xff\x80")]),
    )
    rok(
        "field-repeats",
        reply(zero, b"Set-Cookie: a=1", b"set-cookie: b=2"),
        "9110 5.3",
        message(headers=[(b"Content-Length", b"0"), (b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]),
    )
    rok(
        "surplus-after-cl",
        reply(b"Content-Length: 2", body=b"okx"),
        "queue poisoning: surplus octets are shown, never parsed",
        message(b"ok"),
        surplus="x",
    )
    rok(
        "surplus-second-response",
        reply(b"Content-Length: 2", body=b"ok") + reply(zero),
        "queue poisoning",
        message(b"ok"),
        surplus=text(reply(zero)),
    )
    rok(
        "surplus-after-chunked",
        reply(b"Transfer-Encoding: chunked", body=HELLO + b"\r\n"),
        "queue poisoning",
        message(b"hello"),
        surplus="\r\n",
    )
    rok("incomplete-head", b"HTTP/1.1 200 OK\r\nContent-Le", "4", incomplete=True)
    rok("incomplete-body", reply(b"Content-Length: 6", body=b"hello"), "6.3", incomplete=True)
    rok("limit-headers-reached", reply(zero, *[b"X: 1"] * 99), "100 fields", message(b""))

    for line, name in [
        (b"HTTP/1.1 99 X", "two-digits"),
        (b"HTTP/1.1 099 X", "099"),
        (b"HTTP/1.1 000 X", "000"),
        (b"HTTP/1.1 2x0 X", "letter"),
        (b"HTTP/1.1 2000 X", "four-digits"),
        (b"HTTP/1.1 +20 X", "plus"),
        (b"HTTP/1.1 -20 X", "minus"),
        (b"HTTP/1.1  200 OK", "two-spaces"),
        (b"HTTP/1.1\t200 OK", "tab"),
        (b"HTTP/1.1200 OK", "no-space"),
        (b"HTTP/1.1", "no-status"),
        (b"HTTP/1.1 ", "empty-status"),
        (b"HTTP/2 200 OK", "http-2"),
        (b"HTTP/2.0 200 OK", "http-2.0"),
        (b"HTTP/0.9 200 OK", "http-0.9"),
        (b"http/1.1 200 OK", "lower-case"),
        (b"ICY 200 OK", "icy"),
        (b"HTTP/1.1 200 O\0K", "reason-nul"),
        (b"HTTP/1.1 200 O\rK", "reason-cr"),
        (b"HTTP/1.1 200 O\x01K", "reason-ctl"),
        (b"HTTP/1.1 200 O\x7fK", "reason-del"),
        (b"HTTP/1.1 200\tOK", "tab-before-reason"),
        (b"HTTP/1.1 200OK", "no-space-before-reason"),
        (b" HTTP/1.1 200 OK", "leading-space"),
        (b"HTTP/1.10 200 OK", "two-digit-minor"),
        (b"HTTP/1.1 200 OK\r", "double-cr"),
        (b"HTTP/1.1 \xb2\xb3\xb9 X", "superscript"),
        (b"HTTP/1.x 200 OK", "minor-letter"),
        (b"HTTP /1.1 200 OK", "space-in-version"),
        (b"HTTP/1.1 20 0", "split-status"),
    ]:
        rbad(f"status-line-{name}", reply(zero, status=line), "4: status-line; rule 14")
    rbad("http-0.9-body", b"<html>\r\n\r\n</html>", "rule 14: HTTP/0.9")
    rbad("h2-settings-frame", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\r\n\r\n", "rule 14: HTTP/2 frames")
    rbad("tls-alert", b"\x15\x03\x03\x00\x02\x02\x46", "rule 14: TLS alert", eof=True)
    for lines, name in [
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], "cl-te"),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], "te-cl"),
        ([b"Content-Length: 5", b"Content-Length: 5"], "cl-twice-equal"),
        ([b"Content-Length: 5", b"Content-Length: 6"], "cl-twice-different"),
        ([b"Content-Length: 5, 5"], "cl-list"),
        ([b"Content-Length: +5"], "cl-plus"),
        ([b"Content-Length: -1"], "cl-minus"),
        ([b"Content-Length:"], "cl-empty"),
        ([b"Content-Length: 5_0"], "cl-underscore"),
        ([b"Content-Length: 0x5"], "cl-hex"),
        ([b"Content-Length: 1" + b"0" * 18], "cl-19-digits"),
        ([b"Content-Length : 5"], "cl-space-before-colon"),
        ([b"Transfer-Encoding: gzip, chunked"], "te-gzip-chunked"),
        ([b"Transfer-Encoding: identity"], "te-identity"),
        ([b"Transfer-Encoding: xchunked"], "te-xchunked"),
        ([b"Transfer-Encoding:"], "te-empty"),
        ([b"Transfer-Encoding: gzip"], "te-gzip"),
        ([b"Transfer-Encoding: chunked"] * 2, "te-twice"),
        ([b"Transfer-Encoding: chunked, chunked"], "te-chunked-chunked"),
        ([b"X: a\r\n b"], "field-obs-fold"),
        ([b"X: a\0"], "field-nul"),
        ([b"X: a\rb"], "field-cr"),
        ([b"X: a\nY: b"], "field-lf"),
        ([b"X : a"], "field-space-before-colon"),
        ([b": a"], "field-empty-name"),
        ([b"X"], "field-no-colon"),
        ([b"X: \x01"], "field-ctl"),
        ([b" X: a"], "field-leading-space"),
        ([b"X\xe9: a"], "field-name-non-ascii"),
        ([b"X: a\x7f"], "field-del"),
    ]:
        rbad(name, reply(*lines, body=b"hello"), "6.3, 5: rule 14")
    rbad("te-1.0", reply(b"Transfer-Encoding: chunked", body=HELLO, status=b"HTTP/1.0 200 OK"), "6.1: TE in HTTP/1.0")
    rbad(
        "cl-te-1.0",
        reply(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=HELLO, status=b"HTTP/1.0 200 OK"),
        "6.1",
    )
    rbad(
        "cl-te-to-head",
        reply(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        "6.3: ambiguous, body or not",
        request_method="HEAD",
    )
    rbad(
        "cl-twice-304",
        reply(b"Content-Length: 5", b"Content-Length: 6", status=b"HTTP/1.1 304 N"),
        "6.3: ambiguous, body or not",
    )
    rbad("lf-after-status-line", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "2.2")
    rbad("lf-everywhere", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "2.2")
    rbad("lf-ends-head", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n", "2.2")
    rbad(
        "bad-after-100",
        reply(status=b"HTTP/1.1 100 C") + reply(b"Content-Length: x"),
        "6.3",
        interim=[message(status=100)],
    )

    for body, name, payload in [
        (b"0x5\r\nhello\r\n0\r\n\r\n", "size-0x", b""),
        (b" 5\r\nhello\r\n0\r\n\r\n", "size-space", b""),
        (b"5\nhello\r\n0\r\n\r\n", "size-lf", b""),
        (b"5\r\nhello0\r\n\r\n", "no-crlf-after-data", b"hello"),
        (b"5\r\nhello world\r\n0\r\n\r\n", "spill", b"hello"),
        (b"\r\nhello", "size-empty", b""),
        (b"-5\r\nhello", "size-minus", b""),
        (b"f" * 17 + b"\r\n", "size-17-digits", b""),
        (b"0\r\nX\r\n\r\n", "trailer-no-colon", b""),
        (b'5;a="\n"\r\nhello\r\n0\r\n\r\n', "extension-lf-quoted", b""),
        (b"0\r\n\n", "last-lf", b""),
        (b"5;" + b"a" * 4100 + b"\r\n", "line-limit", b""),
        (b"0\r\n" + (b"X: " + b"v" * 4000 + b"\r\n") * 3, "trailer-limit", b""),
    ]:
        rbad(
            f"chunk-{name}",
            reply(b"Transfer-Encoding: chunked", body=body),
            "7.1: rule 14",
            at="body",
            body=text(payload),
        )
    rbad("limit-headers", reply(zero, *[b"X: 1"] * 100), "101 fields: rule 14")
    rbad("limit-field", reply(zero, b"X: " + b"v" * 16400), "16 KiB: rule 14")
    rbad("limit-head", reply(zero, *[b"X: " + b"v" * 11000] * 3), "32 KiB: rule 14")
    rbad("limit-status-line", reply(zero, status=b"HTTP/1.1 200 " + b"x" * 8200), "8 KiB: rule 14")
    rbad("limit-status-line-without-end", b"HTTP/1.1 200 " + b"x" * 8200, "counted while reading")
    rbad("eof-mid-head", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", "8: incomplete message", eof=True)
    rbad("eof-mid-status-line", b"HTTP/1.1 2", "8", eof=True)
    rbad(
        "eof-after-100",
        reply(status=b"HTTP/1.1 100 Continue"),
        "8: an interim response is not the answer",
        eof=True,
        interim=[message(status=100)],
    )
    rbad(
        "eof-mid-cl-body",
        reply(b"Content-Length: 6", body=b"hello"),
        "8: fewer octets than announced",
        eof=True,
        at="body",
        body="hello",
    )
    rbad("eof-before-cl-body", reply(b"Content-Length: 6"), "8", eof=True, at="body", body="")
    rbad("eof-mid-chunk", reply(b"Transfer-Encoding: chunked", body=b"5\r\nhel"), "8", eof=True, at="body", body="hel")
    rbad(
        "eof-before-last-chunk",
        reply(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),
        "8: no last-chunk",
        eof=True,
        at="body",
        body="hello",
    )
    rbad(
        "eof-mid-last-chunk",
        reply(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n"),
        "8: the final CRLF is missing",
        eof=True,
        at="body",
        body="hello",
    )
    rbad(
        "eof-mid-trailer",
        reply(b"Transfer-Encoding: chunked", body=b"0\r\nX: v\r\n"),
        "8",
        eof=True,
        at="body",
        body="",
    )


def build() -> dict[str, bytes]:
    """Every file of the tree: path below this directory → content."""
    VECTORS.clear()
    for section in (
        request_lines,
        targets,
        fields,
        hosts,
        content_lengths,
        transfer_encodings,
        chunk_grammar,
        connection_rules,
        pipelines,
        request_limits,
        responses,
    ):
        section()
    files: dict[str, bytes] = {}
    for name, (raw, expected) in VECTORS.items():
        files[name + ".http"] = raw
        files[name + ".json"] = json.dumps(expected, indent=1, ensure_ascii=True).encode() + b"\n"
    return files


def on_disk() -> set[str]:
    return {str(path.relative_to(HERE)) for kind in ("request", "response") for path in (HERE / kind).rglob("*.*")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if anything would change")
    arguments = parser.parse_args()
    files = build()
    stale = on_disk() - set(files)
    changed = [
        name for name, content in files.items() if not (HERE / name).exists() or (HERE / name).read_bytes() != content
    ]
    if not arguments.check:
        for name in stale:
            (HERE / name).unlink()
        for name in changed:
            (HERE / name).parent.mkdir(parents=True, exist_ok=True)
            (HERE / name).write_bytes(files[name])
    counts: dict[str, int] = {}
    for name in VECTORS:
        kind = name.rsplit("/", 1)[0]
        counts[kind] = counts.get(kind, 0) + 1
    print(counts, f"{len(changed)} changed, {len(stale)} stale")
    return 1 if arguments.check and (changed or stale) else 0


if __name__ == "__main__":
    sys.exit(main())
