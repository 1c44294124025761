"""Limits in the configuration: agentgateway's form, our additions, and what is refused."""

from __future__ import annotations

import pytest

from agw.config import ConfigErrors, load_bytes, redacted
from agw.runtime.plan import Plan
from agw.runtime.plan_security import DescriptorEntry, DescriptorPlan, LimitPlan, RateStorePlan, RemoteLimitPlan

HEAD = "gateways:\n  g: {port: 3000}\n"


def load(policies: str, top: str = "") -> Plan:
    backend = "{mcp: {targets: [{name: a, mcp: {host: 'http://localhost:8080/mcp'}}]}}"
    text = f"{top}{HEAD}routes:\n- gateways: g\n  policies: {policies}\n  backends: [{backend}]\n"
    return load_bytes(text.encode(), "c.yaml", {}).plan


def problems(policies: str, top: str = "") -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(policies, top)
    return [f"{item.path}: {item.text}" for item in caught.value.problems]


def test_a_token_bucket() -> None:
    plan = load("{localRateLimit: [{maxTokens: 10, tokensPerFill: 3, fillInterval: 60s, type: requests}]}")
    place = "routes[0].policies.localRateLimit[0]"
    assert plan.routes[0].policies.limits == [LimitPlan(name=place, burst=10, interval_ns=20_000_000_000, where=place)]


def test_our_additions() -> None:
    plan = load(
        "{localRateLimit: [{name: per user, maxTokens: 5, kind: concurrency, key: jwt.sub},"
        " {maxTokens: 1000, kind: quota, window: month, key: mcp.tool.name, cost: '3', phase: mcp}]}"
    )
    one, two = plan.routes[0].policies.limits
    assert (one.name, one.kind, one.burst, one.key, one.phase) == ("per user", "concurrency", 5, "jwt.sub", "http")
    assert (two.kind, two.window, two.burst, two.cost, two.phase) == ("quota", "month", 1000, "3", "mcp")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("{tokensPerFill: 1, fillInterval: 1s}", "maxTokens: nothing would ever pass"),
        ("{maxTokens: 1, fillInterval: 1s}", "tokensPerFill: nothing would ever come back"),
        ("{maxTokens: 1, tokensPerFill: 1}", "fillInterval: a rate needs a time"),
        ("{maxTokens: 1, tokensPerFill: 2000000, fillInterval: 1s}", "tokensPerFill: more than a million a second"),
        ("{maxTokens: 1000, tokensPerFill: 1, fillInterval: 9000h}", "maxTokens: an empty bucket would take more than ten years"),
        ("{maxTokens: 1, tokensPerFill: 1, fillInterval: soon}", 'fillInterval: "soon" is no duration'),
        ("{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s, window: day}", "window: a window belongs to kind quota"),
        ("{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s, type: tokens}", "type: the value `tokens` is known to agw, not implemented yet"),
        ("{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s, key: ' '}", "key: the expression is empty"),
        ("{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s, name: ''}", "name: a name has 1 to 48 octets"),
        ("{maxTokens: 1, kind: quota}", "kind: a quota needs a window"),
        ("{maxTokens: 1, kind: concurrency, fillInterval: 1s}", "fillInterval: it does not belong to kind concurrency"),
        ("{maxTokens: 1, kind: concurrency, cost: '2'}", "cost: a request takes one place"),
        ("{maxTokens: 2000000, kind: concurrency}", "maxTokens: the most is 1000000"),
    ],
)
def test_what_is_no_limit(item: str, said: str) -> None:
    found = problems(f"{{localRateLimit: [{item}]}}")
    assert len(found) == 1
    assert found[0].startswith(f"routes[0].policies.localRateLimit[0].{said}")


def test_a_service() -> None:
    plan = load(
        "{remoteRateLimit: {domain: d, host: '127.0.0.1:8081', failureMode: failOpen, timeout: 200ms,"
        " descriptors: [{entries: [{key: method, value: request.method}], type: requests, cost: '2', limitOverride: '{}'}]}}"
    )
    descriptor = DescriptorPlan([DescriptorEntry("method", "request.method")], "2", "{}")
    assert plan.routes[0].policies.remote_limits == [RemoteLimitPlan("d", [descriptor], "127.0.0.1", 8081, fail_open=True, timeout_ns=200_000_000)]


def test_a_service_fails_closed_unless_it_is_said() -> None:
    plan = load("{remoteRateLimit: {domain: d, host: 'https://rl.example', descriptors: [{entries: [{key: a, value: request.path}]}]}}")
    service = plan.routes[0].policies.remote_limits[0]
    assert (service.fail_open, service.tls, service.port, service.timeout_ns) == (False, True, 443, 10**9)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("{domain: d, descriptors: [{entries: [{key: a, value: request.path}]}]}", ": nothing chosen; give one of `host`, `service`, `backend`"),
        ("{domain: '', host: 'a:1', descriptors: [{entries: [{key: a, value: request.path}]}]}", ".domain: the domain is empty"),
        ("{domain: d, host: 'a:1', descriptors: []}", ".descriptors: there must be 1 to 16 descriptors"),
        ("{domain: d, host: 'a:1', descriptors: [{entries: []}]}", ".descriptors[0].entries: there must be 1 to 16 entries"),
        ("{domain: d, host: 'a:1', descriptors: [{entries: [{key: a, value: ''}]}]}", ".descriptors[0].entries[0].value: the expression is empty"),
        ("{domain: d, host: 'unix:/x', descriptors: [{entries: [{key: a, value: request.path}]}]}", ".host: a rate limit service at a unix socket"),
        ("{domain: d, service: {}, descriptors: [{entries: [{key: a, value: request.path}]}]}", ".service: `service` is known to agw, not implemented yet"),
    ],
)
def test_what_is_no_service(item: str, said: str) -> None:
    found = problems(f"{{remoteRateLimit: {item}}}")
    assert any(line.startswith(f"routes[0].policies.remoteRateLimit{said}") for line in found), found


def test_the_store() -> None:
    assert load("{}").rate_store == RateStorePlan()
    plan = load("{}", "rateLimit: {store: redis, url: 'redis://localhost/1', prefix: 'x:', lease: 5, down: closed, maxKeys: 5000, quotaFile: /tmp/q}\n")
    assert plan.rate_store == RateStorePlan("redis", "redis://localhost/1", "x:", 5, "closed", 5000, "/tmp/q")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("{store: redis}", "rateLimit.store: the store needs a url"),
        ("{store: redis, url: 'http://u:geheim@x'}", "rateLimit.url: this is no URL of a store"),
        ("{url: 'redis://x'}", "rateLimit.url: the store memory has no url"),
        ("{prefix: 'ü'}", "rateLimit.prefix: a prefix has at most 64 characters"),
    ],
)
def test_what_is_no_store(item: str, said: str) -> None:
    found = problems("{}", f"rateLimit: {item}\n")
    assert found[0].startswith(said)
    assert "geheim" not in found[0]


def test_the_password_of_the_store_is_not_shown() -> None:
    text = f"rateLimit: {{store: redis, url: 'redis://user:geh@eim@cache.example:6379/0'}}\n{HEAD}"
    shown = redacted(load_bytes(text.encode(), "c.yaml", {}).document)
    assert shown["rateLimit"]["url"] == "redis://user:<redacted>@cache.example:6379/0"
