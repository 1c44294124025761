"""TLS of the file to TLS of the plan: certificates and keys are read and proven usable here.

Rules kept here:
- the plan holds PEM text, so that workers need no access to the files and a reload never sees half of a new pair;
- a pair is loaded once by OpenSSL to see that it fits, and a CA file to see that it holds certificates: what is wrong
  with a certificate is found by `agw validate`, not by the first client;
- no message quotes what a file holds.
"""

from __future__ import annotations

import os
import re
from typing import Literal

from agw.config import values
from agw.config.check import Context
from agw.config.files import file_name, read_text
from agw.config.model_tls import BackendTls, ServerTls
from agw.config.problem import Path
from agw.config.values import Endpoint
from agw.runtime.plan import TlsClientPlan, TlsServerPlan

_MAKE_PAIR = (
    "mend the path, or make a pair for trials: openssl req -x509 -newkey rsa:2048 -nodes -days 365 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
)
_MEND_CA = "mend the path, or copy the certificate of the CA there in PEM form"
_CERT_TO_PEM = "convert it to PEM: openssl x509 -in FILE -out cert.pem"
_KEY_TO_PEM = "convert it to PEM: openssl pkey -in FILE -out key.pem"
_URI = re.compile(r"[a-z][a-z0-9+.-]{0,31}://[!-~]{1,1024}")
_VERSIONS: dict[str, Literal["1.2", "1.3"]] = {"TLS_V1_2": "1.2", "TLS_V1_3": "1.3"}


def server_tls(context: Context, value: ServerTls, path: Path) -> TlsServerPlan | None:
    """The certificate of a listener; None after a problem. `path` is where `tls` stands."""
    findings = context.findings
    if value.min_version is not None and value.min_version_camel is not None:
        findings.problem((*path, "minTlsVersion"), "the same as `minTLSVersion`; keep one of them")
    if value.max_version is not None and value.max_version_camel is not None:
        findings.problem((*path, "maxTlsVersion"), "the same as `maxTLSVersion`; keep one of them")
    if context.is_complete(path):
        for key, given in (("cert", value.cert), ("key", value.key)):
            if given is None:
                findings.problem(path, f"the key `{key}` is missing; add it")
    pair = _pair(context, value.cert, value.key, path)
    ca = "" if value.root is None else _ca(context, value.root, (*path, "root"))
    if pair is None or ca is None:
        return None
    lowest, highest = value.min_version or value.min_version_camel, value.max_version or value.max_version_camel
    if lowest and highest and lowest > highest:
        findings.problem((*path, "maxTLSVersion" if value.max_version else "maxTlsVersion"), "older than `minTLSVersion`; raise it, or lower that")
        return None
    return TlsServerPlan(pair[0], pair[1], _VERSIONS[lowest] if lowest else "1.2", ca, _VERSIONS[highest] if highest else "")


def client_tls(context: Context, value: BackendTls, path: Path) -> TlsClientPlan:
    """TLS towards a backend; after a problem what could be read. `path` is where `backendTLS` stands."""
    findings = context.findings
    cert = key = ""
    if value.cert is not None or value.key is not None:
        if (value.cert is None or value.key is None) and context.is_complete(path):
            findings.problem(path, "`cert` and `key` belong together; give both or none")
        cert, key = _pair(context, value.cert, value.key, path) or ("", "")
    ca = "" if value.root is None else _ca(context, value.root, (*path, "root")) or ""
    name = "" if value.hostname is None else findings.value((*path, "hostname"), values.host_name, value.hostname, "")
    if value.alpn is not None and "http/1.1" not in value.alpn:
        findings.problem((*path, "alpn"), f"an upstream protocol other than http/1.1 {values.NOT_YET}; add http/1.1, or remove `alpn`")
    elif value.alpn is not None and len(value.alpn) > 1:
        findings.warning((*path, "alpn"), "only http/1.1 is offered; the other protocols are left out")
    if value.insecure:
        findings.warning((*path, "insecure"), "the certificate is not verified, so anyone on the way can read and change requests; give `root`")
    names = [findings.value((*path, "subjectAltNames", index), _alternative_name, text, "") for index, text in enumerate(value.subject_alt_names or ())]
    if names and (value.insecure or value.insecure_host):
        findings.problem((*path, "subjectAltNames"), "nobody looks at the certificate's names; remove this, or `insecure` and `insecureHost`")
    return TlsClientPlan(
        server_name=name, verify=not value.insecure, verify_host=not (value.insecure or value.insecure_host), ca=ca, cert=cert, key=key, names=names
    )


def _alternative_name(text: str) -> str:
    """A host name or address, or a URI as it is."""
    if "://" not in text:
        return values.host_name(text)
    if not _URI.fullmatch(text):
        raise ValueError(f"{values.quoted(text)} is no URI; write it like spiffe://example.org/service")
    return text


def secured(context: Context, endpoint: Endpoint, text: str, tls: TlsClientPlan | None, path: Path) -> tuple[Endpoint, TlsClientPlan | None]:
    """An upstream and its TLS: what `backendTLS` says, else the defaults for an https:// URL.

    `text` is the address as written, `path` its place.
    """
    if tls is None:
        return endpoint, TlsClientPlan() if endpoint.tls else None
    if text.lower().startswith("http://"):
        context.findings.warning(path, "the URL says http:// and backendTLS encrypts all the same; write https://")
    if endpoint.unix_path:
        if not tls.server_name and tls.verify_host:
            context.findings.problem(path, "a unix socket has no name to verify; add backendTLS.hostname, or remove backendTLS")
        return endpoint._replace(tls=True), tls
    return endpoint._replace(authority=values.authority_of(endpoint.host, endpoint.port, True), tls=True), tls


def _pair(context: Context, cert_file: str | None, key_file: str | None, path: Path) -> tuple[str, str] | None:
    findings = context.findings
    cert = None if cert_file is None else read_text(context, cert_file, (*path, "cert"), _MAKE_PAIR, _CERT_TO_PEM)
    key = None if key_file is None else read_text(context, key_file, (*path, "key"), _MAKE_PAIR, _KEY_TO_PEM)
    good = True
    if cert is not None and "-----BEGIN CERTIFICATE-----" not in cert:
        findings.problem((*path, "cert"), f"{file_name(cert_file or '')} holds no certificate in PEM form; {_CERT_TO_PEM}")
        good = False
    if key is not None and "PRIVATE KEY-----" not in key:
        findings.problem((*path, "key"), f"{file_name(key_file or '')} holds no private key in PEM form; {_KEY_TO_PEM}")
        good = False
    elif key is not None and "ENCRYPTED" in key:
        findings.problem(
            (*path, "key"), f"the key in {file_name(key_file or '')} has a passphrase; remove it: openssl pkey -in FILE -out key.pem"
        )
        good = False
    if cert is None or key is None or not good:
        return None
    reason = _misfit(cert, key)
    if reason == "KEY_VALUES_MISMATCH":
        findings.problem((*path, "key"), f"the key is not the one of the certificate in {file_name(cert_file or '')}; name the two files made together")
    elif reason:
        findings.problem((*path, "cert"), f"OpenSSL refuses {file_name(cert_file or '')} with this key ({reason}); make a new pair")
    return None if reason else (cert, key)


def _ca(context: Context, name: str, path: Path) -> str | None:
    text = read_text(context, name, path, _MEND_CA, _CERT_TO_PEM)
    if text is None:
        return None
    import ssl  # only files with TLS pay for it

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        context.findings.problem(path, f"{file_name(name)} holds no CA certificate in PEM form; {_CERT_TO_PEM}")
        return None
    return text


def _misfit(cert: str, key: str) -> str:
    """Why OpenSSL would not serve this pair, "" when it would."""
    import ssl  # only files with TLS pay for it

    # OpenSSL's Python binding reads pairs from files only; these exist in memory and have no name.
    with os.fdopen(os.memfd_create("cert"), "w") as cert_file, os.fdopen(os.memfd_create("key"), "w") as key_file:
        cert_file.write(cert)
        key_file.write(key)
        cert_file.flush()
        key_file.flush()
        names = [f"/proc/self/fd/{stream.fileno()}" for stream in (cert_file, key_file)]
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(names[0], names[1], password=lambda: "")
        except ssl.SSLError as error:
            return error.reason or "no reason given"
        except OSError:
            return ""  # without /proc the pair is proven when it is first used
    return ""
