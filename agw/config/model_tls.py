"""TLS of listeners and towards backends. See `agw.config.model` for the rules all model files keep.

Certificates and keys are file names; the loader reads them (`agw.config.tls`), nothing is opened at run time.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from agw.config.modelling import Model, about

TlsVersion = Literal["TLS_V1_2", "TLS_V1_3"]


class ServerTls(Model, frozen=True):
    """The certificate of a listener."""

    cert: Annotated[str | None, about("File with the certificate chain in PEM form, leaf first.")] = None
    key: Annotated[str | None, about("File with the private key in PEM form, without passphrase.")] = None
    root: Annotated[str | None, about("File with CA certificates; clients must then show a certificate they signed.")] = None
    mode: Annotated[Literal["static"], about("Where the leaf certificate comes from.")] = "static"
    min_version: Annotated[TlsVersion | None, about("Oldest TLS version; TLS_V1_2 by default.")] = msgspec.field(default=None, name="minTLSVersion")
    min_version_camel: Annotated[TlsVersion | None, about("The same as minTLSVersion.")] = msgspec.field(default=None, name="minTlsVersion")
    max_version: Annotated[TlsVersion | None, about("Newest TLS version; the newest there is by default.")] = msgspec.field(default=None, name="maxTLSVersion")
    max_version_camel: Annotated[TlsVersion | None, about("The same as maxTLSVersion.")] = msgspec.field(default=None, name="maxTlsVersion")


class BackendTls(Model, frozen=True):
    """TLS towards a backend; `{}` verifies with the CA certificates of the system."""

    root: Annotated[str | None, about("File with CA certificates to verify with, instead of the system's.")] = None
    cert: Annotated[str | None, about("File with a client certificate chain in PEM form.")] = None
    key: Annotated[str | None, about("File with its private key in PEM form, without passphrase.")] = None
    hostname: Annotated[str | None, about("Name to send as SNI and to look for in the certificate; the host's by default.")] = None
    insecure: Annotated[bool, about("Accept any certificate.")] = False
    insecure_host: Annotated[bool, about("Accept a trusted certificate of another host.")] = False
    subject_alt_names: Annotated[
        list[str] | None, about("Further names the certificate may bear instead: host names, addresses, URIs such as spiffe://td/sa.")
    ] = None
    alpn: Annotated[list[str] | None, about("Protocols to offer; http/1.1 by default.")] = None
