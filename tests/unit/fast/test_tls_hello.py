"""The name in a ClientHello, and which context a name gets."""

from __future__ import annotations

import itertools
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.tls import ClientTls, ServerTls, hello_name


def hello(name: str | None, alpn: int = 0, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """A ClientHello as OpenSSL makes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = version
    if alpn:
        context.set_alpn_protocols([f"{'p' * 200}{i}" for i in range(alpn)])
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def in_records(message: bytes, *cuts: int) -> bytes:
    """The same handshake message in several records."""
    payload = message[5:]
    parts = [payload[start:end] for start, end in itertools.pairwise([0, *cuts, len(payload)])]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["a.test", "UPPER.Example.COM", "x" * 63 + ".test", "xn--bcher-kva.example"])
def test_names_are_found(name: str, version: ssl.TLSVersion) -> None:
    assert hello_name(hello(name, version=version)) == name.lower().encode()


def test_who_gives_no_name() -> None:
    assert hello_name(hello(None)) == b""
    assert hello_name(hello("127.0.0.1")) == b""


def test_every_prefix_needs_more() -> None:
    octets = hello("a.test")
    for i in range(len(octets)):
        assert hello_name(octets[:i]) is None, i
    assert hello_name(octets + b"surplus") == b"a.test"


def test_messages_may_be_cut_by_records() -> None:
    octets = hello("a.test")
    for cut in (1, 3, 4, 5, 40, 100):
        cutup = in_records(octets, cut)
        assert hello_name(cutup) == b"a.test"
        assert hello_name(cutup[:-1]) is None
    assert hello_name(in_records(octets, 1, 2, 3, 4, 5, 6, 7)) == b"a.test"
    assert hello_name(in_records(octets, 1, 2, 3, 4, 5, 6, 7, 8)) == b"", "nine records are nobody's ClientHello"


def test_large_hellos() -> None:
    octets = hello("a.test", alpn=60)
    assert len(octets) > 12_000
    assert hello_name(octets) == b"a.test"
    assert hello_name(octets[:-1]) is None


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x02\x01\x00\x10",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    ],
)
def test_what_is_no_hello_is_for_openssl(octets: bytes) -> None:
    assert hello_name(octets) == b""


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_hellos_end_in_some_answer(data: st.DataObject) -> None:
    """No octet anywhere may lead outside the message; run under ASan by `make fuzz` builds as well."""
    octets = bytearray(hello("victim.test"))
    for _ in range(data.draw(st.integers(1, 8))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    name = hello_name(bytes(octets[: data.draw(st.integers(0, len(octets)))]))
    assert name is None or len(name) <= 255


@given(st.binary(max_size=600))
def test_any_octets_end_in_some_answer(octets: bytes) -> None:
    for head in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 32):
        name = hello_name(head + octets)
        assert name is None or len(name) <= 255


def contexts(count: int) -> list[ssl.SSLContext]:
    return [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(count)]


def test_contexts_follow_the_most_specific_name() -> None:
    made = contexts(3)
    tls = ServerTls(made, ["", "", ""], [("*.a.test", 1), ("x.a.test", 2), ("", 0)])
    for name, index in (("x.a.test", 2), ("X.A.test", 2), ("y.a.test", 1), ("x.y.a.test", 1), ("a.test", 0), ("", 0), ("other", 0)):
        assert tls.context_for(name) is made[index], name
    assert tls.context_of == [1, 2, 0]


def test_without_a_listener_for_all_the_first_is() -> None:
    made = contexts(2)
    tls = ServerTls(made, ["", ""], [("a.test", 0), ("b.test", 1)])
    assert tls.context_for("c.test") is made[0]
    assert tls.context_for("") is made[0]


@pytest.mark.parametrize(("demands", "listeners"), [([], [("", 0)]), ([""], []), ([""], [("", 1)]), ([""], [("", -1)]), (["", ""], [("", 0)])])
def test_parts_that_do_not_fit(demands: list[object], listeners: list[tuple[str, int]]) -> None:
    with pytest.raises(ValueError):
        ServerTls(contexts(1), demands, listeners)  # type: ignore[arg-type]


def test_client_side() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls = ClientTls(context, "a.test")
    assert (tls.context, tls.server_name) == (context, "a.test")
