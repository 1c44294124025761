"""Ports and listeners of a plan while it is built, and the references to them.

Rules kept here:
- a gateway without listeners has one, for any host name, named `default`; a single unnamed listener is `default` too,
  of several the unnamed ones are `listener0`, `listener1`, ... by their position;
- listeners under `binds` belong to the gateway `default`, as they do in agentgateway, and have their own routes;
- `mcp.port` makes a gateway named `mcp`;
- a listener without a certificate of its own has its gateway's; under `gateways` a certificate means HTTPS, under
  `binds` it needs to be said;
- one port is all HTTP or all HTTPS: which it is must be known before a listener can be chosen.
"""

from __future__ import annotations

from agw.config import values
from agw.config.check import Context, Names, Ports, Reach
from agw.config.model import BindListener, Config, Gateway, GatewayListener
from agw.config.policies import PolicySet, Targeted, convert
from agw.config.problem import Path
from agw.config.tls import server_tls
from agw.runtime.plan import BindPlan, ListenerPlan, TlsServerPlan

DEFAULT = "default"


class Listener:
    """One listener: its names, what its routes inherit, and the routes attached so far."""

    __slots__ = ("gateway", "hostname", "inherited", "name", "path", "reach", "routes", "secure", "tls")

    def __init__(self, name: str, gateway: str, hostname: str, inherited: PolicySet, path: Path) -> None:
        self.name = name
        self.gateway = gateway
        self.hostname = hostname
        self.inherited = inherited
        self.path = path
        self.routes: list[int] = []
        self.reach = Reach()
        self.secure: bool | None = None
        self.tls: TlsServerPlan | None = None


class Port:
    """One port with its listeners."""

    __slots__ = ("address", "listeners", "port")

    def __init__(self, port: int, address: str) -> None:
        self.port = port
        self.address = address
        self.listeners: list[Listener] = []

    def plan(self) -> BindPlan:
        """The port as the plan has it; call it when all routes are attached."""
        listeners = [
            ListenerPlan(listener.name, listener.gateway, listener.hostname, listener.routes, listener.tls)
            for listener in self.listeners
        ]
        return BindPlan(f"bind/{self.port}", self.port, self.address, listeners)


class Listeners:
    """All ports of a configuration."""

    def __init__(self, context: Context, config: Config, targeted: Targeted, ports: Ports) -> None:
        self.context = context
        self.targeted = targeted
        self.sockets = ports
        self.ports: list[Port] = []
        self.gateways: dict[str, list[Listener]] = {}
        self.gateway_labels: list[str] = []
        self.bind_listeners: list[tuple[Listener, BindListener]] = []
        self._references: dict[str, list[Listener] | None] = {}
        for name, gateway in config.gateways.items():
            path: Path = ("gateways", name)
            if "/" in name or not name:
                context.findings.problem(path, f"{values.quoted(name)} cannot be referred to; use a name without /")
            if gateway.port is None:
                if context.is_complete(path):
                    context.findings.problem(path, "the key `port` is missing; add it")
                self.gateways[name] = []
                continue
            port = self._open(gateway.port, gateway.address, f"the gateway `{name}`", path)
            own = convert(context, gateway, path)
            if gateway.listeners or not context.is_complete((*path, "listeners")):
                names = Names(context, "listener")
                for index, item in enumerate(gateway.listeners):
                    below = (*path, "listeners", index)
                    label = _label(item.name, index, len(gateway.listeners))
                    names.claim(label, label, (*below, "name"))
                    self._secure(port, self._listen(port, name, label, item, own, below), item, gateway, path)
            else:
                self._secure(port, self._listen(port, name, DEFAULT, GatewayListener(), own, path), gateway, None, path)
            self.gateways[name] = port.listeners
            self.gateway_labels.append(name)
        for index, bind in enumerate(config.binds):
            path = ("binds", index)
            port = self._open(bind.port, bind.address, f"`{context.shown(path)}`", path)
            names = Names(context, "listener")
            for position, listener in enumerate(bind.listeners):
                below = (*path, "listeners", position)
                label = _label(listener.name, position, len(bind.listeners))
                names.claim((listener.namespace, label), label, (*below, "name"))
                made = self._listen(port, DEFAULT, label, listener, {}, below)
                self._secure(port, made, listener, None, below)
                self.bind_listeners.append((made, listener))
            self.gateway_labels.append(DEFAULT)
        if config.mcp is not None and config.mcp.port is not None:
            port = self._open(config.mcp.port, "", "`mcp.port`", ("mcp",))
            self.mcp_port: list[Listener] = [self._listen(port, "mcp", DEFAULT, GatewayListener(), {}, ("mcp",))]
            self.gateway_labels.append("mcp")
        else:
            self.mcp_port = []

    def _open(self, number: int, address: str, owner: str, path: Path) -> Port:
        parsed = self.context.findings.value((*path, "address"), values.bind_address, address, "")
        port = Port(number, parsed)
        self.sockets.claim(parsed, number, owner, (*path, "port"))
        self.ports.append(port)
        return port

    def _listen(
        self, port: Port, gateway: str, label: str, item: GatewayListener | BindListener, own: PolicySet, path: Path
    ) -> Listener:
        hostname = self.context.findings.value((*path, "hostname"), values.hostname_pattern, item.hostname or "", "")
        namespace = ""
        if isinstance(item, BindListener):
            namespace = item.namespace or ""
            inline = convert(self.context, item.policies, (*path, "policies"))
        else:
            inline = convert(self.context, item, path)
        whole, attached = self.targeted.on_listener(gateway, label, namespace, port.port)
        listener = Listener(label, gateway, hostname, {**whole, **own, **attached, **inline}, path)
        for other in port.listeners:
            if other.hostname == hostname:
                self.context.findings.warning(
                    path, f"the same host name as {self.context.shown(other.path)}; this listener is never reached"
                )
                break
        port.listeners.append(listener)
        return listener

    def _secure(
        self, port: Port, listener: Listener, item: Gateway | GatewayListener | BindListener, outer: Gateway | None, outer_path: Path
    ) -> None:
        """Decide whether a listener is HTTPS and with which certificate; `outer` is the gateway around it."""
        findings = self.context.findings
        path = listener.path
        value, place = item.tls, (*path, "tls")
        if value is None and outer is not None:
            value, place = outer.tls, (*outer_path, "tls")
        protocol = item.protocol or (outer.protocol if outer is not None else None)
        is_complete = self.context.is_complete(path) and self.context.is_complete(outer_path)
        if protocol is None and value is None and not is_complete:
            return  # what it was meant to be is not known
        listener.secure = protocol == "HTTPS" or (protocol is None and value is not None)
        if listener.secure and value is None:
            if is_complete:
                findings.problem(path, "HTTPS needs a certificate; add `tls: {cert: cert.pem, key: key.pem}`, or use protocol HTTP")
        elif value is not None:
            listener.tls = server_tls(self.context, value, place)
            if not listener.secure:
                findings.problem(place, "a certificate on an HTTP listener; write `protocol: HTTPS`, or remove `tls`")
        for other in port.listeners:
            if other is not listener and other.secure not in (None, listener.secure):
                theirs = "HTTPS" if other.secure else "HTTP"
                findings.problem(
                    path, f"this listener and {self.context.shown(other.path)} ({theirs}) share port {port.port}; make both HTTPS, or use two ports"
                )
                break

    def resolve(self, references: str | list[str], path: Path) -> list[Listener]:
        """The listeners that `gateways:` names; `path` is that of the route or block."""
        if isinstance(references, str):
            return self._reference(references, (*path, "gateways"))
        if not references:
            return self._reference(DEFAULT, path)
        found: list[Listener] = []
        for index, text in enumerate(references):
            found += [item for item in self._reference(text, (*path, "gateways", index)) if item not in found]
        return found

    def _reference(self, text: str, path: Path) -> list[Listener]:
        cached = self._references.get(text)
        if cached is not None:
            return cached
        name, slash, listener = text.partition("/")
        listeners = self.gateways.get(name)
        if listeners is None:
            self.context.unknown(path, "gateway", name, self.gateways)
            return []
        if slash:
            chosen = [item for item in listeners if item.name == listener]
            if not chosen:
                if listeners and not self.context.is_lost(listener):
                    self.context.unknown(path, "listener", text, [f"{name}/{item.name}" for item in listeners])
                return []
            listeners = chosen
        self._references[text] = listeners
        return listeners


def _label(name: str | None, index: int, count: int) -> str:
    return name or (DEFAULT if count == 1 else f"listener{index}")
