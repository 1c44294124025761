"""`agw explain --as`: which rule decides, what each gives, and how claims are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agw.cli import main

CONFIG = """
frontendPolicies:
  networkAuthorization: {rules: ['cidr("127.0.0.0/8").containsIP(source.address)']}
gateways: {default: {port: 3000}}
mcp:
  policies:
    authorization: {rules: [{deny: 'request.headers["x-bad"] == "1" || request.path != "/mcp"'}, 'request.path == "/mcp"']}
    mcpAuthorization:
      rules:
      - 'mcp.tool.name == "echo"'
      - 'jwt.sub == "test-user" && mcp.tool.name == "get-sum" && mcp.tool.arguments.a < 5'
      - {deny: 'jwt.level > 3'}
  targets: [{name: t, mcp: {host: 'http://localhost:1/mcp'}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "agw.yaml"
    path.write_text(CONFIG)
    return path


def explained(capsys: pytest.CaptureFixture[str], file: Path, claims: object, *arguments: str) -> list[str]:
    (file.parent / "claims.json").write_text(json.dumps(claims))
    code = main(["explain", "-f", str(file), "--as", str(file.parent / "claims.json"), *arguments])
    out = capsys.readouterr().out.splitlines()
    assert code == 0, out
    return [line.strip() for line in out[next(i for i, line in enumerate(out) if line.startswith("rules:")) :]]


def test_the_rule_that_decides_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = ("-H", "X-Bad: 0", "POST", "http://h:3000/x/../mcp")
    assert explained(capsys, file, {"sub": "test-user", "level": 1}, "--tool", "get-sum", "--target", "t", "--arguments", '{"a":3}', *request) == [
        "rules:    networkAuthorization: allowed, rule 1: an allow rule is true",
        '1. allow true: cidr("127.0.0.0/8").containsIP(source.address)',
        "rules:    authorization: allowed, rule 2: an allow rule is true",
        '1. deny false: request.headers["x-bad"] == "1" || request.path != "/mcp"',
        '2. allow true: request.path == "/mcp"',
        "rules:    mcpAuthorization: tool get-sum of t: allowed, rule 2: an allow rule is true",
        '1. allow false: mcp.tool.name == "echo"',
        '2. allow true: jwt.sub == "test-user" && mcp.tool.name == "get-sum" && mcp.tool.arguments.a < 5',
        "3. deny false: jwt.level > 3",
        "shown in lists",
    ]


def test_errors_are_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = explained(capsys, file, {"sub": "a"}, "--prompt", "p", "POST", "http://h:3000/mcp")
    assert "rules:    authorization: denied, rule 1: a deny rule cannot be evaluated" in lines
    assert "rules:    mcpAuthorization: prompt p: denied, rule 3: a deny rule cannot be evaluated" in lines
    assert "mcp.tool.name is not known" in lines
    assert any("Key not found" in line for line in lines)
    assert lines[-1] == "hidden in lists"


def test_claims_may_be_roots(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = explained(capsys, file, {"jwt": {"level": 1}, "source": {"address": "192.0.2.1"}}, "--tool", "echo", "POST", "http://h:3000/mcp")
    assert lines[0] == "rules:    networkAuthorization: denied: no allow rule is true"
    assert "rules:    mcpAuthorization: tool echo: allowed, rule 1: an allow rule is true" in lines


@pytest.mark.parametrize("text", ["[]", "{", "nothing"])
def test_bad_claims(text: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claims = file.parent / "claims.json"
    if text != "nothing":
        claims.write_text(text)
    assert main(["explain", "-f", str(file), "--as", str(claims), "GET", "http://h:3000/mcp"]) == 2
    assert "claims.json" in capsys.readouterr().err


def test_policies_are_listed_without_claims(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "-f", str(file), "POST", "http://h:3000/mcp"]) == 0
    out = capsys.readouterr().out
    assert "authorization: 1 allow, 1 deny" in out
    assert "mcpAuthorization: 2 allow, 1 deny" in out
    assert "rules:" not in out
