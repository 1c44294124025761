"""Limits as the operator writes them. See `agw.config.model` for the rules all model files keep."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from agw.config.model_external import ServicePolicies
from agw.config.modelling import Model, about, ours


class LocalRateLimit(Model, frozen=True):
    """A limit that all workers of this gateway share."""

    max_tokens: Annotated[int, about("How much at once: the size of the bucket, the places, or the quota of a window.", ge=0)] = 0
    tokens_per_fill: Annotated[int, about("How much comes back in each fill interval, evenly spread over it.", ge=0)] = 0
    fill_interval: Annotated[str | None, about("Time in which tokensPerFill come back, such as 60s.")] = None
    type: Annotated[Literal["requests"], about("What is counted.")] = "requests"
    name: Annotated[str | None, ours("Name in metrics; limits of the same name and content share their buckets. The place in the file when not given.")] = None
    kind: Annotated[
        Literal["rate", "concurrency", "quota"],
        ours("`rate` refills by time, `concurrency` is how much at the same time, `quota` is how much per hour, day or month."),
    ] = "rate"
    window: Annotated[Literal["hour", "day", "month"] | None, ours("The window of a quota, in UTC.")] = None
    key: Annotated[str | None, ours("Expression that says whose bucket it is; one for everybody when not given.")] = None
    cost: Annotated[str | None, ours("Expression for how much a request takes; 1 when not given.")] = None
    phase: Annotated[
        Literal["http", "mcp"], ours("`http` counts requests, `mcp` messages of MCP, whose expressions may name method, tool and arguments.")
    ] = "http"


class DescriptorPart(Model, frozen=True):
    """One entry of a descriptor."""

    key: Annotated[str, about("Name of the entry, as the service's configuration knows it.")]
    value: Annotated[str, about("Expression for its value.")]


class RateLimitDescriptor(Model, frozen=True):
    """What a rate limit service is asked about."""

    entries: Annotated[list[DescriptorPart], about("Entries, from the most general.")]
    type: Annotated[Literal["requests"], about("What is counted.")] = "requests"
    cost: Annotated[str | None, about("Expression for how much a request takes; 1 when not given.")] = None
    limit_override: Annotated[str | None, about("Expression for a map of unit and requestsPerUnit that replaces the service's limit.")] = None


class RateLimitService(Model, frozen=True):
    """A rate limit service that speaks Envoy's protocol (RLS v3, gRPC); exactly one of `host`, `service`, `backend`."""

    domain: Annotated[str, about("Domain sent to the service.")] = ""
    descriptors: Annotated[list[RateLimitDescriptor], about("What the service is asked about.")] = []
    host: Annotated[str | None, about("The service: name:port, or an http:// or https:// URL.")] = None
    service: Annotated[dict[str, Any] | None, about("A service by reference.")] = None
    backend: Annotated[str | None, about("Name of an entry of `backends` with a host.")] = None
    policies: Annotated[ServicePolicies | None, about("Policies for the connection to the service.")] = None
    failure_mode: Annotated[
        Literal["failClosed", "FailClosed", "failOpen", "FailOpen"], about("Whether requests pass while the service does not answer; else 500.")
    ] = "failClosed"
    timeout: Annotated[str | None, ours("How long the service may take; 1s when not given.")] = None


class RateLimitEntry(RateLimitService, frozen=True):
    """One of several services."""

    condition: Annotated[str | None, about("When this one is asked: an expression; always when not given, for the last.")] = None


class RemoteRateLimit(RateLimitService, frozen=True):
    """A rate limit service, or one of several."""

    conditional: Annotated[list[RateLimitEntry] | None, about("Several services; the first whose condition is true is asked.")] = None


class RateLimitStore(Model, frozen=True):
    """Where buckets are kept. Read at start."""

    store: Annotated[Literal["memory", "redis"], ours("`memory` is this gateway's; `redis` shares rates and quotas with other machines.")] = "memory"
    url: Annotated[str | None, ours("redis:// or rediss:// URL of Redis or Valkey.")] = None
    prefix: Annotated[str, ours("What names of keys in the store begin with.")] = "agw:"
    lease: Annotated[int, ours("Units a worker takes from the store at once; 0 chooses a sixteenth of the burst.", ge=0, le=1_000_000)] = 0
    down: Annotated[
        Literal["local", "open", "closed"], ours("What holds while the store does not answer: this machine's own count, everything, nothing.")
    ] = "local"
    max_keys: Annotated[int, ours("Keys with a bucket that is not full, of all limits together.", ge=1000, le=100_000_000)] = 1_000_000
    quota_file: Annotated[str, ours("File that keeps quotas over restarts; limits.quota in the state directory when not given.")] = ""
