"""The sealed store of grants: what it keeps, who may read it, and what happens when somebody dies or cheats."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agw.security.upstream import store as module
from agw.security.upstream.store import Grant, GrantStore, StoreError, grant_name

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
GRANT = Grant("https://as.example", "https://api.example/mcp", "https://as.example/token", "agw", "s3cret", "basic", "access-1", "refresh-1", 1e10, "read")
KEY = (GRANT.issuer, GRANT.resource)


def files(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if not name.startswith(("lock-", "spent-")))


def test_a_grant_is_kept_over_lives_and_only_for_its_user(tmp_path: Path) -> None:
    async def test() -> None:
        await GrantStore(str(tmp_path), [OLD]).put(b"alice", GRANT)
        again = GrantStore(str(tmp_path), [NEW, OLD])
        assert await again.get(b"alice", *KEY) == GRANT
        assert await again.get(b"bob", *KEY) is None
        assert await again.get(b"alice", GRANT.issuer, "https://other.example") is None
        assert await GrantStore(str(tmp_path), [NEW]).get(b"alice", *KEY) is None

    asyncio.run(test())


def test_the_disk_shows_nothing(tmp_path: Path) -> None:
    asyncio.run(GrantStore(str(tmp_path / "grants"), [OLD]).put(b"alice", GRANT))
    (path,) = (tmp_path / "grants").iterdir()
    data = path.read_bytes()
    for secret in (b"access-1", b"refresh-1", b"alice", b"as.example"):
        assert secret not in data
        assert secret.decode() not in path.name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "access-1" not in repr(GRANT)


@pytest.mark.parametrize("change", ["moved", "altered", "short", "empty", "huge"])
def test_a_file_that_was_touched_is_no_grant(tmp_path: Path, change: str) -> None:
    async def test() -> None:
        store = GrantStore(str(tmp_path), [OLD])
        await store.put(b"alice", GRANT)
        path = tmp_path / grant_name(b"alice", *KEY)
        data = path.read_bytes()
        if change == "moved":
            path = tmp_path / grant_name(b"bob", *KEY)
        other = {"altered": data[:-1] + bytes([data[-1] ^ 1]), "short": data[:20], "empty": b"", "huge": data + b"\0" * module.MAX_FILE}
        path.write_bytes(other.get(change, data))
        assert await store.get(b"bob" if change == "moved" else b"alice", *KEY) is None
        await store.put(b"bob" if change == "moved" else b"alice", GRANT)
        assert await store.get(b"bob" if change == "moved" else b"alice", *KEY) == GRANT

    asyncio.run(test())


def test_the_oldest_leave(tmp_path: Path) -> None:
    async def test() -> None:
        store = GrantStore(str(tmp_path), [OLD], max_grants=3)
        for number, user in enumerate((b"a", b"b", b"c")):
            await store.put(user, GRANT)
            os.utime(tmp_path / grant_name(user, *KEY), (number, number))
        half = tmp_path / (grant_name(b"x", *KEY) + ".0badcafe")
        half.write_bytes(b"of a worker that died")
        os.utime(half, (1, 1))
        await store.put(b"b", GRANT)  # no new one, so nobody leaves
        assert len(files(tmp_path)) == 4
        await store.put(b"d", GRANT)
        assert await store.get(b"a", *KEY) is None
        assert [await store.get(user, *KEY) for user in (b"b", b"c", b"d")] == [GRANT] * 3
        assert len(files(tmp_path)) == 3

    asyncio.run(test())


def test_grants_are_forgotten_one_by_one_and_by_user(tmp_path: Path) -> None:
    async def test() -> None:
        store = GrantStore(str(tmp_path), [OLD])
        other = msgspec.structs.replace(GRANT, resource="https://other.example")
        for user in (b"alice", b"bob"):
            await store.put(user, GRANT)
            await store.put(user, other)
        await store.remove(b"bob", *KEY)
        await store.remove(b"bob", *KEY)
        assert await store.get(b"bob", *KEY) is None
        assert await store.remove_user(b"alice") == 2
        assert await store.remove_user(b"alice") == 0
        assert await store.get(b"bob", other.issuer, other.resource) == other

    asyncio.run(test())


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        store = GrantStore(str(tmp_path), [OLD])
        await store.put(b"alice", GRANT)

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", full)
            with pytest.raises(StoreError, match="No space left"):
                await store.put(b"alice", msgspec.structs.replace(GRANT, access_token="access-2"))
        assert await store.get(b"alice", *KEY) == GRANT
        assert len(files(tmp_path)) == 1

    asyncio.run(test())


def test_one_at_a_time_also_over_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        stores = [GrantStore(str(tmp_path), [OLD]) for _ in range(4)]
        inside = 0

        async def enter(store: GrantStore) -> None:
            nonlocal inside
            async with store.lock(b"alice", *KEY):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                assert inside == 1
                inside -= 1

        await asyncio.gather(*(enter(store) for store in stores))
        monkeypatch.setattr(module, "LOCK_PATIENCE_S", 0.0)
        async with stores[0].lock(b"alice", *KEY):
            with pytest.raises(StoreError, match="keeps the lock"):
                async with stores[1].lock(b"alice", *KEY):
                    pass
        async with stores[1].lock(b"alice", *KEY):
            pass

    asyncio.run(test())


def test_something_is_spent_once(tmp_path: Path) -> None:
    async def test() -> None:
        first, second = GrantStore(str(tmp_path), [OLD]), GrantStore(str(tmp_path), [OLD])
        results = await asyncio.gather(*(store.spend("state", 600) for store in (first, second, first)))
        assert sorted(results) == [False, False, True]
        later = GrantStore(str(tmp_path), [OLD], clock=lambda: 1e11)
        assert await later.spend("another", 600)  # and the first one's mark is gone, its state being long over
        assert not await first.spend("another", 1e12)
        assert len(os.listdir(tmp_path)) == 1

    asyncio.run(test())


def test_what_no_store_can_be_made_of(tmp_path: Path) -> None:
    for keys in ([], [b"short"]):
        with pytest.raises(ValueError, match="keys of 32"):
            GrantStore(str(tmp_path), keys)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use the directory"):
        GrantStore(str(tmp_path / "file"), [OLD])


def test_users_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Grants of one server have many locks, or a refresh that hangs would hold up everybody."""

    async def test() -> None:
        store = GrantStore(str(tmp_path), [NEW])
        for number in range(20):
            async with store.lock(b"user-%d" % number, *KEY):
                pass
        assert len([name for name in os.listdir(tmp_path) if name.startswith("lock-")]) > 15

    asyncio.run(test())
