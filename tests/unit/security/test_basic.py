"""`basicAuth`: hashes of htpasswd files, what runs where, and what is remembered."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.runtime.plan_security import BasicPlan, Mode
from agw.security import basic, htpasswd
from agw.security.authentication import Remembered
from agw.security.basic import MAX_QUEUED, BasicAuth, factory
from agw.security.contract import BASIC_AUTH, Found, Refusal
from tests.kits.tokens import Asked, Host, at_once, key_of, settled

APR1 = json.loads((Path(__file__).parents[2] / "vectors" / "security" / "apr1.json").read_text())
SHA = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="  # secret
BCRYPT = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


def login(pair: str | bytes, scheme: bytes = b"Basic ") -> Asked:
    octets = pair if isinstance(pair, bytes) else pair.encode()
    return Asked([(b"authorization", scheme + base64.b64encode(octets))])


def step(*users: tuple[str, str], mode: Mode = "strict", host: Host | None = None, realm: str = "Restricted") -> BasicAuth:
    return factory(BasicPlan(list(users), realm, mode), host or Host())


def verdict(auth: BasicAuth, request: Asked) -> Refusal | None:
    async def run() -> Refusal | None:
        return await settled(auth.check(request, Found()))

    return asyncio.run(run())


# ----------------------------------------------------------------------------------------------------------- hashes


@pytest.mark.parametrize(("password", "hashed"), APR1, ids=lambda text: text[:12])
def test_apr1(password: str, hashed: str) -> None:
    assert htpasswd.matches(password.encode(), hashed)
    assert not htpasswd.matches(password.encode() + b"x", hashed)
    assert not htpasswd.matches(password.encode(), hashed[:-1] + "z")


def test_sha() -> None:
    assert htpasswd.matches(b"secret", SHA)
    assert not htpasswd.matches(b"Secret", SHA)


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_bcrypt(prefix: str) -> None:
    hashed = prefix + BCRYPT[4:]
    assert htpasswd.matches(b"secret", hashed)
    assert not htpasswd.matches(b"secre", hashed)


def test_bcrypt_sees_72_octets() -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert htpasswd.matches(b"x" * 100, hashed)
    assert not htpasswd.matches(b"x" * 71, hashed)


@pytest.mark.parametrize(
    "hashed", ["", "secret", "$1$abcdefgh$0123456789012345678901", "rqXexS6ZhobKA", "{SSHA}x", "$2b$15$" + "a" * 53, "$2b$03$" + "a" * 53, "$2x$05$" + "a" * 53,
               "$apr1$$" + "a" * 22, "{SHA}short", SHA + "x", BCRYPT + "x"],
)  # fmt: skip
def test_what_is_no_hash(hashed: str) -> None:
    assert htpasswd.cost(hashed) is None
    assert not htpasswd.matches(b"", hashed)
    assert not htpasswd.matches(hashed.encode(), hashed)


@pytest.mark.parametrize("hashed", [SHA, APR1[0][1], BCRYPT])
def test_the_stand_in_costs_the_same_and_fits_nothing(hashed: str) -> None:
    other = htpasswd.stand_in(hashed)
    assert htpasswd.cost(other) == htpasswd.cost(hashed)
    assert not any(htpasswd.matches(password, other) for password in (b"", b"secret", b"."))


def test_a_file() -> None:
    users, wrong = htpasswd.read_users(f"# users\n\nalice:{BCRYPT}\n bob:{SHA}:comment\nalice:{SHA}\ncarol\n:{SHA}\ndave:plain\n")
    assert users == [("alice", BCRYPT), ("bob", SHA)]
    assert [number for number, _ in wrong] == [5, 6, 7, 8]
    assert "plain" not in str([text for _, text in wrong if "dave" in text])


@given(st.text(max_size=200))
def test_any_text_is_a_file(text: str) -> None:
    users, _ = htpasswd.read_users(text)
    assert all(htpasswd.cost(hashed) for _, hashed in users)


# ------------------------------------------------------------------------------------------------------------- step


def test_a_good_login() -> None:
    host, found = Host(), Found()
    assert step(("alice", SHA), host=host).check(login("alice:secret"), found) is None
    assert found.claims == {"basicAuth": {"username": "alice"}}
    assert found.key() == key_of("basic", "alice")
    assert (found.token, found.log_fields, host.counted) == (b"", b',"basicAuth.username":"alice"', [("basic", "ok")])


@pytest.mark.parametrize("hashed", [SHA, APR1[0][1], BCRYPT])
def test_every_kind(hashed: str) -> None:
    auth = step(("alice", hashed), ("bob", SHA))
    good = ("alice:secret", "bob:secret")
    for pair in (*good, "alice:secreT", "bob:x", "carol:secret", "Alice:secret"):
        assert (verdict(auth, login(pair)) is None) == (pair in good)


@pytest.mark.parametrize(
    "pair", [b"alice", b":secret", b"alice:sec\x00ret", b"ali\nce:secret", b"\xff:secret", b"alice:secret\x7f", b"", b"a" * 2000 + b":x"],
)
def test_forms_that_are_refused(pair: bytes) -> None:
    refusal = at_once(step(("alice", SHA)).check(login(pair), Found()))
    assert refusal is not None
    assert (refusal.status, refusal.reason) == (401, BASIC_AUTH)


@pytest.mark.parametrize("text", [b"YWxpY2U6c2VjcmV0", b"YWxpY2U6c2VjcmV0="])
def test_base64_has_one_spelling(text: bytes) -> None:
    good = base64.b64encode(b"alice:secret")
    refusal = at_once(step(("alice", SHA)).check(Asked([(b"authorization", b"Basic " + text)]), Found()))
    assert (refusal is None) == (text == good)


def test_the_password_may_hold_colons_and_other_scripts() -> None:
    hashed = bcrypt.hashpw("a:b:\u00fc".encode(), bcrypt.gensalt(4)).decode()
    assert verdict(step(("alice", hashed)), login("alice:a:b:\u00fc")) is None


def test_the_challenge() -> None:
    for request in (Asked(), login("alice:wrong")):
        refusal = at_once(step(("alice", SHA), realm='a "b" \\').check(request, Found()))
        assert refusal is not None
        assert refusal.lines == b'WWW-Authenticate: Basic realm="a \\"b\\" \\\\", charset="UTF-8"\r\n'
        assert "wrong" not in repr(refusal)


def test_modes() -> None:
    for mode, none, bad in (("strict", False, False), ("optional", True, False), ("permissive", True, True)):
        auth = step(("alice", SHA), mode=mode)  # type: ignore[arg-type]
        assert (at_once(auth.check(Asked(), Found())) is None) == none
        assert (at_once(auth.check(login("alice:x"), Found())) is None) == bad


class Compared:
    """Counts comparisons, says in which thread they ran, and may hold them up."""

    def __init__(self) -> None:
        self.hashes: list[str] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self._real = htpasswd.matches

    def __call__(self, password: bytes, hashed: str) -> bool:
        assert self.gate.wait(30)
        self.hashes.append(hashed)
        self.threads.add(threading.get_ident())
        return self._real(password, hashed)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compared]:
    counter = Compared()
    monkeypatch.setattr(htpasswd, "matches", counter)
    yield counter
    counter.gate.set()


def test_slow_hashes_are_not_compared_in_the_loop(compared: Compared) -> None:
    for hashed in (BCRYPT, APR1[0][1]):
        assert verdict(step(("alice", hashed)), login("alice:secret")) is None
    assert len(compared.threads) == 1
    assert threading.get_ident() not in compared.threads


def test_a_good_pair_is_computed_once_and_forgotten_in_time(compared: Compared) -> None:
    now = [0.0]
    auth = step(("alice", BCRYPT))
    auth._good = Remembered(10, lambda: now[0])
    assert [verdict(auth, login("alice:secret")) for _ in range(5)] == [None] * 5
    assert len(compared.hashes) == 1
    assert at_once(auth.check(login("alice:secret"), Found())) is None
    now[0] += basic.REMEMBER
    assert verdict(auth, login("alice:secret")) is None
    assert len(compared.hashes) == 2


def test_a_bad_pair_is_never_remembered_as_good(compared: Compared) -> None:
    auth = step(("alice", BCRYPT))
    assert [verdict(auth, login("alice:x")) is None for _ in range(3)] == [False] * 3
    assert len(compared.hashes) == 3


def test_no_password_is_kept() -> None:
    auth = step(("alice", BCRYPT))
    assert verdict(auth, login("alice:secret")) is None
    assert b"secret" not in b"".join(auth._good._entries)


def test_who_does_not_exist_costs_as_much(compared: Compared) -> None:
    dear = bcrypt.hashpw(b"other", bcrypt.gensalt(5)).decode()
    auth = step(("alice", BCRYPT), ("bob", SHA), ("carol", dear))
    dummy = htpasswd.stand_in(dear)
    for pair, hashes in (("nobody:x", [dummy]), ("alice:x", [BCRYPT, dummy]), ("bob:x", [SHA, dummy]), ("carol:x", [dear])):
        compared.hashes.clear()
        assert verdict(auth, login(pair)) is not None
        assert compared.hashes == hashes


def test_the_same_pair_at_once_is_one_computation(compared: Compared) -> None:
    async def run() -> None:
        auth = step(("alice", BCRYPT))
        verdicts = await asyncio.gather(*(settled(auth.check(login("alice:secret"), Found())) for _ in range(50)))
        assert verdicts == [None] * 50
        assert len(compared.hashes) == 1
        assert auth._running == {}

    asyncio.run(run())


def test_a_flood_is_told_to_come_again(compared: Compared) -> None:
    async def run() -> None:
        host = Host()
        auth = step(("alice", BCRYPT), host=host)
        assert await settled(auth.check(login("alice:secret"), Found())) is None
        compared.gate.clear()
        flood = [asyncio.ensure_future(settled(auth.check(login(f"alice:{i}"), Found()))) for i in range(MAX_QUEUED + 20)]
        done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert at_once(auth.check(login("alice:secret"), Found())) is None, "who is known is not held up"
        compared.gate.set()
        statuses = [refusal.status for refusal in await asyncio.gather(*flood) if refusal is not None]
        assert (statuses.count(503), statuses.count(401)) == (20, MAX_QUEUED)
        assert {refusal.status for task in done if (refusal := task.result()) is not None} == {503}
        assert basic._queued == 0
        assert host.counted.count(("basic", "error")) == 20

    asyncio.run(run())


def test_a_request_that_leaves_does_not_spoil_the_others(compared: Compared) -> None:
    async def run() -> None:
        auth = step(("alice", BCRYPT))
        compared.gate.clear()
        first, second = (asyncio.ensure_future(settled(auth.check(login("alice:secret"), Found()))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        compared.gate.set()
        assert await second is None

    asyncio.run(run())
