"""The whole way: files, order of problems, size."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agw.config import ConfigErrors, load_bytes, load_file
from agw.config.check import Context
from agw.config.model import Config
from agw.config.problem import Findings, path_text
from agw.config.walk import walk

ROUTE = """\
- name: route-{i}
  hostnames: [h{i}.example.com]
  matches:
  - path: {{pathPrefix: /api/{i}}}
    headers:
    - name: x-tenant
      value: {{exact: t{i}}}
  policies:
    requestHeaderModifier: {{set: {{x-route: "{i}"}}}}
    timeout: {{requestTimeout: {timeout}}}
  backends:
  - host: app-{i}.example.com:8080
"""


def large(count: int, timeout: str = "10s") -> bytes:
    routes = "".join(ROUTE.format(i=i, timeout=timeout) for i in range(count))
    return f"gateways: {{default: {{port: 3000}}}}\nroutes:\n{routes}".encode()


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="cannot be read: No such file"):
        load_file(tmp_path / "missing.yaml", {})
    with pytest.raises(ConfigErrors, match="cannot be read"):
        load_file(tmp_path, {})


def test_problems_come_in_the_order_of_the_file() -> None:
    text = b"routes:\n- backends: [{host: a}]\n- name: 1\n  backends: [{backend: x}]\nnope: 1\n"
    with pytest.raises(ConfigErrors) as caught:
        load_bytes(text, "f", {})
    lines = [problem.line for problem in caught.value.problems]
    assert lines == sorted(lines)
    assert len(lines) == 6


def test_paths_after_a_dropped_item_still_point_into_the_file() -> None:
    text = b"gateways: {default: {port: 1}}\nroutes:\n- 1\n- backends:\n  - x\n  - host: 'a b:1'\n"
    with pytest.raises(ConfigErrors) as caught:
        load_bytes(text, "f", {})
    assert [(problem.path, problem.line) for problem in caught.value.problems] == [
        ("routes[0]", 3),
        ("routes[1].backends[0]", 5),
        ("routes[1].backends[1].host", 6),
    ]


def test_what_was_dropped_is_not_reported_as_missing() -> None:
    text = (
        b"gateways: {default: 1}\n"
        b"backends: [{name: b, host: 1}, {host: 'a:1', name: [c]}]\n"
        b"routes: [{backends: [{backend: b}]}]\n"
    )
    with pytest.raises(ConfigErrors) as caught:
        load_bytes(text, "f", {})
    assert [problem.path for problem in caught.value.problems] == [
        "gateways.default",
        "backends[0].host",
        "backends[1].name",
    ]


def test_the_collector_is_left_as_it_was() -> None:
    assert gc.isenabled()
    load_bytes(b"{}", "f", {})
    assert gc.isenabled()
    gc.disable()
    try:
        load_bytes(b"{}", "f", {})
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_large_file_is_loaded_and_refused_in_linear_time() -> None:
    """2,000 routes; the bounds are ten times what a quiet machine needs, to find what is quadratic."""
    started = time.process_time()
    assert len(load_bytes(large(2000), "f", {}).plan.routes) == 2000
    assert time.process_time() - started < 4
    started = time.process_time()
    with pytest.raises(ConfigErrors) as caught:
        load_bytes(large(2000, "[]"), "f", {})
    assert len(caught.value.problems) == 2000
    assert time.process_time() - started < 8


def test_a_good_file_does_not_load_the_walker() -> None:
    code = "import agw.config, sys; agw.config.load_bytes(b'{}', 'f', {}); sys.exit('agw.config.walk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_path_text() -> None:
    assert path_text(("a", 0, "b-c", 'x"y z')) == 'a[0].b-c["x\\"y z"]'
    assert path_text((0,)) == "[0]"
    assert path_text(()) == "(top level)"


def test_the_walker_reports_nothing_on_what_converts() -> None:
    findings = Findings()
    tree = {"gateways": {"default": {"port": 1}}, "routes": [{"gateways": ["a"], "policies": None}]}
    pruned = walk(tree, Config, findings)
    assert pruned.tree == tree
    assert findings.problems == []
    assert Context(findings, {}, pruned).is_complete(())
