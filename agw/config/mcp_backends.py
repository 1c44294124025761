"""MCP backends of the file to MCP backends of the plan.

Rules kept here:
- an MCP backend goes by its name in counters and by its place (the entry of `backends`, else the route) in sessions and over
  reloads, so two different ones never share either: the later gets `-2`, `-3`, ...;
  the same backend, referred to twice with the same policies, is one;
- request header changes end up in each target, the most specific winning as a whole; of a reference they are the first
  http target's, which is where its `cluster` leads;
- what is not given keeps the default of `agw.runtime.plan`, so defaults live in one place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from agw.config import values
from agw.config.check import Context, Names
from agw.config.clusters import Clusters
from agw.config.model import Config
from agw.config.model_mcp import McpBackend, McpEndpoint, McpTarget, OpenApiServer, StdioServer, VirtualServer
from agw.config.openapi import openapi_plan, schema_host
from agw.config.policies import AUTH, EMPTY, TLS, PolicySet, convert, plan_of
from agw.config.problem import Path
from agw.config.tls import secured
from agw.config.values import Endpoint, quoted
from agw.mcp.revisions import METHODS
from agw.runtime.plan import BackendRef, McpPlan, McpTargetPlan, OpenApiPlan, StdioPlan, TlsClientPlan, VirtualServerPlan, VirtualToolPlan

MCP_PATH = "/mcp"
SSE_PATH = "/sse"

_KINDS = ("mcp", "sse", "stdio", "openapi")
_TARGET_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_OTHER_ORIGIN = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*://[!-~]+")
_MAX_NAME = 128  # of a tool, MCP specification, "Tool names"
_SAFE_NAME = 64  # what every model API takes
_SEPARATOR = re.compile(r"[_.-]{1,8}")
# The gateway itself says what a message is, to whom it belongs and how it is answered.
_OWN_HEADERS = frozenset(("accept", "accept-encoding", "content-encoding", "content-type", "last-event-id"))


class HostBackend(NamedTuple):
    """An entry of `backends` that is a host, and its policies."""

    endpoint: Endpoint
    policies: PolicySet


class _Built(NamedTuple):
    """A target of the plan, and everything its policies say."""

    plan: McpTargetPlan
    policies: PolicySet


class McpBackends:
    """All MCP backends of a plan while it is built.

    `lookup` finds the entry of `backends` a target refers to: (name, the entry the target stands in, place).
    """

    def __init__(
        self, context: Context, config: Config, clusters: Clusters, lookup: Callable[[str, str, Path], HostBackend | None]
    ) -> None:
        self.context = context
        self.clusters = clusters
        self.lookup = lookup
        self.plans: list[McpPlan] = []
        self._by_content: dict[bytes, int] = {}
        self._places: set[str] = set()
        self._taken: set[str] = set()
        self._session_ttl: dict[str, Any] = {}
        settings = config.config.mcp if config.config is not None else None
        if settings is not None and settings.session_ttl is not None:
            place: Path = ("config", "mcp", "sessionTtl")
            ttl = context.findings.value(place, values.positive_duration_ns, settings.session_ttl, 0)
            self._session_ttl = {"session_ttl_ns": ttl}

    def reference(self, backend: McpBackend, name: str, label: str, policies: PolicySet, weight: int, path: Path) -> BackendRef | None:
        """An MCP backend as a route's reference; None after a problem.

        `name` is that of an entry of `backends` ("" elsewhere), `label` stands in for it when there are several targets.
        `policies` are those of the backend as a whole. `path` is where `mcp` stands.
        """
        targets: Path = (*path, "targets")
        if not backend.targets:
            if self.context.is_complete(targets):
                self.context.findings.problem(targets, "no target; add one")
            return None
        called = name or (label if len(backend.targets) > 1 else backend.targets[0].name)
        names = Names(self.context, "target")
        built: list[_Built] = []
        for index, target in enumerate(backend.targets):
            below: Path = (*targets, index)
            names.claim(target.name, target.name, (*below, "name"))
            result = self._target(target, backend, called, name, policies, below)
            if result is not None:
                built.append(result)
        options = self._options(backend, path)
        self._check_prefixes(backend, options.get("separator", "_"), targets)
        if len(built) < len(backend.targets):
            return None
        index = self._add(McpPlan(called, [item.plan for item in built], **options, **self._session_ttl, place=name or label))
        for field, key in (("authorization", "authorization"), ("ext_authz", "extAuthz"), ("mcp_authorization", "mcpAuthorization")):
            for number, item in enumerate(built):
                if item.policies.get(field) != policies.get(field) and (len(built) > 1 or policies.get(field)):
                    text = f"the backend this target refers to has {key} of its own, and requests are judged before a target is chosen"
                    self.context.findings.problem((*targets, number), f"{text}; attach it to the route")
        first = next((item for item in built if item.plan.kind == "http"), None)
        if len(built) == 1:
            policies = built[0].policies
        elif first is not None and "request_headers" in first.policies:
            policies = {**policies, "request_headers": first.policies["request_headers"]}
        shown = plan_of(policies)
        return BackendRef(
            -1 if first is None else first.plan.cluster, weight, shown if shown != plan_of(EMPTY) else None, mcp=index
        )

    def _add(self, plan: McpPlan) -> int:
        content = msgspec.msgpack.encode(msgspec.structs.replace(plan, place=""))
        index = self._by_content.get(content)
        if index is None:
            index = self._by_content[content] = len(self.plans)
            name = _free(plan.name, self._taken)
            self.plans.append(msgspec.structs.replace(plan, name=name, place=_free(plan.place, self._places)))
        return index

    def _options(self, backend: McpBackend, path: Path) -> dict[str, Any]:
        """Everything of a backend but its name and targets, as fields of the plan."""
        findings = self.context.findings
        out: dict[str, Any] = {
            "stateful": backend.stateful_mode == "stateful",
            "fail_open": backend.failure_mode == "failOpen",
            "allowed_hosts": [
                findings.value((*path, "allowedHosts", index), _allowed_host, text, "") for index, text in enumerate(backend.allowed_hosts)
            ],
            "allowed_origins": [
                findings.value((*path, "allowedOrigins", index), _allowed_origin, text, "") for index, text in enumerate(backend.allowed_origins)
            ],
            "virtual_servers": self._virtual_servers(backend, (*path, "virtualServers")),
        }
        if backend.dns_rebinding_protection is not None:
            out["guard"] = "on" if backend.dns_rebinding_protection else "off"
            if not backend.dns_rebinding_protection and (backend.allowed_hosts or backend.allowed_origins):
                findings.warning(
                    (*path, "dnsRebindingProtection"), "it is off, so allowedHosts and allowedOrigins have no effect; switch it on or remove them"
                )
        if backend.separator is not None:
            out["separator"] = findings.value((*path, "separator"), _separator, backend.separator, "_")
        if backend.catalogue_ttl is not None:
            out["catalogue_ttl_ns"] = findings.value((*path, "catalogueTtl"), values.duration_ns, backend.catalogue_ttl, 0)
        for field in ("prefix_mode", "page_size", "instructions", "replay_events", "replay_bytes", "max_sessions"):
            value = getattr(backend, field)
            if value is not None:
                out[field] = value
        return out

    def _check_prefixes(self, backend: McpBackend, separator: str, path: Path) -> None:
        """Where names get the target's as prefix: that they fit, and that no name can be read in two ways."""
        if backend.prefix_mode == "never" or (backend.prefix_mode != "always" and len(backend.targets) == 1):
            return
        findings = self.context.findings
        names = {target.name for target in backend.targets}
        for index, target in enumerate(backend.targets):
            place: Path = (*path, index, "name")
            used = len(target.name) + len(separator)
            short = next((name for name in names if name != target.name and target.name.startswith(name + separator)), None)
            if short is not None:
                findings.problem(
                    place, f"with the separator {quoted(separator)} its tools could be those of {quoted(short)}; rename it, or set `separator: __`"
                )
            if used >= _MAX_NAME:
                findings.problem(place, f"as a prefix it leaves no room in the {_MAX_NAME} characters of a tool's name; use a shorter one")
            elif used >= _SAFE_NAME:
                findings.warning(place, f"as a prefix it makes tool names longer than the {_SAFE_NAME} characters model APIs take; use a shorter one")

    def _virtual_servers(self, backend: McpBackend, path: Path) -> list[VirtualServerPlan]:
        known = [target.name for target in backend.targets]
        names = Names(self.context, "virtual server")
        out: list[VirtualServerPlan] = []
        for index, server in enumerate(backend.virtual_servers):
            below: Path = (*path, index)
            names.claim(server.name, server.name, (*below, "name"))
            out.append(self._virtual_server(server, known, below))
        return out

    def _virtual_server(self, server: VirtualServer, known: list[str], path: Path) -> VirtualServerPlan:
        findings = self.context.findings
        name = findings.value((*path, "name"), _short_name, server.name, "")
        shown = Names(self.context, "tool")
        tools: list[VirtualToolPlan] = []
        if not server.tools and self.context.is_complete((*path, "tools")):
            findings.problem((*path, "tools"), "a virtual server without tools; add one, like {target: time, tool: now}")
        for index, tool in enumerate(server.tools):
            below: Path = (*path, "tools", index)
            if tool.target not in known:
                self.context.unknown((*below, "target"), "target", tool.target, known)
            findings.value((*below, "tool"), _given, tool.tool, "")
            own = "" if tool.name is None else findings.value((*below, "name"), _tool_name, tool.name, tool.name)
            shown.claim(own or tool.tool, own or tool.tool, (*below, "tool" if tool.name is None else "name"))
            tools.append(VirtualToolPlan(tool.target, tool.tool, own, tool.title, tool.description))
        return VirtualServerPlan(name, tools)

    def _target(
        self, target: McpTarget, backend: McpBackend, label: str, owner: str, inherited: PolicySet, path: Path
    ) -> _Built | None:
        findings = self.context.findings
        name = findings.value((*path, "name"), _short_name, target.name, "")
        own = convert(self.context, target.policies, (*path, "policies"))
        common = self._common(target, backend, path)
        chosen = self.context.choice(target, path, _KINDS)
        if chosen is None or not name:
            return None
        if target.stdio is not None:
            stdio = self._stdio(target.stdio, (*path, "stdio"))
            if target.policies is not None:
                findings.problem((*path, "policies"), "there is no connection to a program, so nothing these would apply to; remove them")
            if target.forward_headers:
                findings.problem((*path, "forwardHeaders"), "a program receives no headers; remove this, or pass values in `stdio.env`")
            return None if stdio is None else _Built(McpTargetPlan(name, "stdio", stdio=stdio, **common), inherited)
        value = target.mcp or target.sse or target.openapi
        assert value is not None
        below: Path = (*path, chosen)
        default = MCP_PATH if chosen == "mcp" else SSE_PATH if chosen == "sse" else ""
        found = self._endpoint(value, default, owner, inherited, own, below)
        openapi: OpenApiPlan | None = None
        if isinstance(value, OpenApiServer):
            openapi = openapi_plan(self.context, value, found[0].path if found else "", below)
            if openapi is None:
                return None
        if found is None:
            return None
        endpoint, tls, policies = found
        kind: Literal["http", "sse", "openapi"] = "http" if chosen == "mcp" else "sse" if chosen == "sse" else "openapi"
        if openapi is not None:
            cluster = self.clusters.add("host", label, target.name, endpoint._replace(path=""), tls)
            if "://" in openapi.url:
                place = schema_host(openapi.url)
                there = cluster
                if (place.host, place.port, place.tls) != (endpoint.host, endpoint.port, tls is not None):
                    there = self.clusters.add("host", label, target.name, place, TlsClientPlan() if place.tls else None)
                openapi = msgspec.structs.replace(openapi, url_cluster=there)
        else:
            cluster = self.clusters.add("mcp", label, target.name, endpoint, tls)
        plan = McpTargetPlan(name, kind, cluster, policies.get("request_headers"), openapi=openapi, auth=policies.get(AUTH), **common)
        return _Built(plan, policies)

    def _common(self, target: McpTarget, backend: McpBackend, path: Path) -> dict[str, Any]:
        """What every kind of target has, as fields of the plan."""
        findings = self.context.findings
        out: dict[str, Any] = {"era": target.protocol_era}
        if target.forward_headers:
            out["forward_headers"] = [
                findings.value((*path, "forwardHeaders", index), _forwarded_header, text, "") for index, text in enumerate(target.forward_headers)
            ]
        if target.timeout is not None:
            out["timeout_ns"] = findings.value((*path, "timeout"), values.positive_duration_ns, target.timeout, 1)
        if target.timeouts:
            out["method_timeouts"] = {}
            for method, text in target.timeouts.items():
                below: Path = (*path, "timeouts", method)
                if method not in METHODS:
                    self.context.unknown(below, "method", method, METHODS)
                out["method_timeouts"][method] = findings.value(below, values.positive_duration_ns, text, 1)
        if backend.fanout_timeout is not None:
            place: Path = (*path[:-2], "fanoutTimeout")
            out["deadline_ns"] = findings.value(place, values.positive_duration_ns, backend.fanout_timeout, 1)
        if target.fanout_timeout is not None:
            out["deadline_ns"] = findings.value((*path, "fanoutTimeout"), values.positive_duration_ns, target.fanout_timeout, 1)
        return out

    def _stdio(self, value: StdioServer, path: Path) -> StdioPlan | None:
        findings = self.context.findings
        before = len(findings.problems)
        if not value.cmd.strip():
            findings.problem((*path, "cmd"), "the program is empty; give its path or name, like npx")
        texts: list[tuple[Path, str]] = [((*path, "cmd"), value.cmd)]
        texts += [((*path, "args", index), text) for index, text in enumerate(value.args)]
        for key, text in value.env.items():
            if not key or "=" in key:
                findings.problem((*path, "env", key), f"{quoted(key)} is no name of a variable; use letters, digits and _, like API_TOKEN")
            texts += [((*path, "env", key), key), ((*path, "env", key), text)]
        if value.cwd is not None:
            texts.append(((*path, "cwd"), value.cwd))
            if not value.cwd:
                findings.problem((*path, "cwd"), "the directory is empty; give a path, or remove it")
        for place, text in texts:
            if "\0" in text:
                findings.problem(place, "a program cannot be given a NUL character; remove it")
        out: dict[str, Any] = {}
        if value.max_processes is not None:
            out["max_processes"] = value.max_processes
        for key, field, duration in (
            ("idleTimeout", "idle_timeout_ns", value.idle_timeout),
            ("stopGrace", "stop_grace_ns", value.stop_grace),
        ):
            if duration is not None:
                out[field] = findings.value((*path, key), values.positive_duration_ns, duration, 1)
        if len(findings.problems) > before:
            return None
        return StdioPlan(value.cmd, value.args, value.env, value.clear_env, value.cwd or "", value.sharing, **out)

    def _endpoint(
        self, value: McpEndpoint | OpenApiServer, default: str, owner: str, outer: PolicySet, own: PolicySet, path: Path
    ) -> tuple[Endpoint, TlsClientPlan | None, PolicySet] | None:
        """Where a target is, how the way there is secured, and its policies; None after a problem.

        `default` is its path when none is given, `outer` are the policies of the whole backend, `own` the target's.
        """
        findings = self.context.findings
        endpoint: Endpoint
        merged = {**outer, **own}
        text = value.host or ""
        chosen = self.context.choice(value, path, ("host", "backend"))
        if chosen is None:
            return None
        if value.backend is not None:
            if value.port is not None:
                findings.problem((*path, "port"), "the port comes from the backend; remove it here")
            host = self.lookup(value.backend, owner, (*path, "backend"))
            if host is None:
                return None
            endpoint = host.endpoint
            merged = {**outer, **host.policies, **own}
        elif value.port is not None and not text.startswith("unix:"):
            name = findings.value((*path, "host"), values.host_name, text, "")
            endpoint = Endpoint(name, value.port, "", values.authority_of(name, value.port))
        else:
            if value.port is not None:
                findings.problem((*path, "port"), "a unix socket has no port; remove it")
            endpoint = findings.value((*path, "host"), values.mcp_endpoint, text, Endpoint())
        if not (endpoint.host or endpoint.unix_path):
            return None
        if value.path is not None:
            if endpoint.path:
                findings.problem((*path, "path"), "`host` has a path already; keep one of them")
            given = findings.value((*path, "path"), values.url_path, value.path, MCP_PATH)
            endpoint = endpoint._replace(path="" if given == "/" and not default else given)
        else:
            endpoint = endpoint._replace(path=endpoint.path or default)
        endpoint, tls = secured(self.context, endpoint, text, merged.get(TLS), (*path, chosen))
        if endpoint.port == 443 and tls is None:
            findings.warning((*path, chosen), "port 443 without TLS; write an https:// URL, or add `policies: {backendTLS: {}}`")
        return endpoint, tls, merged


def _short_name(text: str) -> str:
    if len(text) > 253 or not _TARGET_NAME.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no usable name; use a-z, 0-9, - and dots, beginning and ending with a letter or digit, like time-2")
    return text


def _tool_name(text: str) -> str:
    if not _TOOL_NAME.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no tool name; use up to 128 letters, digits, _, - and dots")
    return text


def _given(text: str) -> str:
    if not 0 < len(text) <= _MAX_NAME:
        raise ValueError(f"a tool's name has 1 to {_MAX_NAME} characters; give its name at its target")
    return text


def _separator(text: str) -> str:
    if not _SEPARATOR.fullmatch(text):
        raise ValueError(f"{quoted(text)} cannot separate; use up to 8 of _ - and dots, like __")
    return text


def _allowed_host(text: str) -> str:
    """A host of the DNS rebinding protection: `host` or `host:*` (any port), `host:port`, or `*` (any); lower case."""
    if text == "*":
        return text
    if "/" in text or "*" in text.removesuffix(":*"):
        raise ValueError(f"{quoted(text)} is no host; write it like tools.example.com or tools.example.com:8443")
    return values.authority_host(text.removesuffix(":*")) + ":*" if text.endswith(":*") else values.authority(text)


def _allowed_origin(text: str) -> str:
    """An origin it lets through: `https://host[:port]` (`:*` is any), another scheme as it is, `null`, or `*` (any)."""
    if text in ("*", "null") or _OTHER_ORIGIN.fullmatch(text):
        return text
    if "*" in text.removesuffix(":*"):
        raise ValueError(f"{quoted(text)} has a wildcard; write every origin out, or * for any")
    return values.origin(text.removesuffix(":*")) + (":*" if text.endswith(":*") else "")


def _forwarded_header(text: str) -> str:
    name = values.changed_header(text)
    if name in _OWN_HEADERS or name.startswith("mcp-"):
        raise ValueError(f"`{name}` is written by agw itself; remove it")
    return name


def _free(wanted: str, taken: set[str]) -> str:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, ... that is not taken; taken from now on."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    taken.add(name)
    return name
