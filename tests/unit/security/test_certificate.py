"""`source`: the address and the certificate of a connection, and the principal that a certificate names."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from agw.security import certificate, source, x509_identity
from agw.security.contract import Found
from tests.kits.tokens import Asked, Host, key_of

END = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)
CA = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Clients CA")])


def der(*names: x509.GeneralName, subject: str = "agent", serial: int = 7) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = x509.CertificateBuilder(CA, who, key.public_key(), serial, END - datetime.timedelta(days=1), END)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def looked_at(cert: bytes | None, before: Found | None = None) -> Found:
    found = before or Found()
    request = Asked(certificate=cert)
    assert source.factory(None, Host()).check(request, found) is None
    assert certificate.factory(None, Host()).check(request, found) is None
    return found


def test_everything_of_a_certificate() -> None:
    address = x509.IPAddress(ipaddress.ip_address("192.0.2.9"))
    cert = der(uri("spiffe://example.org/ns/a/sa/b"), x509.DNSName("a.example"), address, x509.RFC822Name("a@b.example"))
    found = looked_at(cert)
    assert found.claims["source"] == {
        "address": "192.0.2.1",
        "issuer": "CN=Clients CA",
        "subject": "CN=agent,O=Example",
        "subjectCn": "agent",
        "subjectAltNames": ["spiffe://example.org/ns/a/sa/b", "a.example", "192.0.2.9", "a@b.example"],
        "spiffeId": "spiffe://example.org/ns/a/sa/b",
    }
    assert found.key() == key_of("spiffe", "spiffe://example.org/ns/a/sa/b")
    assert found.expires == END.timestamp()
    assert found.log_fields == b',"source.spiffeId":"spiffe://example.org/ns/a/sa/b"'


def test_what_depends_on_the_certificate_is_not_remembered_by_headers() -> None:
    assert looked_at(der()).lasting is False
    assert looked_at(None).lasting is True


def test_names_without_spiffe() -> None:
    assert looked_at(der()).key() == key_of("certificate", "CN=Clients CA", "CN=agent,O=Example")
    assert looked_at(der(x509.DNSName("a.example"), subject="")).key() == key_of("certificate-serial", "CN=Clients CA", "7")
    assert looked_at(der(subject="a")).key() != looked_at(der(subject="b")).key()


@pytest.mark.parametrize(
    "names",
    [[uri("spiffe://a/b"), uri("spiffe://a/c")], [uri("spiffe://a/b"), uri("https://a")], [uri("https://a/spiffe://a/b")], [uri("spiffe://A/b")], [uri("spiffe://a//b")],
     [uri("spiffe://a/b?c")], [uri("spiffe:///b")], [x509.DNSName("spiffe://a/b")]],
)  # fmt: skip
def test_what_is_no_spiffe_id(names: list[x509.GeneralName]) -> None:
    found = looked_at(der(*names))
    assert found.claims["source"]["spiffeId"] == ""
    assert found.key() == key_of("certificate", "CN=Clients CA", "CN=agent,O=Example")


def test_who_is_named_already_is_not_named_again() -> None:
    before = Found()
    before.name("jwt", "i", "alice")
    found = looked_at(der(), before)
    assert found.key() == key_of("jwt", "i", "alice")
    assert found.claims["source"]["subjectCn"] == "agent"


def test_nobody() -> None:
    found = looked_at(None)
    assert (found.claims, found.key()) == ({"source": {"address": "192.0.2.1"}}, b"")


@pytest.mark.parametrize("octets", [b"", b"x", der()[:-1], b"\x30" * 70_000])
def test_octets_that_are_no_certificate(octets: bytes) -> None:
    found = looked_at(octets)
    assert (found.claims, found.key()) == ({"source": {"address": "192.0.2.1"}}, b"")


def test_certificates_are_read_once_and_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    one = der(subject="once")
    first = x509_identity.read_certificate(one)
    assert x509_identity.read_certificate(one) is first
    assert x509_identity._kept._limit == x509_identity.MAX_KEPT


def test_claims_belong_to_the_request() -> None:
    cert = der(x509.DNSName("a.example"), subject="fresh")
    looked_at(cert).claims["source"]["subjectAltNames"].append("root")
    assert looked_at(cert).claims["source"]["subjectAltNames"] == ["a.example"]


@pytest.mark.parametrize(
    ("peer", "address"),
    [(b"192.0.2.1", "192.0.2.1"), (b"::ffff:192.0.2.1", "192.0.2.1"), (b"2001:DB8::1", "2001:db8::1"), (b"fe80::1%eth0", "fe80::1"), (b"", ""),
     (b"@socket", ""), (b"\xff", ""), (b"unix", "")],
)  # fmt: skip
def test_addresses(peer: bytes, address: str) -> None:
    assert source.address_of(peer) == address
