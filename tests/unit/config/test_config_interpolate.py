"""References in values, what they may become, and what a dump leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agw.config import ConfigErrors, load_bytes, load_file, redacted
from agw.config.interpolate import Interpolation

ENVIRON = {"NAME": "value", "PORT": "8081", "EMPTY": "", "NESTED": "${env:NAME}"}


def expanded(value: Any, environ: dict[str, str] | None = None) -> Any:
    interpolation = Interpolation(ENVIRON if environ is None else environ, "")
    result = interpolation.expand({"key": value})
    assert interpolation.findings.problems == []
    return result["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env:NAME}", "value"),
        ("${NAME}", "value"),
        ("$NAME", "value"),
        ("a-$NAME-b", "a-value-b"),
        ("${env:NO:-default}", "default"),
        ("${env:EMPTY:-default}", "default"),
        ("${env:NO:-}", ""),
        ("${NO:-a:b}", "a:b"),
        ("$EMPTY", ""),
        ("$$NAME", "$NAME"),
        ("$$$NAME", "$value"),
        ("100$", "100$"),
        ("$ 1 $-", "$ 1 $-"),
        ("$1", "$1"),
        ("${env:NESTED}", "${env:NAME}"),
        (["$NAME", {"a": "$NAME"}], ["value", {"a": "value"}]),
        ({"regex": "^$NAME$", "conditional": [{"condition": "$NAME"}]}, None),
        ({"directResponse": {"headers": {"a": "$NAME"}}}, None),
    ],
)
def test_expansion(text: Any, value: Any) -> None:
    before = repr(text)
    result = expanded(text)
    assert result == value if value is not None else repr(result) == before


def gateway(text: str) -> bytes:
    return f"gateways:\n  default:\n    {text}\n".encode()


def test_a_lone_reference_becomes_a_number_where_one_is_wanted() -> None:
    plan = load_bytes(gateway("port: ${env:PORT}"), "x", ENVIRON).plan
    assert plan.binds[0].port == 8081
    assert load_bytes(gateway("port: '$PORT'"), "x", ENVIRON).plan.binds[0].port == 8081


def test_a_reference_stays_text_where_text_is_wanted() -> None:
    text = "gateways: {default: {port: 1}}\nroutes:\n- name: $PORT\n  policies: {directResponse: {status: 200}}\n"
    assert load_bytes(text.encode(), "x", ENVIRON).plan.routes[0].name == "8081"


def test_a_reference_with_more_around_it_does_not_become_a_number() -> None:
    with pytest.raises(ConfigErrors, match="expected a whole number"):
        load_bytes(gateway("port: 1$PORT"), "x", ENVIRON)


def test_truth_values_and_unions() -> None:
    text = b"config: {pinCpus: $YES, workerThreads: $N}\n"
    process = load_bytes(text, "x", {"YES": "true", "N": "3"}).plan.process
    assert (process.pin_cpus, process.workers) == (True, 3)


def test_an_unset_variable_is_a_problem_and_the_only_one_of_its_value() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_bytes(gateway("port: $MISSING"), "f.yaml", {})
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.path) == (3, 11, "gateways.default.port")
    assert "MISSING is not set" in problem.text


def test_references_below_a_key_that_is_not_implemented_do_not_matter() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_bytes(b"llm: {a: $MISSING}\n", "x", {})
    assert [problem.path for problem in caught.value.problems] == ["llm"]


def config_with(value: str) -> str:
    return (
        "gateways: {default: {port: 3000}}\n"
        "routes:\n"
        "- policies:\n"
        "    requestHeaderModifier:\n"
        f"      set: {{x-value: '{value}', authorization: plain, x-other: $NAME}}\n"
        "  backends: [{host: 'a:1'}]\n"
    )


def test_files_are_read_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "agw.yaml").write_text(config_with("Bearer ${file:token}"))
    loaded = load_file(tmp_path / "agw.yaml", ENVIRON)
    headers = loaded.plan.routes[0].policies.request_headers
    assert headers is not None
    assert headers.set == [("x-value", "Bearer s3cret"), ("authorization", "plain"), ("x-other", "value")]


def test_credentials_are_read_and_redacted(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    loaded = load_bytes(config_with("${cred:key}").encode(), "x", {**ENVIRON, "CREDENTIALS_DIRECTORY": str(tmp_path)})
    shown = redacted(loaded.document)
    assert shown["routes"][0]["policies"]["requestHeaderModifier"]["set"] == {
        "x-value": "<redacted>",
        "authorization": "<redacted>",
        "x-other": "value",
    }
    assert shown["routes"][0]["backends"] == [{"host": "a:1"}]
    assert "s3cret" not in repr(shown)
    assert "s3cret" in repr(loaded.plan)


def test_a_condition_on_a_secret_header_is_redacted() -> None:
    text = (
        "gateways: {default: {port: 1}}\n"
        "routes:\n"
        "- matches: [{headers: [{name: X-Api-Key, value: {exact: abc}}, {name: accept, value: {exact: abc}}]}]\n"
        "  policies: {directResponse: {status: 200}}\n"
    )
    headers = redacted(load_bytes(text.encode(), "x", {}).document)["routes"][0]["matches"][0]["headers"]
    assert headers == [
        {"name": "X-Api-Key", "value": {"exact": "<redacted>"}},
        {"name": "accept", "value": {"exact": "abc"}},
    ]


def test_large_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, reason in (("large", "larger than 1 MiB"), ("binary", "not UTF-8"), ("", "Is a directory")):
        (tmp_path / "agw.yaml").write_text(config_with(f"${{file:{name}}}"))
        with pytest.raises(ConfigErrors, match=reason):
            load_file(tmp_path / "agw.yaml", ENVIRON)


def test_credentials_need_a_directory() -> None:
    with pytest.raises(ConfigErrors, match="CREDENTIALS_DIRECTORY is not set"):
        load_bytes(config_with("${cred:key}").encode(), "x", ENVIRON)
