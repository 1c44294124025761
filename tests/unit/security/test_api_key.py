"""`apiKey`: who has a key is known by its hash."""

from __future__ import annotations

import json

from agw.runtime.plan_security import ApiKeyEntry, ApiKeyPlan, LocationPlan, Mode
from agw.security.api_key import MAX_KEY, factory
from agw.security.contract import API_KEY_AUTH, Found
from tests.kits.tokens import Asked, Host, at_once, bearer, key_of, sha256

ENTRIES = [ApiKeyEntry(sha256("key-one"), '{"name":"One","tier":{"level":1}}'), ApiKeyEntry(sha256("key-two"))]


def check(request: Asked, mode: Mode = "strict", location: LocationPlan | None = None) -> tuple[int, Found, Host]:
    host, found = Host(), Found()
    verdict = at_once(factory(ApiKeyPlan(ENTRIES, mode, location or LocationPlan()), host).check(request, found))
    return (0 if verdict is None else verdict.status), found, host


def test_a_good_key() -> None:
    status, found, host = check(bearer(b"key-one"))
    assert status == 0
    assert found.claims == {"apiKey": {"name": "One", "tier": {"level": 1}}}
    assert found.key() == key_of("apiKey", sha256("key-one"))
    assert (found.token, found.log_fields, found.expires) == (b"key-one", b',"apiKey.name":"One"', float("inf"))
    assert host.counted == [("apiKey", "ok")]
    _, other, _ = check(bearer(b"key-two"))
    assert other.claims == {"apiKey": {}}
    assert other.key() != found.key()


def test_metadata_belongs_to_the_request() -> None:
    step = factory(ApiKeyPlan(ENTRIES), Host())
    first, second = Found(), Found()
    step.check(bearer(b"key-one"), first)
    first.claims["apiKey"]["tier"]["level"] = 9
    step.check(bearer(b"key-one"), second)
    assert second.claims["apiKey"]["tier"]["level"] == 1


def test_bad_keys() -> None:
    for key in (b"key-thre", b"KEY-ONE", b"key-one ", sha256("key-one").encode(), b"x" * (MAX_KEY + 1), b"key-one, key-two"):
        status, found, _ = check(bearer(key))
        assert (status, found.claims, found.key(), found.token) == (401, {}, b"", b"")


def test_modes() -> None:
    for mode, none, bad in (("strict", 401, 401), ("optional", 0, 401), ("permissive", 0, 0)):
        assert check(Asked(), mode)[0] == none  # type: ignore[arg-type]
        assert check(bearer(b"bad"), mode)[0] == bad  # type: ignore[arg-type]


def test_the_refusal_says_no_key() -> None:
    refusal = at_once(factory(ApiKeyPlan(ENTRIES), Host()).check(bearer(b"my-secret"), Found()))
    assert refusal is not None
    assert "my-secret" not in repr(refusal)
    assert refusal.reason == API_KEY_AUTH
    assert refusal.lines == b'WWW-Authenticate: Bearer error="invalid_token"\r\n'


def test_another_header() -> None:
    place = LocationPlan("header", "x-api-key", "")
    assert check(Asked([(b"x-api-key", b"key-one")]), location=place)[0] == 0
    assert check(bearer(b"key-one"), location=place)[0] == 401
    assert check(Asked([(b"x-api-key", b"key-one"), (b"x-api-key", b"key-one")]), location=place)[0] == 401
    refusal = at_once(factory(ApiKeyPlan(ENTRIES, location=place), Host()).check(Asked(), Found()))
    assert refusal is not None
    assert refusal.lines == b"WWW-Authenticate: ApiKey\r\n"


def test_a_token_that_was_verified_before_stays_the_token() -> None:
    found = Found()
    found.token = b"jwt"
    step = factory(ApiKeyPlan(ENTRIES, location=LocationPlan("header", "x-api-key", "")), Host())
    assert step.check(Asked([(b"x-api-key", b"key-one")]), found) is None
    assert found.token == b"jwt"


def test_the_plan_has_no_key() -> None:
    assert "key-one" not in json.dumps([entry.sha256 for entry in ENTRIES])
