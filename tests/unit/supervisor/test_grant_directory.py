"""Where grants of users are kept, and when nothing is made."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agw.runtime.plan import BackendRef, McpPlan, McpTargetPlan, Plan, PolicyPlan, RoutePlan
from agw.runtime.plan_security import BackendAuthPlan, KeyCredential, UserGrant
from agw.supervisor.grants import GrantDirectory, keeps_grants
from agw.supervisor.sockets import SocketError

AUTH = BackendAuthPlan([KeyCredential("k"), UserGrant("https://api.example", "https://gw.example/cb")])
PLANS = [
    Plan(routes=[RoutePlan("r", policies=PolicyPlan(backend_auth=AUTH))]),
    Plan(routes=[RoutePlan("r", backends=[BackendRef(0), BackendRef(0, policies=PolicyPlan(backend_auth=AUTH))])]),
    Plan(mcp=[McpPlan("m", [McpTargetPlan("a"), McpTargetPlan("b", auth=AUTH)])]),
]


@pytest.mark.parametrize("plan", PLANS, ids=["route", "backend", "target"])
def test_a_plan_that_keeps_grants(plan: Plan) -> None:
    assert keeps_grants(plan)


def test_nothing_is_made_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    directory = GrantDirectory({})
    assert directory.of(Plan(routes=[RoutePlan("r", policies=PolicyPlan(backend_auth=BackendAuthPlan([KeyCredential("k")])))])) == ""
    directory.close()
    assert os.listdir(tmp_path) == []


def test_the_state_directory_is_taken(tmp_path: Path) -> None:
    directory = GrantDirectory({"STATE_DIRECTORY": f"{tmp_path}:/other"})
    assert directory.of(PLANS[0]) == str(tmp_path / "grants")
    directory.close()


def test_without_one_a_private_directory_lives_as_long_as_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    directory = GrantDirectory({})
    made = directory.of(PLANS[0])
    assert stat.S_IMODE(os.stat(made).st_mode) == 0o700
    assert directory.of(PLANS[1]) == made
    (Path(made) / "grant").write_bytes(b"x")
    directory.close()
    assert os.listdir(tmp_path) == []


def test_no_place_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(SocketError, match="STATE_DIRECTORY"):
        GrantDirectory({}).of(PLANS[0])
