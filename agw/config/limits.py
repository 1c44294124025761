"""Limits of the file to limits of the plan.

Rules kept here:
- a rate is a unit per fill interval over tokensPerFill, in whole nanoseconds; what cannot be told apart by more than a
  thousandth of the rate is refused, so the count stays exact;
- a limit without a name is named after its place in the file; its buckets belong to name and content together;
- what does not belong to the kind of a limit is a problem, not ignored.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from agw.config import rules, values
from agw.config.check import Context
from agw.config.model_limits import LocalRateLimit, RateLimitDescriptor, RateLimitService, RateLimitStore, RemoteRateLimit
from agw.config.problem import Path, path_text
from agw.config.services import service_of, under_conditions
from agw.runtime.plan import TlsClientPlan
from agw.runtime.plan_security import DescriptorEntry, DescriptorPlan, LimitPlan, RateStorePlan, RemoteLimitPlan
from agw.security.cel_names import Phase
from agw.security.ext_authz.values import constant

FASTEST_NS = 1000
"""A million units a second: rounding an interval to nanoseconds changes the rate by a thousandth at most."""
MOST_NS = 10 * 365 * 86_400 * 10**9
MOST_PERMITS = 1_000_000
MOST_QUOTA = 2**40 - 1
MOST_DESCRIPTORS = 16
LONGEST_NAME = 48


def local_limits(context: Context, items: list[LocalRateLimit], path: Path) -> list[LimitPlan]:
    """`localRateLimit`."""
    plans = [_local(context, item, (*path, index)) for index, item in enumerate(items)]
    return [plan for plan in plans if plan is not None]


def _local(context: Context, item: LocalRateLimit, path: Path) -> LimitPlan | None:
    problems = len(context.findings.problems)

    def problem(key: str, text: str) -> None:
        context.findings.problem((*path, key), text)

    if item.max_tokens < 1 and context.is_complete(path):
        problem("maxTokens", "nothing would ever pass; give a number from 1")
    interval = 0
    if item.kind == "rate":
        interval = _interval(context, item, path)
        if item.window is not None:
            problem("window", "a window belongs to kind quota; remove it, or set the kind")
    else:
        for key, given in (("tokensPerFill", item.tokens_per_fill > 0), ("fillInterval", item.fill_interval is not None)):
            if given:
                problem(key, f"it does not belong to kind {item.kind}; remove it")
        if item.kind == "quota" and item.window is None:
            problem("kind", "a quota needs a window; give window: hour, day or month")
        if item.kind == "concurrency" and item.window is not None:
            problem("window", "a window belongs to kind quota; remove it, or set the kind")
        if item.kind == "concurrency" and item.cost is not None:
            problem("cost", "a request takes one place; remove it")
        most = MOST_QUOTA if item.kind == "quota" else MOST_PERMITS
        if item.max_tokens > most:
            problem("maxTokens", f"the most is {most}")
    name = item.name
    if name is not None and (not name or not name.isprintable() or len(name.encode("utf-8", "replace")) > LONGEST_NAME):
        problem("name", f"a name has 1 to {LONGEST_NAME} octets that can be printed; choose another")
    if len(context.findings.problems) > problems:
        return None
    return LimitPlan(
        name=name or _place(path),
        kind=item.kind,
        burst=item.max_tokens,
        interval_ns=interval,
        window=item.window or "",
        key=expression(context, item.key, (*path, "key"), item.phase),
        cost=expression(context, item.cost, (*path, "cost"), item.phase),
        phase=item.phase,
        where=path_text(path),
    )


def _place(path: Path) -> str:
    """The place as a name: its end says more than its beginning."""
    text = path_text(path)
    return text if len(text.encode("utf-8", "replace")) <= LONGEST_NAME else text.encode("utf-8", "replace")[-LONGEST_NAME:].decode("utf-8", "ignore")


def _interval(context: Context, item: LocalRateLimit, path: Path) -> int:
    """Nanoseconds per unit; 1 after a problem."""
    fill = 0
    if item.fill_interval is not None:
        fill = context.findings.value((*path, "fillInterval"), values.positive_duration_ns, item.fill_interval, 0)
    elif context.is_complete(path):
        context.findings.problem((*path, "fillInterval"), "a rate needs a time; give fillInterval, such as 60s")
    if item.tokens_per_fill < 1 and context.is_complete(path):
        context.findings.problem((*path, "tokensPerFill"), "nothing would ever come back; give a number from 1")
    if not fill or item.tokens_per_fill < 1:
        return 1
    interval = (fill + item.tokens_per_fill // 2) // item.tokens_per_fill
    if interval < FASTEST_NS:
        context.findings.problem((*path, "tokensPerFill"), "more than a million a second is no limit that can be kept; give fewer or a longer fillInterval")
    elif interval * item.max_tokens > MOST_NS:
        context.findings.problem((*path, "maxTokens"), "an empty bucket would take more than ten years to fill; give fewer, or a faster refill")
    return interval


def expression(context: Context, text: str | None, path: Path, phase: Phase) -> str:
    """An expression as it goes into the plan; "" when there is none."""
    if text is None:
        return ""
    if not text.strip():
        context.findings.problem(path, "the expression is empty; write one, or remove the key")
    elif constant(text) is None:  # a constant needs no library
        rules.expression(context, text, path, phase)
    return text


def remote_limits(context: Context, value: RemoteRateLimit, path: Path) -> list[RemoteLimitPlan]:
    """`remoteRateLimit`; empty after a problem."""
    if value.conditional is None:
        return _remote(context, value, path)
    beside = bool(value.domain or value.descriptors or value.host or value.backend)
    return under_conditions(context, value.conditional, (*path, "conditional"), beside, _remote)


def _remote(context: Context, item: RateLimitService, path: Path) -> list[RemoteLimitPlan]:
    """One service; empty after a problem."""
    found = service_of(context, item, path)
    if not item.domain and context.is_complete(path):
        context.findings.problem((*path, "domain"), "the domain is empty; give the one that the service's configuration has")
    if not 1 <= len(item.descriptors) <= MOST_DESCRIPTORS and context.is_complete((*path, "descriptors")):
        context.findings.problem((*path, "descriptors"), f"there must be 1 to {MOST_DESCRIPTORS} descriptors")
    descriptors = [_descriptor(context, descriptor, (*path, "descriptors", index)) for index, descriptor in enumerate(item.descriptors)]
    timeout = 1_000_000_000
    if item.timeout is not None:
        timeout = context.findings.value((*path, "timeout"), values.positive_duration_ns, item.timeout, timeout)
    if found is None:
        return []
    endpoint, tls = found
    if endpoint.unix_path:
        context.findings.problem((*path, "host"), f"a rate limit service at a unix socket {values.NOT_YET}; give host:port")
    if tls not in (None, TlsClientPlan()):
        place = (*path, "policies", "backendTLS") if item.policies is not None else (*path, "backend")
        context.findings.problem(place, f"more than `backendTLS: {{}}` for gRPC {values.NOT_YET}; use a certificate the system trusts")
    if not endpoint.host:
        return []
    return [
        RemoteLimitPlan(
            domain=item.domain, descriptors=descriptors, host=endpoint.host, port=endpoint.port, tls=tls is not None,
            fail_open=item.failure_mode.lower() == "failopen", timeout_ns=timeout,
        )
    ]  # fmt: skip


def _descriptor(context: Context, item: RateLimitDescriptor, path: Path) -> DescriptorPlan:
    if not 1 <= len(item.entries) <= MOST_DESCRIPTORS and context.is_complete((*path, "entries")):
        context.findings.problem((*path, "entries"), f"there must be 1 to {MOST_DESCRIPTORS} entries")
    entries = []
    for index, entry in enumerate(item.entries):
        place = (*path, "entries", index)
        if not entry.key:
            context.findings.problem((*place, "key"), "the name of the entry is empty")
        entries.append(DescriptorEntry(entry.key, expression(context, entry.value, (*place, "value"), "http")))
    return DescriptorPlan(
        entries, expression(context, item.cost, (*path, "cost"), "http"), expression(context, item.limit_override, (*path, "limitOverride"), "http")
    )


def rate_store(context: Context, item: RateLimitStore | None, path: Path) -> RateStorePlan:
    """The top level's `rateLimit`."""
    if item is None:
        return RateStorePlan()
    if item.store == "redis":
        if item.url is None:
            context.findings.problem((*path, "store"), "the store needs a url, such as redis://cache.example:6379/0")
        else:
            context.findings.value((*path, "url"), _store_url, item.url, "")
    elif item.url is not None:
        context.findings.problem((*path, "url"), "the store memory has no url; set store: redis, or remove it")
    if not item.prefix.isascii() or not item.prefix.isprintable() or len(item.prefix) > 64:
        context.findings.problem((*path, "prefix"), "a prefix has at most 64 characters of ASCII that can be printed")
    return RateStorePlan(item.store, item.url or "", item.prefix, item.lease, item.down, item.max_keys, item.quota_file)


def _store_url(text: str) -> str:
    # The URL may hold a password: it is not repeated.
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ValueError("this is no URL of a store; write it like redis://user:password@cache.example:6379/0")
    return text
