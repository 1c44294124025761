"""The era ladder rung by rung, media types, and client capabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from agw.mcp.errors import RpcError
from agw.mcp.ladder import accepts, check_capability, has_capability, is_json, judge, supported
from agw.mcp.message import MessageError, members, parse
from agw.mcp.revisions import ALL, METHODS

MODERN = "2026-07-28"
PRE = "io.modelcontextprotocol/"


def fields(**named: str | list[str]) -> Callable[[bytes], list[bytes]]:
    """A header getter; `mcp_name="x"` is the field mcp-name, a list gives it more than once."""
    table = {name.replace("_", "-").encode(): [v.encode() for v in ([given] if isinstance(given, str) else given)] for name, given in named.items()}
    return lambda name: table.get(name, [])


def meta(version: Any = MODERN, **more: Any) -> dict[str, Any]:
    return {PRE + "protocolVersion": version, PRE + "clientCapabilities": {}, **{PRE + key: part for key, part in more.items()}}


def body(method: str = "tools/list", params: Any = None, **more: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, **({} if params is None else {"params": params}), **more})


def refused(header: Callable[[bytes], list[bytes]], raw: bytes, known: tuple[str, ...] = ALL, **options: bool) -> RpcError:
    with pytest.raises(RpcError) as caught:
        judge(header, parse(raw), known, **options)
    assert caught.value.always
    return caught.value


# ------------------------------------------------------------------------------------------------------------ legacy


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_a_legacy_version_in_the_header(version: str) -> None:
    assert judge(fields(mcp_protocol_version=f" {version} "), parse(body("ping")), ALL) == ("legacy", version, None)


def test_legacy_without_a_header_and_whatever_the_method() -> None:
    for method in ("initialize", "ping", "no/such"):
        assert judge(fields(), parse(body(method)), ALL)[:2] == ("legacy", "")
    assert judge(fields(), parse(b'{"jsonrpc":"2.0","id":1,"result":{}}'), ALL).era == "legacy"


def test_mirror_headers_mean_nothing_to_the_legacy_era() -> None:
    assert judge(fields(mcp_method=["a", "b"], mcp_name="x"), parse(body("tools/call", {"name": "y"})), ALL).era == "legacy"


def test_meta_without_a_version_is_legacy() -> None:
    verdict = judge(fields(), parse(body("tools/list", {"_meta": {"progressToken": 1}})), ALL)
    assert verdict.era == "legacy"
    assert verdict.meta is not None
    assert bytes(verdict.meta["progressToken"]) == b"1"


def test_a_legacy_version_that_is_not_served() -> None:
    error = refused(fields(mcp_protocol_version="2024-11-05"), body(), ("2025-06-18", MODERN))
    assert (error.code, error.status, error.data) == (-32600, 400, {"supported": ["2025-06-18"]})


def test_a_legacy_version_header_twice() -> None:
    error = refused(fields(mcp_protocol_version=["2025-06-18", "2025-06-18"]), body())
    assert (error.code, error.status) == (-32600, 400)


# ------------------------------------------------------------------------------------------------------------ modern


def test_a_whole_modern_request() -> None:
    raw = body("tools/call", {"name": "größe", "_meta": meta(logLevel="info", clientInfo={"name": "c", "version": "1"}, x=1e3)})
    verdict = judge(fields(mcp_protocol_version=MODERN, mcp_method="tools/call", mcp_name="=?base64?Z3LDtsOfZQ==?="), parse(raw), ALL)
    assert verdict[:2] == ("modern", MODERN)
    assert verdict.meta is not None
    assert bytes(verdict.meta[PRE + "clientInfo"]) == b'{"name":"c","version":"1"}'


def test_a_session_id_is_not_looked_at() -> None:
    header = fields(mcp_protocol_version=MODERN, mcp_method="tools/list", mcp_session_id="stray")
    assert judge(header, parse(body(params={"_meta": meta()})), ALL).era == "modern"


@pytest.mark.parametrize("versions", [[], [MODERN, MODERN]])
def test_the_version_header_is_there_once(versions: list[str]) -> None:
    error = refused(fields(mcp_protocol_version=versions, mcp_method="tools/list"), body(params={"_meta": meta()}))
    assert (error.code, error.status) == (-32020, 400)


def broken(**changed: Any) -> dict[str, Any]:
    whole = meta()
    for key, part in changed.items():
        if part is None:
            del whole[PRE + key]
        else:
            whole[PRE + key] = part
    return whole


@pytest.mark.parametrize(
    "params",
    [None, {}, {"_meta": 5}, {"_meta": {}}, {"_meta": broken(protocolVersion=None)}, {"_meta": broken(clientCapabilities=None)}, {"_meta": meta(5)},
     {"_meta": broken(clientCapabilities=[])}, {"_meta": broken(clientInfo="me")}, {"_meta": broken(logLevel="loud")}, [1]],
)  # fmt: skip
def test_an_envelope_that_is_not_whole(params: Any) -> None:
    error = refused(fields(mcp_protocol_version=MODERN, mcp_method="tools/list"), body(params=params))
    assert (error.code, error.status) == (-32602, 400)


@pytest.mark.parametrize("version", ["2025-06-18", "2027-01-01", "2026-07-28x"])
def test_header_and_envelope_differ(version: str) -> None:
    error = refused(fields(mcp_protocol_version=version, mcp_method="tools/list"), body(params={"_meta": meta()}))
    assert (error.code, error.status) == (-32020, 400)


@pytest.mark.parametrize("version", ["2099-01-01", "nonsense", "2025-06-18"])
def test_both_name_what_is_not_served(version: str) -> None:
    error = refused(fields(mcp_protocol_version=version, mcp_method="tools/list"), body(params={"_meta": meta(version)}))
    assert (error.code, error.status, error.data) == (-32022, 400, {"supported": [MODERN], "requested": version})


@pytest.mark.parametrize("params", [None, {"_meta": {"progressToken": 1}}])
def test_a_header_nobody_serves_and_no_envelope(params: Any) -> None:
    error = refused(fields(mcp_protocol_version="1999-01-01"), body(params=params))
    assert (error.code, error.status, error.data["requested"]) == (-32022, 400, "1999-01-01")


def test_the_versions_named_are_the_modern_ones() -> None:
    assert supported(ALL) == [MODERN]


@pytest.mark.parametrize("given", [[], ["tools/call"], ["Tools/List"], ["tools/list", "tools/list"], ["tools/list, tools/list"]])
def test_mcp_method_mirrors_the_method(given: list[str]) -> None:
    error = refused(fields(mcp_protocol_version=MODERN, mcp_method=given), body(params={"_meta": meta()}))
    assert (error.code, error.status) == (-32020, 400)


NAMED = [(name, method.name) for name, method in METHODS.items() if method.name and "modern" in method.eras]


@pytest.mark.parametrize(("method", "member"), NAMED)
def test_mcp_name_mirrors_its_member(method: str, member: str) -> None:
    def judged(*names: str, **params: str) -> int:
        try:
            header = fields(mcp_protocol_version=MODERN, mcp_method=method, mcp_name=list(names))
            judge(header, parse(body(method, {**params, "_meta": meta()})), ALL)
        except RpcError as error:
            assert error.status == 400
            return error.code
        return 0

    assert judged("a b", **{member: "a b"}) == 0
    assert judged("\t a b ", **{member: "a b"}) == 0
    assert judged("=?base64?YSBi?=", **{member: "a b"}) == 0
    assert judged(**{member: "a b"}) == (0 if member == "taskId" else -32020)
    assert judged("A B", **{member: "a b"}) == -32020
    assert judged("a b", "a b", **{member: "a b"}) == -32020
    assert judged("=?base64?YSBi", **{member: "a b"}) == -32020
    assert judged("=?base64?YSBj?=", **{member: "a b"}) == -32020
    assert judged("=?base64?!!!!?=", **{member: "a b"}) == -32020
    assert judged("a b") == -32020
    assert judged() == -32602
    assert {"tools/call", "prompts/get", "resources/read", "tasks/get", "tasks/update", "tasks/cancel"} == {name for name, _ in NAMED}


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list", "tasks/result"])
@pytest.mark.parametrize("allow_unknown", [False, True])
def test_methods_the_era_does_not_have(method: str, allow_unknown: bool) -> None:
    header = fields(mcp_protocol_version=MODERN, mcp_method=method)
    error = refused(header, body(method, {"_meta": meta(), "uri": "a:b"}), allow_unknown=allow_unknown)
    assert (error.code, error.status) == (-32601, 404)


def test_unknown_methods_may_be_let_through() -> None:
    header, raw = fields(mcp_protocol_version=MODERN, mcp_method="skills/list"), body("skills/list", {"_meta": meta()})
    error = refused(header, raw)
    assert (error.code, error.status) == (-32601, 404)
    assert judge(header, parse(raw), ALL, allow_unknown=True).era == "modern"


def test_headers_are_judged_before_the_method() -> None:
    assert refused(fields(mcp_protocol_version=MODERN), body("ping", {"_meta": meta()})).code == -32020


def test_no_responses() -> None:
    error = refused(fields(mcp_protocol_version=MODERN), b'{"jsonrpc":"2.0","id":1,"result":{}}')
    assert (error.code, error.status) == (-32600, 400)


@pytest.mark.parametrize("mirror", [[], ["notifications/cancelled"]])
def test_a_notification_needs_the_version_only(mirror: list[str]) -> None:
    raw = b'{"jsonrpc":"2.0","method":"notifications/cancelled"}'
    assert judge(fields(mcp_protocol_version=MODERN, mcp_method=mirror), parse(raw), ALL) == ("modern", MODERN, None)
    assert refused(fields(mcp_protocol_version="2099-01-01"), raw).code == -32022
    assert refused(fields(mcp_protocol_version=MODERN, mcp_method="other"), raw).code == -32020


@pytest.mark.parametrize(
    "params",
    [
        b'{"_meta":%b,"arguments":{},"arguments":{"a":1}}',
        b'{"_meta":{"io.modelcontextprotocol/protocolVersion":"x","io.modelcontextprotocol/protocolVersion":"2026-07-28",'
        b'"io.modelcontextprotocol/clientCapabilities":{}},"x":%b}',
        b'{"_meta":{"io.modelcontextprotocol\\/protocolVersion":"x","io.modelcontextprotocol/protocolVersion":"2026-07-28",'
        b'"io.modelcontextprotocol/clientCapabilities":{}},"x":%b}',
    ],
)
def test_deciding_members_occur_once(params: bytes) -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":%b}' % (params % orjson.dumps(meta()))
    error = refused(fields(mcp_protocol_version=MODERN, mcp_method="tools/list"), raw)
    assert (error.code, error.status) == (-32600, 400)


def test_a_second_meta_is_no_message() -> None:
    """The scanner sees to it, before anybody judges."""
    with pytest.raises(MessageError):
        parse(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{},"_meta":%b}}' % orjson.dumps(meta()))


def test_the_same_name_elsewhere_and_escapes_are_fine() -> None:
    envelope = orjson.dumps(meta()).replace(b"/", b"\\/")
    raw = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"_meta":1,"x":"\\u00e9","n":1e400},"_meta":%b}}' % envelope
    assert judge(fields(mcp_protocol_version=MODERN, mcp_method="tools/call", mcp_name="t"), parse(raw), ALL).version == MODERN


# ------------------------------------------------------------------------------------------------------- media types


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (True, True)),
        ([b""], (True, True)),
        ([b" , "], (True, True)),
        ([b"application/json, text/event-stream"], (True, True)),
        ([b"application/json", b"text/event-stream"], (True, True)),
        ([b"Application/JSON;charset=utf-8"], (True, False)),
        ([b"text/event-stream;q=0.1"], (False, True)),
        ([b"*/*"], (True, True)),
        ([b"*; q=.2, */*; q=.2"], (True, True)),
        ([b"application/*"], (True, False)),
        ([b"text/*;q=0.5"], (False, True)),
        ([b"*/*, application/json;q=0"], (False, True)),
        ([b"application/json;q=0, application/*"], (False, False)),
        ([b"text/event-stream;q=0.000,*/*;q=0.1"], (True, False)),
        ([b"text/html"], (False, False)),
        ([b"garbage"], (False, False)),
        ([b'application/json;profile="a,b;q=0";q=1'], (True, False)),
        ([b'text/html;x="unfinished, application/json'], (False, False)),
        ([b"application/json;q=oops"], (True, False)),
    ],
)
def test_accept(values: list[bytes], expected: tuple[bool, bool]) -> None:
    assert accepts(values) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [(b"application/json", True), (b" Application/JSON ; charset=utf-8", True), (b"text/plain", False), (b"application/jsonp", False), (b"", False),
     (None, False)],
)  # fmt: skip
def test_content_type(field: bytes | None, expected: bool) -> None:
    assert is_json(field) is expected


# ------------------------------------------------------------------------------------------------------ capabilities


@pytest.mark.parametrize(
    ("kind", "capabilities", "expected"),
    [
        ("roots", b'{"roots":{}}', True),
        ("roots", b'{"roots":null}', False),
        ("roots", b'{"roots":true}', False),
        ("roots", b"{}", False),
        ("sampling", b'{"sampling":{}}', True),
        ("sampling.tools", b'{"sampling":{}}', False),
        ("sampling.tools", b'{"sampling":{"tools":{}}}', True),
        ("sampling.context", b'{"sampling":{"context":{}}}', True),
        ("elicitation", b'{"elicitation":{}}', True),
        ("elicitation", b'{"elicitation":{"form":{},"url":{}}}', True),
        ("elicitation", b'{"elicitation":{"url":{}}}', False),
        ("elicitation", b'{"elicitation":null}', False),
        ("elicitation.url", b'{"elicitation":{}}', False),
        ("elicitation.url", b'{"elicitation":{"url":{}}}', True),
        ("tasks", b'{"tasks":{}}', False),
        ("tasks", b'{"extensions":{"io.modelcontextprotocol/tasks":{}}}', True),
    ],
)
def test_what_was_declared(kind: Any, capabilities: bytes, expected: bool) -> None:
    assert has_capability(kind, members(capabilities)) is expected
    error = check_capability(kind, members(capabilities))
    assert (error is None) is expected
    if error is not None:
        assert (error.code, error.status, error.always) == (-32021, 400, True)
        assert has_capability(kind, members(orjson.dumps(error.data["requiredCapabilities"])))
