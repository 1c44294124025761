"""Files with known problems, the shipped examples, and agentgateway's own examples where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agw.config import ConfigErrors, load_bytes, load_file
from tests.peers.authority import Authority

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "vectors" / "config"
CREDENTIALS = VECTORS / "credentials"
ENVIRON = {"WORD": "word", "HOST": "h.example", "CREDENTIALS_DIRECTORY": str(CREDENTIALS)}
BAD_FILES = sorted(VECTORS.glob("*.yaml"))
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))
REFERENCE = os.environ.get("AGW_REFERENCE", "")


@pytest.mark.parametrize("file", BAD_FILES, ids=lambda file: file.stem)
def test_a_bad_file_has_exactly_the_expected_problems(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`<name>.problems` holds every problem of `<name>.yaml`, in order, as printed after the file name."""
    monkeypatch.chdir(VECTORS)  # the files name others relative to it
    with pytest.raises(ConfigErrors) as caught:
        load_bytes(file.read_bytes(), file.name, ENVIRON)
    found = [str(problem).replace(str(CREDENTIALS), "DIR") for problem in caught.value.problems]
    expected = file.with_suffix(".problems").read_text().splitlines()
    assert found == [f"{file.name}:{line}" for line in expected]
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]


def test_there_are_vectors() -> None:
    assert len(BAD_FILES) >= 10
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_load_without_warnings(file: Path) -> None:
    loaded = load_file(file, {})
    assert loaded.warnings == []
    assert loaded.plan.binds
    assert loaded.plan.routes


def test_a_secret_is_not_in_the_problems() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_bytes((VECTORS / "interpolation.yaml").read_bytes(), "x.yaml", ENVIRON)
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(not REFERENCE, reason="AGW_REFERENCE does not name a directory with agentgateway's examples")
def test_reference_examples_are_loaded_or_refused_as_not_implemented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Names of files in them are relative to the folder that holds the examples.
    (tmp_path / "examples").symlink_to(Path(REFERENCE).resolve() / "agentgateway-examples")
    (tmp_path / "manifests").symlink_to(Path(REFERENCE).resolve() / "agentgateway-examples" / "manifests")
    monkeypatch.chdir(tmp_path)
    files = sorted(Path("examples").resolve().glob("**/*.yaml"))
    assert files
    for file in files:
        try:
            load_file(file, {})
        except ConfigErrors as error:
            for problem in error.problems:
                expected = "known to agw, not implemented yet" in problem.text or "environment variable" in problem.text
                # The certificates are made by whoever tries the example.
                expected = expected or ("cannot read" in problem.text and "openssl req" in problem.text)
                assert expected, str(problem)


SECURITY_EXAMPLES = {
    "mcp-authentication": [], "mcp-authorization": ["mcp.policies.jwtAuth: no `mode`"], "mcp-tls": [],
    "traffic-ratelimiting-local": ["config.tracing: agw exports no spans yet"], "traffic-ratelimiting-global": ["config.tracing: agw exports no spans yet"],
    "traffic-jwt-sign": [], "traffic-oidc": [], "traffic-oauth2-proxy": [],
}  # fmt: skip


@pytest.mark.skipif(not REFERENCE, reason="AGW_REFERENCE does not name a directory with agentgateway's examples")
@pytest.mark.parametrize("name", SECURITY_EXAMPLES)
def test_reference_examples_of_security_load_unchanged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(REFERENCE).resolve() / "agentgateway-examples"
    (tmp_path / "manifests").symlink_to(folder / "manifests")
    # The certificates are made by whoever tries the example.
    certs = tmp_path / "examples" / "mcp-tls" / "certs"
    certs.mkdir(parents=True)
    pair = Authority().issue("localhost")
    (certs / "cert.pem").write_text(pair.cert)
    (certs / "key.pem").write_text(pair.key)
    monkeypatch.chdir(tmp_path)
    loaded = load_file(folder / name / "config.yaml", {})
    assert [f"{warning.path}: {warning.text}"[: len(start)] for warning, start in zip(loaded.warnings, SECURITY_EXAMPLES[name], strict=True)] \
        == SECURITY_EXAMPLES[name]
