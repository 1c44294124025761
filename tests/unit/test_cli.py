"""The command line: exit codes, what is printed, and that it says the same as the file it is asked about."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agw import __version__
from agw.cli import build_parser, main, worker_count

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))

CONFIG = """\
gateways:
  default: {port: 3000}
  other: {port: 8080}
routes:
- name: api
  gateways: [default]
  hostnames: [api.example.com]
  matches:
  - path: {pathPrefix: /v1}
    method: POST
  policies:
    timeout: {requestTimeout: 5s, backendRequestTimeout: 2s}
    cors: {allowOrigins: ["https://app.example.com"]}
    requestHeaderModifier: {remove: [x-secret], set: {x-a: "1"}, add: {x-b: "2"}}
    urlRewrite: {path: {prefix: /}}
    responseHeaderModifier: {set: {x-c: "3"}}
  backends:
  - host: one.example.com:8000
    weight: 3
  - host: two.example.com:8000
    weight: 1
- name: away
  gateways: [default]
  matches:
  - path: {exact: /away}
  policies:
    requestRedirect: {scheme: https, status: 301}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "agw.yaml"
    path.write_text(CONFIG)
    return path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"agw {__version__}\n"


def test_the_schema_in_the_repository_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "config" / "agw.schema.json").read_text(), "make schema"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["validate"], ["explain", "-f", "x"], ["serve", "--workers"], ["version", "x"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: agw" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["serve"], ["validate"], ["explain"], ["schema"], ["version"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: agw" in capsys.readouterr().out


def test_the_command_as_a_process(file: Path) -> None:
    """Exit codes reach the shell, problems go to standard error, and importing the command line drags nothing in."""
    for arguments, code in ((["validate", "-f", str(file)], 0), (["validate", "-f", "/none"], 1), (["serve", "-f", "/none"], 78), ([], 2)):
        done = subprocess.run([sys.executable, "-m", "agw", *arguments], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
        assert (done.returncode, bool(done.stderr)) == (code, code != 0), done
    probe = "import sys, agw.cli; agw.cli.build_parser(); print([m for m in sys.modules if m.startswith('agw.')])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    assert done.stdout == "['agw.cli']\n"


# -------------------------------------------------------------------------------------------------------- validate


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-f", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{path}: ok (")
    assert "Traceback" not in err


def test_validate_counts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-f", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: ok (2 binds, 2 routes, 2 backends)\n"


def test_validate_lists_every_problem_with_its_place(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(CONFIG.replace("port: 8080", "port: 99999").replace("requestTimeout: 5s", "requestTimeout: soon").replace("weight: 3", "wait: 3"))
    assert main(["validate", "-f", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{file}:3:17: gateways.other.port: ")
    assert lines[1].startswith(f"{file}:12:31: routes[0].policies.timeout.requestTimeout: ")
    assert lines[2].startswith(f"{file}:19:5: routes[0].backends[0].wait: ")


@pytest.mark.parametrize("content", ["- 1", "a: [", "routes: {}\n", "\x00"])
def test_validate_refuses_what_is_no_configuration(file: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(content)
    assert main(["validate", "-f", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line.startswith(str(file)) for line in err.splitlines())


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none.yaml")
    assert main(["validate", "-f", missing]) == 1
    assert main(["explain", "-f", missing, "GET", "http://a/"]) == 1
    assert main(["serve", "-f", missing]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count(missing) == 3


# ----------------------------------------------------------------------------------------------------------- serve


@pytest.mark.parametrize("workers", ["0", "-1", "513", "many", "1.5", ""])
def test_serve_refuses_a_number_of_workers(workers: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "-f", str(file), f"--workers={workers}"]) == 2
    assert "give a number from 1 to 512, or auto" in capsys.readouterr().err


def test_serve_refuses_a_configuration_with_problems(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(CONFIG.replace("port: 8080", "port: 99999"))
    assert main(["serve", "-f", str(file)]) == 78
    assert "gateways.other.port" in capsys.readouterr().err


def test_how_many_workers() -> None:
    usable = len(os.sched_getaffinity(0))
    cases = ((None, 0), ("auto", 0), ("auto", 7), (None, 7), ("3", 7))
    assert [worker_count(text, configured) for text, configured in cases] == [usable, usable, usable, 7, 3]


def test_the_parser_has_no_side_effects() -> None:
    assert build_parser().parse_args(["explain", "-f", "x", "-H", "a: b", "-H", "c: d", "GET", "http://h/"]).header == ["a: b", "c: d"]


# --------------------------------------------------------------------------------------------------------- explain


def explained(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> tuple[int, list[str]]:
    code = main(["explain", "-f", str(file), *arguments])
    return code, capsys.readouterr().out.splitlines()


def test_explain_prints_the_way_of_a_request(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = explained(capsys, file, "POST", "http://API.example.com:3000/v1/x?q=1")
    assert code == 0
    assert lines == [
        "bind:     *:3000",
        "listener: default/default",
        "route:    api",
        "policy:   1. timeout: the whole request within 5 s",
        "policy:   2. timeout: the backend answers within 2 s",
        "policy:   3. cors: origins https://app.example.com",
        "policy:   4. requestHeaderModifier: remove x-secret, set x-a, add x-b",
        "policy:   5. urlRewrite: authority unset, path /",
        "policy:   6. responseHeaderModifier: set x-c",
        "backend:  host one.example.com:8000 (one.example.com:8000), 3/4 of requests",
        "backend:  host two.example.com:8000 (two.example.com:8000), 1/4 of requests",
    ]


def test_explain_says_where_it_ends(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = explained(capsys, file, "GET", "http://h:3000/away")
    assert code == 0
    assert "policy:   1. requestRedirect: 301, ends here" in lines
    assert lines[-1] == "backend:  none"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("GET", "http://api.example.com:3000/v1"), 1, "route:    none matches (404)"),
        (("GET", "http://h:3000/none"), 1, "route:    none matches (404)"),
        (("GET", "http://h:4000/"), 1, "no bind on port 4000; there are: 3000, 8080"),
        (("GET", "http://h/"), 1, "no bind on port 80; there are: 3000, 8080"),
        (("GET", "http://h:3000/a%2fb"), 1, "refused with 400: path cannot be normalised"),
        (("G T", "http://h:3000/"), 1, "refused with 400: malformed HTTP version"),
        (("POST", "http://h:3000/v1/../v1", "-H", "Host: api.example.com"), 1, "refused with 400: more than one Host"),
        (("POST", "http://api.example.com:3000/x/../v1"), 0, "route:    api"),
        (("GET", "http://h:3000/%61way", "-H", "X-A: 1"), 0, "route:    away"),
    ],
)
def test_explain(arguments: tuple[str, ...], code: int, said: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, lines = explained(capsys, file, *arguments)
    assert found == code
    assert said in lines


@pytest.mark.parametrize("url", ["/path", "h:3000/x", "http:///x"])
def test_explain_needs_an_absolute_url(url: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "-f", str(file), "GET", url]) == 2
    assert "absolute URL" in capsys.readouterr().err
