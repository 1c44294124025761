"""What policies need from outside the file: services called at request time, documents fetched and kept, secrets in files.

Rules kept here:
- every URL of the file becomes a cluster of the plan (`Outside.call`) or a document (`Outside.document`), once, whoever names it;
- a URL is http or https, with a host, without user and fragment; what is wrong with it is said at its place in the file;
- a value that may stand in a file is text or `{file: name}`; the text is read now, and the last line end taken off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from agw.config import values
from agw.config.files import read_text
from agw.config.modelling import Model, about
from agw.config.problem import Path
from agw.config.tls import client_tls
from agw.config.values import Endpoint, quoted
from agw.runtime.plan import TlsClientPlan
from agw.runtime.plan_security import CallPlan, DocumentPlan

if TYPE_CHECKING:
    from agw.config.check import Context
    from agw.config.clusters import Clusters
    from agw.config.model import Config


class FromFile(Model, frozen=True):
    """A value that stands in a file of its own."""

    file: Annotated[str, about("Name of the file, relative to the working directory or the configuration's.")]


class Outside:
    """The services and documents of a plan while it is built."""

    def __init__(self, clusters: Clusters, config: Config) -> None:
        self._clusters = clusters
        self._config = config
        self.documents: dict[str, DocumentPlan] = {}

    def host_of(self, context: Context, name: str, path: Path) -> tuple[str, TlsClientPlan | None] | None:
        """The address of an entry of `backends` as it is written, and its `backendTLS`; None after a problem at `path`, which names it."""
        found = next(((index, item) for index, item in enumerate(self._config.backends) if item.name == name), None)
        if found is None:
            context.unknown(path, "backend", name, [item.name for item in self._config.backends])
            return None
        index, backend = found
        if backend.host is None:
            context.findings.problem(path, f"{quoted(name)} is no host; name an entry of `backends` that has one")
            return None
        tls = None
        for number, item in enumerate(self._config.policies):
            target = item.target.backend.backend if item.target.backend is not None else None
            if target is not None and target.name == name and item.policy.backend_tls is not None:
                tls = client_tls(context, item.policy.backend_tls, ("policies", number, "policy", "backendTLS"))
        if backend.policies is not None and backend.policies.backend_tls is not None:
            tls = client_tls(context, backend.policies.backend_tls, ("backends", index, "policies", "backendTLS"))
        return backend.host, tls

    def call(self, context: Context, url: str, path: Path, label: str, *, timeout_ns: int = 5_000_000_000, tls: TlsClientPlan | None = None) -> CallPlan | None:
        """The call of a URL; None after a problem. `label` names the service in metrics, `tls` replaces the defaults of https."""
        found = _split(context, url, path)
        if found is None:
            return None
        endpoint, rest = found
        secured = (tls or TlsClientPlan()) if endpoint.tls else None
        return CallPlan(self._clusters.add("host", label, "", endpoint, secured), rest, timeout_ns)

    def service(self, endpoint: Endpoint, label: str, tls: TlsClientPlan | None, timeout_ns: int) -> CallPlan:
        """The call of a service whose path is decided with each request; `tls` None is plain."""
        return CallPlan(self._clusters.add("host", label, "", endpoint, tls), "/", timeout_ns)

    def document(self, context: Context, url: str, path: Path, *, ttl_ns: int | None = None, ca: str = "", insecure: bool = False) -> str:
        """The name of a document that is fetched and kept; "" after a problem."""
        if _split(context, url, path) is None:
            return ""
        plan = DocumentPlan(url, ca=ca, insecure=insecure) if ttl_ns is None else DocumentPlan(url, ttl_ns, ca=ca, insecure=insecure)
        known = self.documents.setdefault(url, plan)
        if known != plan:
            context.findings.problem(path, "this URL is fetched elsewhere with another refresh interval or another TLS; give both the same")
        return url


def _split(context: Context, url: str, path: Path) -> tuple[Endpoint, str] | None:
    """The endpoint, and the path with its query."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        context.findings.problem(path, f"{quoted(url)} is no URL; write it like https://issuer.example/path")
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.fragment:
        context.findings.problem(path, f"{quoted(url)} is no http(s) URL with a host and without user or fragment; write it like https://issuer.example/path")
        return None
    rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not rest.isascii() or any(ord(char) <= 32 or ord(char) == 127 for char in rest):
        context.findings.problem(path, f"{quoted(url)} holds a blank, a control character or one outside ASCII; percent-encode it")
        return None
    host = context.findings.value(path, values.host_name, parts.hostname, "")
    if not host:
        return None
    tls = parts.scheme == "https"
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port is None or port == (443 if tls else 80) else f"{shown}:{port}"
    return Endpoint(host, port or (443 if tls else 80), "", authority, "", tls), rest


def text_of(context: Context, value: str | FromFile, path: Path, missing: str = "mend the path") -> str | None:
    """A value given as text or as a file; None after a problem."""
    if isinstance(value, str):
        return value
    text = read_text(context, value.file, (*path, "file"), missing, "write it as UTF-8 text")
    return None if text is None else text.removesuffix("\n").removesuffix("\r")
