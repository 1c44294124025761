"""agw.supervisor.keys: where session keys come from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agw.runtime.plan import ProcessPlan
from agw.supervisor.keys import KeyFileError, SessionKeys, make_key_file, read_key_file

A, B = "aa" * 32, "bb" * 32


def test_configured_keys_are_used_as_they_are() -> None:
    assert SessionKeys({}).ring(ProcessPlan(session_keys=[A, B])) == [A, B]


def test_without_anything_one_key_is_made_and_stays() -> None:
    keys = SessionKeys({})
    (made,) = keys.ring(ProcessPlan())
    assert len(bytes.fromhex(made)) == 32
    assert keys.ring(ProcessPlan()) == [made]
    assert SessionKeys({}).ring(ProcessPlan()) != [made]


def test_the_own_key_opens_on_when_keys_are_configured_later() -> None:
    keys = SessionKeys({})
    (made,) = keys.ring(ProcessPlan())
    assert keys.ring(ProcessPlan(session_keys=[A])) == [A, made]
    assert keys.ring(ProcessPlan()) == [made]


def test_a_state_directory_keeps_the_key_over_restarts(tmp_path: Path) -> None:
    first = SessionKeys({"STATE_DIRECTORY": f"{tmp_path}:/elsewhere"}).ring(ProcessPlan())
    file = tmp_path / "session.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["session.key"]
    assert SessionKeys({"STATE_DIRECTORY": str(tmp_path)}).ring(ProcessPlan()) == first


def test_a_configured_file_comes_before_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    file = tmp_path / "mine.key"
    plan = ProcessPlan(session_key_file=str(file))
    first = SessionKeys({"STATE_DIRECTORY": str(tmp_path / "state")}).ring(plan)
    assert read_key_file(str(file)) == first
    assert not (tmp_path / "state" / "session.key").exists()


def test_a_file_may_hold_several_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# new\n{B.upper()}\n\n# old\n{A}\n{A}\n")
    file.chmod(0o400)
    assert SessionKeys({}).ring(ProcessPlan(session_key_file=str(file))) == [B, A]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys"
    file.write_text(A)
    file.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_key_file(str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(A)
    file.chmod(0o600)
    os.chown(file, 12345, 12345)
    with pytest.raises(KeyFileError, match="chown"):
        read_key_file(str(file))


@pytest.mark.parametrize("text", ["", "# nothing\n", "secret", A[:-1], A + "\nxx\n", A + A])
def test_a_file_with_something_else_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(KeyFileError, match="64 hex digits") as refused:
        read_key_file(str(file))
    assert A not in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text(A)
    real.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(real)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo", "none"):
        with pytest.raises(KeyFileError):
            read_key_file(str(tmp_path / name))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "key"
    with pytest.raises(KeyFileError, match="cannot make"):
        SessionKeys({}).ring(ProcessPlan(session_key_file=str(missing)))
    assert len(SessionKeys({"STATE_DIRECTORY": str(missing)}).ring(ProcessPlan())) == 1, "nobody asked for that place: serve"


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    make_key_file(str(file))
    before = file.read_text()
    with pytest.raises(FileExistsError):
        make_key_file(str(file))
    assert file.read_text() == before
    assert os.listdir(tmp_path) == ["keys"]
