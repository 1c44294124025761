"""What sessions need to outlive a worker, a reload or a restart: keys, and the journals of the slots."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.integration.conftest import Start
from tests.kits.gateway import Gateway, proxy_config, wait_until


def journals(pid: int) -> dict[str, int]:
    """Journals a process has open: name to inode."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            name = os.readlink(f"/proc/{pid}/fd/{fd}")
            if name.startswith("/memfd:agw-journal-"):
                found[name.split(" ")[0]] = os.stat(f"/proc/{pid}/fd/{fd}").st_ino
        except FileNotFoundError:
            pass
    return found


def test_a_journal_belongs_to_a_slot_and_outlives_its_worker(start: Start) -> None:
    gateway = start(proxy_config(), workers=2)
    held = journals(gateway.pid)
    assert len(held) == 2
    before = [journals(slot["pid"]) for slot in gateway.slots()]
    assert before == [{f"/memfd:agw-journal-{i}": held[f"/memfd:agw-journal-{i}"]} for i in range(2)]
    assert journals(gateway.helper_pid()) == {}
    victim = gateway.slots()[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: gateway.slots()[1]["pid"] not in (0, victim) and gateway.slots()[1]["state"] == "ready", 5, "a successor")
    assert [journals(slot["pid"]) for slot in gateway.slots()] == before


def serve(start: Start, state: Path, **how: object) -> Gateway:
    return start(proxy_config(), workers=1, env={"STATE_DIRECTORY": str(state)}, **how)


def test_a_state_directory_keeps_the_key_and_nobody_shows_it(start: Start, tmp_path: Path) -> None:
    first = serve(start, tmp_path)
    file = tmp_path / "session.key"
    key = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(key)) == 32
    first.reload(proxy_config())
    assert key not in first.admin("/config_dump").text + first.stderr() + first.stdout()
    first.stop()
    second = serve(start, tmp_path)
    assert file.read_text().strip() == key
    second.stop()


def test_without_a_state_directory_nothing_is_written(start: Start, tmp_path: Path) -> None:
    gateway = start(proxy_config(), workers=1, env={"STATE_DIRECTORY": ""})
    assert not list(gateway.directory.glob("*.key"))


def test_a_key_file_that_others_can_read_is_refused(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "session.key"
    file.write_text("ab" * 32)
    file.chmod(0o644)
    gateway = serve(start, tmp_path, ready=False)
    assert gateway.wait() == 71
    assert "chmod 600" in gateway.stderr()
    assert "abab" not in gateway.stderr()
