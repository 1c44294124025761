"""Expressions by the vectors, and what holds for every expression: no exception, exact needs, bounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agw.security import cel
from agw.security.cel_functions import safe, strict_json
from agw.security.cel_names import UNAVAILABLE, presences, variables
from agw.security.contract import Headers, McpFacts
from agw.security.facts import Facts

ROOT = Path(__file__).parents[3]
VECTORS: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests/vectors/security/cel.yaml").read_text())


class Head:
    """A request."""

    hopped = False
    certificate = None

    def __init__(self, method: str = "GET", path: str = "/", query: str | None = None, headers: dict[str, str] | None = None, secure: bool = False) -> None:
        self.method = method
        self.path = path.encode()
        self.query = None if query is None else query.encode()
        self.headers: Headers = [(b"host", b"H.example:81"), *((k.encode(), v.encode()) for k, v in (headers or {}).items())]
        self.peer = b"192.0.2.1"
        self.secure = secure

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def expand(value: Any) -> Any:
    """`{repeat: [text, n]}` and `{nest: n}` of the vectors as what they stand for."""
    if isinstance(value, dict):
        if value.keys() == {"repeat"}:
            return value["repeat"][0] * value["repeat"][1]
        if value.keys() == {"nest"}:
            out: list[Any] = []
            for _ in range(value["nest"] - 1):
                out = [out]
            return out
        return {key: expand(item) for key, item in value.items()}
    return value


def facts(vector: dict[str, Any]) -> Facts:
    claims = {name: expand(vector[name]) for name in ("jwt", "apiKey", "basicAuth", "source", "extauthz") if name in vector}
    mcp = None
    if "mcp" in vector:
        given_mcp = dict(vector["mcp"])
        arguments = given_mcp.pop("arguments", None)
        mcp = McpFacts(**{"method": "tools/call", **given_mcp}, arguments=None if arguments is None else arguments.encode())
    return Facts(Head(**vector["request"]) if "request" in vector else None, claims, mcp)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["expression"])[:60])
def test_vectors(vector: dict[str, Any]) -> None:
    text = expand(vector["expression"])
    if isinstance(text, str):
        text = text.replace("\\n", "\n") if "fault" in vector else text
    phase = vector.get("phase", "mcp")
    if "fault" in vector:
        with pytest.raises(cel.CelError) as caught:
            cel.compile(text, phase)
        line, column, part = vector["fault"]
        first = caught.value.faults[0]
        assert (first.line, first.column) == (line, column), caught.value.faults
        assert part in first.message
        return
    compiled = cel.compile(text, phase)
    result = compiled.evaluate(facts(vector))
    if "error" in vector:
        assert isinstance(result, cel.EvaluationError), result
        assert vector["error"] in result.text
    else:
        assert result == vector["value"], result
    if "needs" in vector:
        assert compiled.needs == frozenset(vector["needs"])


def test_every_hint_is_about_a_name_that_does_not_compile() -> None:
    for name in UNAVAILABLE:
        for text in (name, f"{name}()", f"jwt.sub.{name}()" if "." not in name else name):
            with pytest.raises(cel.CelError):
                cel.compile(text, "http")


def test_every_variable_and_presence_compiles_alone_and_is_its_only_need() -> None:
    for phase in ("network", "http", "mcp", "response"):
        for name, item in variables(phase).items():  # type: ignore[arg-type]
            compiled = cel.compile(f"[{name}].size() == 1", phase)  # type: ignore[arg-type]
            assert compiled.names == {name}
            assert compiled.needs == ({item.group} - {""})
        for name, item in presences(phase).items():  # type: ignore[arg-type]
            compiled = cel.compile(f"has({name[4:]})", phase)  # type: ignore[arg-type]
            assert compiled.names == {name}
            assert compiled.needs == ({item.group} - {""})
            assert compiled.evaluate(Facts(Head(), {}, McpFacts("tools/call"))) in (True, False), name


def test_only_members_that_are_looked_at_are_converted() -> None:
    def members(text: str) -> Any:
        return cel.compile(text, "mcp").members.get("jwt")

    assert members('jwt.a == 1 && jwt["b c"] == 2 && has(jwt.d) && jwt.?e.hasValue()') == {"a", "b c", "d", "e"}
    assert members("jwt.a.jwt.b == 1 || jwt.c == 1") == {"a", "b", "c"}  # more than needed is fine, less is not
    for whole in (
        "size(jwt) > 0", "jwt.exists(k, true)", "jwt.exists  (k, true)", "jwt[jwt.a] == 1", "jwt == {}",
        'jwt.a == "jwt"', "[jwt].size() == 1", "jwt[?'a'].hasValue()",
    ):  # fmt: skip
        assert members(whole) is None, whole
    claims = {"jwt": {"a": 1, "big": {"x": object()}}}
    assert cel.compile("jwt.a == 1", "mcp").evaluate(Facts(None, claims)) is True
    assert isinstance(cel.compile("size(jwt) == 2", "mcp").evaluate(Facts(None, claims)), cel.EvaluationError)


def test_headers_that_come_twice_are_joined() -> None:
    head = Head()
    head.headers += [(b"x-a", b"1"), (b"x-a", b"2"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    values = Facts(head)
    assert cel.compile("request.headers['x-A']", "http").evaluate(values) == "1, 2"
    assert cel.compile('request.headers.cookie("b")', "http").evaluate(values) == "2"


def test_hosts_have_one_form() -> None:
    for raw, expected in ((b"A.Example.:80", "a.example"), (b"[::1]:80", "[::1]"), (b"x", "x"), (b"", "")):
        head = Head()
        head.headers = [(b"host", raw)]
        assert cel.compile("request.host", "http").evaluate(Facts(head)) == expected


def test_labels_of_the_route_are_known_where_the_request_has_them() -> None:
    head = Head()
    text = 'proxy.bind + proxy.gateway + proxy.listener + proxy.route == "bglr"'
    assert isinstance(cel.compile(text, "http").evaluate(Facts(head)), cel.EvaluationError)
    head.labels = ("b", "g", "l", "r", "")  # type: ignore[attr-defined]
    assert cel.compile(text, "http").evaluate(Facts(head)) is True


def test_what_is_known_after_the_answer() -> None:
    extra = {"response.code": 200, "response.body": '{"access_token":"t"}', "response.headers": {"x": "y"}}
    text = 'response.code == 200 && json(response.body).access_token == "t" && response.headers["X"] == "y"'
    assert cel.compile(text, "response").evaluate(Facts(Head(), {}, extra=extra)) is True


def test_the_library_is_loaded_with_the_first_expression_only() -> None:
    code = (
        "import sys, agw.security.rules, agw.security.http_rules, agw.security.message_rules, agw.cli, agw.config\n"
        "assert not any('cel_expr' in name for name in sys.modules)\n"
        "from agw.security import cel; cel.compile('true', 'http')\n"
        "assert any('cel_expr' in name for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_the_library_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cel_expr_python'] = None\n"
        "from agw.config import load_bytes, ConfigErrors\n"
        "text = b'routes: [{policies: {authorization: {rules: [\"true\"]}}}]'\n"
        "try: load_bytes(text, 'f', {})\n"
        "except ConfigErrors as error: assert 'pip install cel-expr-python' in str(error), error\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(_JSON)
@settings(max_examples=200, deadline=None)
def test_no_value_makes_an_evaluation_raise(value: Any) -> None:
    compiled = cel.compile("size(jwt.x) > 0 || jwt.x == 1 || jwt.x.y", "mcp")
    assert isinstance(compiled.evaluate(Facts(None, {"jwt": {"x": value}})), (bool, cel.EvaluationError))


@given(st.text(max_size=60) | st.text(alphabet="()[]{}.\"'&|!=jwtmcphas <>?:0123\n\\/", max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_makes_a_compilation_fail_otherwise(text: str) -> None:
    try:
        compiled = cel.compile(text, "mcp")
    except cel.CelError as error:
        assert error.faults
        assert all(fault.line >= 1 and fault.column >= 1 and fault.message for fault in error.faults)
    else:
        compiled.evaluate(Facts())


@given(_JSON)
@settings(max_examples=100, deadline=None)
def test_safe_values_are_bounded_and_text_is_unicode(value: Any) -> None:
    try:
        made = safe(value)
    except ValueError:
        return
    repr(made).encode()
    assert safe(made) == made or made != made or "nan" in repr(made)


def test_strict_json_refuses_what_readers_disagree_on() -> None:
    for bad in (b'{"a":1,"a":1}', b"NaN", b"[Infinity]", b'"\\ud800"', b"\xff", b"", b"[" * 100_000, b"[" * 70 + b"]" * 70, b'"' + b"a" * 1_100_000 + b'"'):
        with pytest.raises(ValueError):
            strict_json(bad)
    assert strict_json('{"a":{"a":[1,null]}}') == {"a": {"a": [1, None]}}


@pytest.mark.parametrize("expression", [
    "jwt.name", 'jwt.name == "alice"', "jwt.list", "jwt.map", 'base64.decode("YQBi")', 'url.decode("a%00b")', 'json("{\\"a\\": \\"x\\\\u0000y\\"}")',
    'form.decode("a=%00b")',
])  # fmt: skip
def test_what_holds_nul_is_no_value(expression: str) -> None:
    """The library reads a text from Python up to the first NUL: a rule would judge `alice` where the claim says `alice\\0root`."""
    claims = {"jwt": {"name": "alice\0root", "list": ["a\0b"], "map": {"a\0b": 1}, "other": "x"}}
    assert isinstance(cel.compile(expression, "http").evaluate(Facts(None, claims)), cel.EvaluationError)
    assert cel.compile("jwt.other", "http").evaluate(Facts(None, claims)) == "x"


@pytest.mark.parametrize("name", ["bind", "gateway", "listener", "route"])
def test_where_a_request_goes_is_no_part_of_its_identity(name: str) -> None:
    """Gates are shared by routes with the same policies: what depends on the route must not be remembered by the identity alone."""
    assert cel.compile(f'proxy.{name} == "x"', "http").needs == {"route"}


@pytest.mark.parametrize("claim", ["admin\0x", ["admin\0x"], {"admin\0x": 1}, b"admin\0x"])
def test_what_holds_a_nul_is_not_taken_for_its_beginning(claim: Any) -> None:
    """The library reads text from Python up to a NUL."""
    for expression in ('jwt.a == "admin"', 'jwt.a[0] == "admin"', 'jwt.a.admin == 1', 'jwt.a == b"admin"', 'has(jwt.a.admin)'):
        assert isinstance(cel.compile(expression, "http").evaluate(Facts(None, {"jwt": {"a": claim}})), cel.EvaluationError), expression
    facts = McpFacts("tools/call", "tool", "t", "echo\0x", "echo", arguments=b'{"p": "a\\u0000b"}')
    for expression in ('mcp.tool.name == "echo"', 'mcp.tool.arguments.p == "a"', 'mcp.tool.arguments == {"p": "a"}'):
        assert isinstance(cel.compile(expression, "mcp").evaluate(Facts(None, {}, facts)), cel.EvaluationError), expression
    for expression in ('url.decode("admin%00x")', 'json("\\"a\\\\u0000b\\"")', 'base64.decode("YQBi")', 'form.decode("a=%00b")'):
        assert isinstance(cel.compile(expression, "http").evaluate(Facts()), cel.EvaluationError), expression
