"""The `config` and `frontendPolicies` blocks, and the environment that wins over them."""

from __future__ import annotations

import textwrap

import pytest

from agw.config import ConfigErrors, load_bytes, redacted
from agw.runtime.plan import AccessLogPlan, HttpPlan, Plan, ProcessPlan


def plan(text: str, environ: dict[str, str] | None = None) -> Plan:
    return load_bytes(textwrap.dedent(text).encode(), "f.yaml", environ or {}).plan


def test_nothing_given_is_the_default_of_the_plan() -> None:
    built = plan("{}")
    assert (built.process, built.http, built.access_log) == (ProcessPlan(), HttpPlan(), AccessLogPlan())
    assert plan("config: null\nfrontendPolicies: null").process == ProcessPlan()


def test_every_process_setting_reaches_the_plan() -> None:
    built = plan(
        """
        config:
          adminAddr: localhost:1
          statsAddr: unix:/run/stats
          readinessAddr: off
          workerThreads: 3
          connectionTerminationDeadline: 7s
          pinCpus: true
          heartbeatTimeout: 2s
          backlog: 9
          logging: {level: debug}
          metrics: {prefix: gate}
          dns: {refreshInterval: 3s}
        """
    )
    assert built.process == ProcessPlan(
        workers=3,
        pin_cpus=True,
        admin_address="127.0.0.1:1",
        stats_address="unix:/run/stats",
        readiness_address="off",
        drain_ns=7_000_000_000,
        heartbeat_timeout_ns=2_000_000_000,
        backlog=9,
        log_level="debug",
        metrics_prefix="gate",
        dns_refresh_ns=3_000_000_000,
    )


def test_the_environment_wins_over_the_file() -> None:
    text = "config: {adminAddr: 'localhost:1', workerThreads: 3, connectionTerminationDeadline: 7s}"
    environ = {
        "ADMIN_ADDR": "off",
        "STATS_ADDR": "127.0.0.1:2",
        "READINESS_ADDR": "unix:@r",
        "WORKER_THREADS": "auto",
        "CONNECTION_TERMINATION_DEADLINE": "0",
    }
    process = plan(text, environ).process
    assert (process.admin_address, process.stats_address, process.readiness_address) == (
        "off",
        "127.0.0.1:2",
        "unix:@r",
    )
    assert (process.workers, process.drain_ns) == (0, 0)
    assert plan(text, {"WORKER_THREADS": "", "ADMIN_ADDR": ""}).process.workers == 3


def test_a_bad_variable_is_a_problem_without_a_line() -> None:
    with pytest.raises(ConfigErrors) as caught:
        plan("{}", {"ADMIN_ADDR": "nowhere", "WORKER_THREADS": "-1"})
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (0, "$ADMIN_ADDR"),
        (0, "$WORKER_THREADS"),
    ]
    assert str(caught.value).startswith("f.yaml: $ADMIN_ADDR: ")


KEY, OTHER = "0a" * 32, "1b" * 32


@pytest.mark.parametrize(
    ("session", "variable", "keys"),
    [
        ("{}", "", []),
        (f"{{session: {{key: '{KEY}'}}}}", "", [KEY]),
        (f"{{session: {{key: '{KEY.upper()}'}}}}", "", [KEY]),
        (f"{{session: {{keys: ['{KEY}', '{OTHER}', '{KEY}']}}}}", "", [KEY, OTHER]),
        (f"{{session: {{keys: ['{KEY}', '{OTHER}']}}}}", "2c" * 32, ["2c" * 32]),
        ("{}", OTHER, [OTHER]),
    ],
)
def test_session_keys(session: str, variable: str, keys: list[str]) -> None:
    assert plan(f"config: {session}", {"SESSION_KEY": variable}).process.session_keys == keys


@pytest.mark.parametrize("key", ["", KEY[:-1], KEY + "00", "g" * 64])
def test_a_bad_session_key_is_refused_and_not_shown(key: str) -> None:
    for text in (f"config: {{session: {{key: '{key}'}}}}", f"config: {{session: {{keys: ['{KEY}', '{key}']}}}}"):
        with pytest.raises(ConfigErrors, match="64 hex digits; make one with: openssl rand -hex 32") as caught:
            plan(text)
        assert not key or key not in str(caught.value)
    if key:
        with pytest.raises(ConfigErrors, match=r"\$SESSION_KEY: a session key is 64 hex digits") as caught:
            plan("{}", {"SESSION_KEY": key})
        assert key not in str(caught.value)


def test_session_keys_are_not_shown() -> None:
    loaded = load_bytes(f"config: {{session: {{keys: ['{KEY}', '{OTHER}']}}}}".encode(), "f.yaml", {})
    assert redacted(loaded.document) == {"config": {"session": {"keys": ["<redacted>", "<redacted>"]}}}


@pytest.mark.parametrize(("text", "workers"), [("auto", 0), ("'4'", 4), ("1", 1)])
def test_worker_counts(text: str, workers: int) -> None:
    assert plan(f"config: {{workerThreads: {text}}}").process.workers == workers


def test_every_limit_reaches_the_plan() -> None:
    built = plan(
        """
        frontendPolicies:
          http:
            maxBufferSize: 1
            http1MaxHeaders: 2
            maxHeadBytes: 2000
            maxLineBytes: 1000
            maxFieldBytes: 1001
            headerTimeout: 3s
            firstByteTimeout: 4s
            progressTimeout: 5s
            http1IdleTimeout: 6s
            streamIdleTimeout: 7s
            maxConnectionDuration: 8s
            maxRequestsPerConnection: 9
            maxConnections: 10
            maxConnectionsPerAddress: 11
            http1HeaderCase: lowercase
            forwarded: append
          accessLog: {enabled: false, path: /var/log/agw.log}
        """
    )
    second = 1_000_000_000
    assert built.http == HttpPlan(
        max_buffer_bytes=1,
        max_headers=2,
        max_head_bytes=2000,
        max_line_bytes=1000,
        max_field_bytes=1001,
        header_timeout_ns=3 * second,
        first_byte_timeout_ns=4 * second,
        progress_timeout_ns=5 * second,
        idle_timeout_ns=6 * second,
        stream_idle_timeout_ns=7 * second,
        max_connection_ns=8 * second,
        max_requests_per_connection=9,
        max_connections=10,
        max_connections_per_address=11,
        lowercase_headers=True,
        forwarded="append",
    )
    assert built.access_log == AccessLogPlan(enabled=False, path="/var/log/agw.log")
    assert plan("frontendPolicies: {http: {http1HeaderCase: preserve}}").http.lowercase_headers is False


def test_upstream_defaults_reach_every_cluster() -> None:
    clusters = plan(
        """
        config:
          backend:
            connectTimeout: 1s
            poolIdleTimeout: 2s
            poolMaxSize: 3
            poolMaxLifetime: 4s
            maxConnections: 5
            maxPending: 6
            pendingTimeout: 7s
            responseTimeout: 8s
        gateways: {default: {port: 3000}}
        routes: [{backends: [{host: 'a:1'}, {mcp: {targets: [{name: t, mcp: {host: 'a:1'}}]}}]}]
        """
    ).clusters
    assert len(clusters) == 2
    second = 1_000_000_000
    for cluster in clusters:
        assert (cluster.connect_timeout_ns, cluster.idle_timeout_ns, cluster.max_idle) == (second, 2 * second, 3)
        assert (cluster.lifetime_ns, cluster.max_connections, cluster.max_pending) == (4 * second, 5, 6)
        assert (cluster.pending_timeout_ns, cluster.response_timeout_ns) == (7 * second, 8 * second)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("gateways: {a: {port: 15000}}", "already used by the gateway `a`"),
        ("gateways: {a: {port: 1}, b: {port: 1, address: 127.0.0.1}}", "already used by the gateway `a`"),
        ("config: {adminAddr: '0.0.0.0:15020'}", "already used by `config.adminAddr`"),
    ],
)
def test_ports_that_overlap(text: str, match: str) -> None:
    with pytest.raises(ConfigErrors, match=match):
        plan(text)


def test_ports_that_do_not_overlap() -> None:
    plan("gateways: {a: {port: 1, address: 127.0.0.1}, b: {port: 1, address: 127.0.0.2}, c: {port: 0}, d: {port: 0}}")
    plan("config: {adminAddr: off}\ngateways: {a: {port: 15000}}")
