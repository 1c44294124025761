"""Plans to `ssl.SSLContext`: what is offered, what is demanded, whom to trust.

Rules:
- TLS 1.2 is the lowest version in both directions; OpenSSL's default ciphers; no compression, no renegotiation;
- a context is made once per different plan and process, and lives as long as somebody uses it: loading the system's CA
  certificates takes 20 ms and a megabyte, and the keys of session tickets belong to the context. Workers forked with a
  context share those keys;
- Python reads certificates and keys from files only, so PEM text goes through a memory file: nothing touches a disk;
- what cannot be used raises `TlsError`, whose text names no octet of a key.

Sources: RFC 8446, RFC 5246, RFC 7301 (ALPN), RFC 9325 (recommendations).
"""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from agw.runtime.plan import TlsClientPlan, TlsServerPlan

ALPN = ["http/1.1"]
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_contexts: weakref.WeakValueDictionary[bytes, ssl.SSLContext] = weakref.WeakValueDictionary()


class TlsError(ValueError):
    """A certificate, key or list of CAs that cannot be used; the text says which and why."""


def server_context(plan: TlsServerPlan) -> ssl.SSLContext:
    """The context for accepting connections. Errors: TlsError."""
    identity = b"s" + msgspec.msgpack.encode(plan)
    context = _contexts.get(identity)
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[plan.min_version]
        if plan.max_version:
            context.maximum_version = VERSIONS[plan.max_version]
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(ALPN)
        _load_pair(context, plan.cert, plan.key)
        if plan.client_ca:
            _load_ca(context, plan.client_ca, "the CA of client certificates")
            context.verify_mode = ssl.CERT_REQUIRED
        _contexts[identity] = context
    return context


def client_context(plan: TlsClientPlan) -> ssl.SSLContext:
    """The context for connecting; the server's name is not part of it, and with `names` it leaves looking for one to `ClientTls`. Errors: TlsError."""
    identity = b"c" + msgspec.msgpack.encode(msgspec.structs.replace(plan, server_name="", names=plan.names[:1]))
    context = _contexts.get(identity)
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        if not (plan.verify and plan.verify_host) or plan.names:
            context.check_hostname = False
        if not plan.verify:
            context.verify_mode = ssl.CERT_NONE
        elif plan.ca:
            _load_ca(context, plan.ca, "the CA")
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if plan.alpn:
            try:
                context.set_alpn_protocols(plan.alpn)
            except ssl.SSLError:
                raise TlsError("an ALPN protocol has 1 to 255 octets") from None
        if plan.cert:
            _load_pair(context, plan.cert, plan.key)
        elif plan.key:
            raise TlsError("a key without its certificate")
        _contexts[identity] = context
    return context


def _load_ca(context: ssl.SSLContext, pem: str, what: str) -> None:
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(f"{what} is not usable: {_reason(error)}") from None


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    def no_password() -> str:
        raise TlsError("the key is encrypted; agw takes keys without a pass phrase")

    with _memory_file(cert) as cert_path, _memory_file(key) as key_path:
        try:
            context.load_cert_chain(cert_path, key_path if key else None, no_password)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"the certificate and its key are not usable: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    if isinstance(error, ssl.SSLError):
        return reason.lower().replace("_", " ") if reason else "no PEM text of the right kind"
    return str(error)


@contextmanager
def _memory_file(text: str) -> Iterator[str]:
    """The path of a file that exists in memory only, for as long as the block runs."""
    descriptor = os.memfd_create("agw-pem", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
