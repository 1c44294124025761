"""Where the access log goes: a file, rotated; standard output; nowhere; a disk that is full."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.integration.conftest import Start
from tests.kits.backend import Backend
from tests.kits.gateway import proxy_config, wait_until
from tests.kits.load import Load


def logged(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; every one must be whole and valid."""
    text = path.read_text() if path.exists() else ""
    assert text == "" or text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(line["scope"] == "request" for line in lines)
    return lines


def to_file(backend: Backend, path: Path | str) -> dict[str, Any]:
    return proxy_config(backend.port, frontendPolicies={"accessLog": {"enabled": True, "path": str(path)}})


def test_one_line_per_request(start: Start, backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    gateway = start(to_file(backend, path), workers=2)
    with Load(gateway.port, lambda n: f"/fast/{n}?secret=1", connections=4) as load:
        wait_until(lambda: load.count("ok") > 1000, 10)
    total = load.count()
    wait_until(lambda: len(logged(path)) == total, 5, "every request has its line")
    lines = logged(path)
    assert {line["http.status"] for line in lines} == {200}
    assert {line["route"] for line in lines} == {"all"}
    assert not any("secret" in line["http.path"] for line in lines)
    assert gateway.metrics().total("access_log_dropped_total") == 0
    assert gateway.stdout() == ""
    assert path.stat().st_mode & 0o007 == 0, "not for everybody"


def test_lines_of_the_last_moments_are_written(start: Start, backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    gateway = start(to_file(backend, path), workers=2)
    with Load(gateway.port, connections=8) as load:
        wait_until(lambda: load.count("ok") > 200, 10)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(10) == 0
    assert len(logged(path)) == load.count("ok")


def test_rotation(start: Start, backend: Backend, tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    gateway = start(to_file(backend, path), workers=2)
    with Load(gateway.port, connections=4) as load:
        wait_until(lambda: load.count("ok") > 200, 10)
        for number in range(3):
            path.rename(old.with_suffix(f".{number}"))
            gateway.signal(signal.SIGUSR1)
            wait_until(lambda: path.exists() and path.stat().st_size > 0, 5, "a new file is written")
        # Nobody holds an old file any more once both workers have written again.
        held = [str(old.with_suffix(f".{n}")) for n in range(3)]
        wait_until(lambda: not set(held) & set(targets(gateway.pids())), 5, "old files are closed")
    wait_until(lambda: sum(len(logged(p)) for p in tmp_path.glob("access*")) == load.count(), 5, "no line is lost")
    assert load.tally().keys() == {"ok"}


def targets(pids: list[int]) -> list[str]:
    """What the descriptors of these processes point to."""
    found = []
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
            except OSError:
                pass
    return found


def test_an_idle_worker_lets_go_of_a_rotated_file(start: Start, backend: Backend, tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    gateway = start(to_file(backend, path), workers=2)
    assert gateway.get("/fast").status == 200
    wait_until(lambda: logged(path), 5)
    path.rename(old)
    gateway.signal(signal.SIGUSR1)
    wait_until(lambda: str(old) not in targets(gateway.pids()), 5, "old file is closed without a request")


def test_standard_output(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port, frontendPolicies={"accessLog": {"enabled": True}}), workers=2)
    for _ in range(20):
        assert gateway.get("/fast").status == 200
    wait_until(lambda: gateway.stdout().count("\n") == 20, 5)
    assert {json.loads(line)["http.path"] for line in gateway.stdout().splitlines()} == {"/fast"}


def test_switched_off_writes_nothing(start: Start, backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    gateway = start(proxy_config(backend.port, frontendPolicies={"accessLog": {"enabled": False, "path": str(path)}}), workers=1)
    assert gateway.get("/fast").status == 200
    gateway.stop()
    assert gateway.stdout() == ""
    assert not path.exists()


def test_a_reload_can_change_where_it_goes(start: Start, backend: Backend, tmp_path: Path) -> None:
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    gateway = start(to_file(backend, one), workers=1)
    assert gateway.get("/fast").status == 200
    gateway.reload(to_file(backend, two))
    assert gateway.get("/fast").status == 200
    wait_until(lambda: len(logged(two)) == 1, 5, "the new file has the line")
    assert len(logged(one)) == 1


def test_a_full_disk_costs_log_lines_only(start: Start, backend: Backend) -> None:
    gateway = start(to_file(backend, "/dev/full"), workers=2)
    with Load(gateway.port, connections=4) as load:
        wait_until(lambda: load.count("ok") > 500, 10)
    assert load.tally().keys() == {"ok"}
    wait_until(lambda: gateway.metrics().total("access_log_dropped_total") == load.count(), 5, "every lost line is counted")
    assert gateway.ready() == 200


def test_a_reader_that_stops_reading_stops_nothing(start: Start, backend: Backend, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        gateway = start(to_file(backend, pipe), workers=1)
        with Load(gateway.port, connections=4) as load:
            wait_until(lambda: load.count("ok") > 3000, 20)
        assert load.tally().keys() == {"ok"}
        assert gateway.ready() == 200
        assert gateway.pids()
        assert gateway.stop(timeout=15) == 0
    finally:
        os.close(reader)
