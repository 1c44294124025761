"""Runs tests/vectors/mcp/<era of the client>/*.json: what goes into the bridge, and the octets that must come out.

A file is `{"about", "function", "cases": [{"name", "input": {...}, "expected" | "error"}]}`. Members of `input` and `expected`
are taken as the raw text that stands in the file, so number text and the order of members are compared too. `error` is
`[code, HTTP status]`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agw.mcp import param_headers
from agw.mcp.bridge import capabilities, errors, listen, requests, results, rounds
from agw.mcp.errors import RpcError
from agw.mcp.message import Members, elements, encode, members, one_line, parse, raw, value

VECTORS = Path(__file__).resolve().parents[3] / "vectors" / "mcp"


class Case:
    """The input of one case; a missing member is None."""

    def __init__(self, given: Members) -> None:
        self._given = given

    def raw(self, name: str) -> bytes:
        return bytes(self._given[name])

    def maybe(self, name: str) -> bytes | None:
        return bytes(self._given[name]) if name in self._given else None

    def text(self, name: str) -> str:
        found = value(self._given[name])
        assert isinstance(found, str)
        return found

    def any(self, name: str, default: Any = None) -> Any:
        return value(self._given[name]) if name in self._given else default


def _pending(case: Case) -> list[tuple[str, Any]]:
    return [(key, parse(bytes(part))) for key, part in members(case.raw("pending")).items()]


def _error(found: RpcError) -> bytes:
    return b'{"status":%d,"error":%b}' % (found.status, found.raw())


def _outgoing(case: Case) -> bytes:
    given = members(case.raw("envelope"))
    info = given.get("clientInfo")
    envelope = requests.Envelope(
        value(given["version"]), bytes(given["capabilities"]), None if info is None else bytes(info), value(given.get("logLevel"))
    )
    out = requests.to_modern(case.text("method"), case.maybe("params"), envelope, param_headers.annotations(case.maybe("inputSchema")))
    return encode({"params": msgspec.Raw(out.params), "headers": raw([f"{name.decode()}: {field.decode()}" for name, field in out.headers])})


def _round(case: Case) -> bytes:
    found = rounds.split(case.raw("result"), case.text("method"))
    version, state = case.text("version"), found.state
    asked = [msgspec.Raw(rounds.legacy_request(b"%d" % number, one, version, "minted")) for number, one in enumerate(found.questions, 1)]
    return encode({"requests": asked, "state": None if state is None else msgspec.Raw(state)})


def _retry(case: Case) -> bytes:
    questions = rounds.split(case.raw("result"), case.text("method"))
    responses = elements(case.raw("answers"))
    given = rounds.input_responses([(question, parse(bytes(answer))) for question, answer in zip(questions.questions, responses, strict=True)])
    return rounds.retry_params(case.maybe("params"), given if questions.questions else None, questions.state)


def _answers(case: Case) -> bytes:
    retry = rounds.parse_retry(case.raw("params"))
    ready, missing = rounds.answers(_pending(case), retry.responses)
    return encode({"send": [msgspec.Raw(one) for one in ready], "missing": missing, "state": retry.state})


def _or_null(found: bytes | None) -> bytes:
    return b"null" if found is None else found


FUNCTIONS: dict[str, Callable[[Case], bytes]] = {
    "capabilities.client_to_modern": lambda c: encode(capabilities.client_to_modern(members(c.raw("capabilities")), c.text("version"))),
    "capabilities.client_to_legacy": lambda c: encode(capabilities.client_to_legacy(members(c.raw("capabilities")), c.text("version"))),
    "capabilities.server_to_modern": lambda c: capabilities.server_to_modern(c.raw("result"), c.any("supported"), ttl_ms=c.any("ttlMs", 0)),
    "capabilities.server_to_legacy": lambda c: capabilities.server_to_legacy(c.raw("result"), c.text("version"), c.raw("serverInfo")),
    "results.to_modern": lambda c: results.to_modern(c.text("method"), c.raw("result"), c.maybe("serverInfo"), ttl_ms=c.any("ttlMs", 0)),
    "results.to_legacy": lambda c: results.to_legacy(c.text("method"), c.raw("result"), c.text("version")),
    "errors.to_modern": lambda c: _error(errors.to_modern(c.raw("error"))),
    "errors.to_legacy": lambda c: _error(errors.to_legacy(c.raw("error"), c.text("method"))),
    "errors.url_round": lambda c: _or_null(errors.url_round(c.raw("error"), c.text("method"), members(c.raw("capabilities")))),
    "requests.to_modern": _outgoing,
    "requests.to_legacy": lambda c: _or_null(requests.to_legacy(c.maybe("params"))),
    "rounds.legacy_requests": _round,
    "rounds.retry_params": _retry,
    "rounds.input_required": lambda c: rounds.input_required(_pending(c), c.text("state"), c.maybe("serverInfo")),
    "rounds.answers": _answers,
    "listen.acknowledged": lambda c: listen.acknowledged(
        listen.honoured(listen.parse_filter(c.raw("params")), members(c.raw("capabilities"))), c.raw("id")
    ),
    "listen.to_modern": lambda c: _or_null(listen.to_modern(parse(c.raw("message")), listen.parse_filter(c.raw("params")), c.raw("id"))),
    "listen.to_legacy": lambda c: _or_null(listen.to_legacy(parse(c.raw("message")))),
    "listen.final_result": lambda c: listen.final_result(c.raw("id"), c.maybe("serverInfo")),
}


def _cases() -> list[Any]:
    found = []
    for path in sorted(VECTORS.glob("*/*.json")):
        whole = members(path.read_bytes())
        for case in elements(whole["cases"]):
            parts = members(case)
            found.append(pytest.param(value(whole["function"]), parts, id=f"{path.parent.name}/{path.stem}: {value(parts['name'])}"))
    return found


CASES = _cases()


@pytest.mark.parametrize(("function", "case"), CASES)
def test_vector(function: str, case: Members) -> None:
    given = Case(members(case["input"]))
    if "error" in case:
        with pytest.raises(RpcError) as caught:
            FUNCTIONS[function](given)
        assert [caught.value.code, caught.value.status] == value(case["error"])
        return
    assert FUNCTIONS[function](given) == bytes(case["expected"])
    assert bytes(case["expected"]) == one_line(bytes(case["expected"]))


def test_every_function_has_vectors() -> None:
    assert {case.values[0] for case in CASES} == FUNCTIONS.keys()
