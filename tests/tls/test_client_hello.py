"""What a client says first: real ones of every kind, in any pieces, mutated, and garbage."""

from __future__ import annotations

import itertools
import ssl
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from OpenSSL import SSL

from onebackend_proxy.tls.client_hello import (
    DECODE_ERROR,
    MAX_HELLO,
    MAX_RECORDS,
    UNEXPECTED_MESSAGE,
    UNRECOGNIZED_NAME,
    BadHello,
    ClientHello,
    alert_bytes,
    read_client_hello,
)

from ..properties import OFTEN, PROPERTY


def said(name=None, alpn=(), lowest=None, highest=None, ciphers=None):
    """What Python's ssl says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if lowest:
        context.minimum_version = lowest
    if highest:
        context.maximum_version = highest
    if ciphers:
        context.set_ciphers(ciphers)
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def said_by_openssl(name):
    """What pyOpenSSL says first: it takes any bytes for a name."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client = SSL.Connection(context)
    client.set_tlsext_host_name(name)
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(1 << 16)


TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
REAL = {
    "plain": (said("x.com"), ClientHello("x.com", ())),
    "1.2": (said("x.com", highest=TLS12), ClientHello("x.com", ())),
    "1.3 only": (said("x.com", lowest=TLS13), ClientHello("x.com", ())),
    "one cipher": (
        said("x.com", highest=TLS12, ciphers="ECDHE-RSA-AES128-GCM-SHA256"),
        ClientHello("x.com", ()),
    ),
    "no name": (said(), ClientHello("", ())),
    # ssl sends no server_name for an address, as RFC 6066 has it.
    "address": (said("192.0.2.7"), ClientHello("", ())),
    "alpn": (said("x.com", ["h2", "http/1.1"]), ClientHello("x.com", (b"h2", b"http/1.1"))),
    "alpn only": (said(None, ["acme-tls/1"]), ClientHello("", (b"acme-tls/1",))),
    "many protocols": (
        said("x.com", [f"p{number}" for number in range(500)]),
        ClientHello("x.com", tuple(b"p%d" % number for number in range(500))),
    ),
    "upper case": (said_by_openssl(b"X.CoM"), ClientHello("x.com", ())),
    "international": (said("b\u00fccher.example"), ClientHello("xn--bcher-kva.example", ())),
    "longest name": (said(".".join(["a" * 62] * 4)), ClientHello(".".join(["a" * 62] * 4), ())),
    "address as a name": (said_by_openssl(b"192.0.2.7"), ClientHello("192.0.2.7", ())),
}


def handshake_of(data):
    """The handshake message in one record."""
    assert data[:1] == b"\x16" and int.from_bytes(data[3:5], "big") == len(data) - 5
    return data[5:]


def in_records(message, sizes):
    """The same message in records of these sizes, which repeat."""
    data, position, each = b"", 0, itertools.cycle(sizes)
    while position < len(message):
        piece = message[position : position + next(each)]
        data += b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
        position += len(piece)
    return data


def hello(extensions=b"", session=b"", ciphers=b"\x13\x01", compression=b"\0", more=b"", whole=True):
    """A hand-made ClientHello in one record."""
    body = b"\x03\x03" + b"r" * 32 + bytes((len(session),)) + session
    body += len(ciphers).to_bytes(2, "big") + ciphers + bytes((len(compression),)) + compression
    if whole:
        body += len(extensions).to_bytes(2, "big") + extensions
    body += more
    return in_records(b"\x01" + len(body).to_bytes(3, "big") + body, [1 << 14])


def extension(kind, data):
    return kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def server_name(name, kind=0):
    entry = bytes((kind,)) + len(name).to_bytes(2, "big") + name
    return extension(0, len(entry).to_bytes(2, "big") + entry)


def alpn(*names):
    entries = b"".join(bytes((len(name),)) + name for name in names)
    return extension(16, len(entries).to_bytes(2, "big") + entries)


def alert_for(data):
    """The alert that answers it, None where it is no error."""
    try:
        read_client_hello(data)
    except BadHello as error:
        assert str(error)
        return error.alert
    return None


@pytest.mark.parametrize("data, wanted", REAL.values(), ids=REAL)
def test_real_ones(data, wanted):
    assert read_client_hello(data) == wanted
    # Early data, say, may follow.
    assert read_client_hello(data + b"\x14\x03\x03\x00\x01\x01") == wanted


@pytest.mark.parametrize("data, wanted", REAL.values(), ids=REAL)
def test_no_part_of_one_is_taken_for_the_whole_or_refused(data, wanted):
    assert {read_client_hello(data[:size]) for size in range(len(data))} == {None}


@PROPERTY
@given(st.sampled_from(list(REAL.values())), st.lists(st.integers(100, 5000), min_size=1, max_size=5))
def test_one_may_come_in_several_records(real, sizes):
    data, wanted = real
    split = in_records(handshake_of(data), sizes)
    if len(split) - len(data) <= 5 * (MAX_RECORDS - 1):
        assert read_client_hello(split) == wanted
        assert {read_client_hello(split[:size]) for size in range(0, len(split), 7)} <= {None, wanted}


def test_records_may_be_tiny_but_not_too_many():
    message = handshake_of(hello(server_name(b"x.com")))
    assert read_client_hello(in_records(message, [1, 1, 1, 1, len(message)])) == ClientHello("x.com", ())
    assert alert_for(in_records(message, [1])) == DECODE_ERROR


@OFTEN
@given(
    st.sampled_from(list(REAL.values())),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 1 << 16),
)
def test_a_mutated_one_is_one_or_none_or_refused(real, changes, size):
    data = bytearray(real[0])
    for position, value in changes:
        data[position % len(data)] = value
    for piece in (bytes(data), bytes(data[: size % len(data)]), bytes(data) + bytes(data)):
        try:
            found = read_client_hello(piece)
        except BadHello as error:
            assert len(alert_bytes(error.alert)) == 7
        else:
            assert found is None or (len(found.server_name) <= 253 and found.server_name.isascii())


@OFTEN
@example(b"")
@example(b"\x16")
@example(b"\x16\x03\x01\x00\x00")
@given(st.binary(max_size=600) | st.binary(max_size=600).map(lambda data: b"\x16\x03\x01\x02\x00\x01" + data))
def test_garbage_is_refused_or_more_of_it_is_waited_for(data):
    try:
        found = read_client_hello(data)
    except BadHello:
        return
    assert found is not None or data[:2] in (b"", b"\x16", b"\x16\x03")


@PROPERTY
@given(st.binary(max_size=200))
def test_what_is_refused_stays_refused(more):
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x00", b"\x15\x03\x01\x00\x02\x01\x00"):
        assert alert_for(data + more) == alert_for(data) is not None


@pytest.mark.parametrize(
    "data, alert",
    [
        (b"GET / HTTP/1.1\r\n", UNEXPECTED_MESSAGE),
        (b"\x80\x2e\x01\x03\x01", UNEXPECTED_MESSAGE),  # SSL 2
        (b"\x16\x02", UNEXPECTED_MESSAGE),
        (b"\x15\x03\x01\x00\x02\x01\x00", UNEXPECTED_MESSAGE),
        (b"\x16\x03\x01\x00\x04\x02", UNEXPECTED_MESSAGE),  # a ServerHello
        (b"\x16\x03\x01\x00\x00", DECODE_ERROR),
        (b"\x16\x03\x01\xff\xff", DECODE_ERROR),
        (b"\x16\x03\x01\x00\x10\x01\xff\xff\xff", DECODE_ERROR),
        # An alert between two parts of it.
        (in_records(handshake_of(REAL["plain"][0])[:50], [50]) + b"\x15\x03\x01", UNEXPECTED_MESSAGE),
    ],
)
def test_what_is_no_hello_is_refused_as_soon_as_that_is_known(data, alert):
    assert alert_for(data) == alert


@pytest.mark.parametrize(
    "extensions, more",
    [
        (b"\0", b""),
        (b"\0\0\0", b""),
        (b"\0\0\0\x09abc", b""),
        (extension(0, b""), b""),
        (extension(0, b"\0\x01\0"), b""),
        (extension(0, b"\0\x03\0\0\0"), b""),
        (extension(0, b"\0\x08\0\0\x03x.com"), b""),
        (server_name(b"x.com", kind=1), b""),
        (extension(0, server_name(b"x.com")[4:] + b"more"), b""),
        (extension(16, b""), b""),
        (extension(16, b"\0\x05\x02h"), b""),
        (extension(16, b"\0\x03\x09h2"), b""),
        (alpn(b"h2", b""), b""),
        (b"", b"more"),
    ],
)
def test_lengths_that_do_not_agree(extensions, more):
    assert alert_for(hello(extensions, more=more)) == DECODE_ERROR


@pytest.mark.parametrize("cut", range(1, 41))
def test_a_message_that_ends_too_early(cut):
    message = handshake_of(hello(whole=False))
    body = message[4:-cut]
    short = in_records(b"\x01" + len(body).to_bytes(3, "big") + body, [1 << 14])
    assert alert_for(short) == DECODE_ERROR


def test_without_extensions():
    assert read_client_hello(hello(whole=False)) == ClientHello("", ())
    assert read_client_hello(hello()) == ClientHello("", ())


@pytest.mark.parametrize(
    "name", [b"-x.com", b"x..com", b"a b", b"x.com\0.evil.com", b"\xff\xfe", b"1.2.3", b".", b"a/b", b"x:443"]
)
def test_a_name_that_is_none_is_an_unknown_one(name):
    assert alert_for(hello(server_name(name))) == UNRECOGNIZED_NAME


@pytest.mark.parametrize("name", [b"x.com.", b"X.COM", b"x.com"])
def test_a_name_is_canonical(name):
    assert read_client_hello(hello(server_name(name))) == ClientHello("x.com", ())


@pytest.mark.parametrize("size", [1000, 8000, MAX_HELLO - 200])
def test_long_keys(size):
    """As post-quantum ones are, and longer."""
    data = hello(extension(51, b"k" * size) + server_name(b"x.com") + alpn(b"h2"))
    assert read_client_hello(data) == ClientHello("x.com", (b"h2",))
    assert read_client_hello(data[:-1]) is None


def test_the_size_is_bounded():
    body = b"\x03\x03" + b"r" * 40_000
    data = in_records(b"\x01" + len(body).to_bytes(3, "big") + body, [4000])
    assert alert_for(data[:2000]) == DECODE_ERROR
    # One whose length is allowed, and that comes in records whose heads make it too long.
    message = handshake_of(hello(extension(51, b"k" * (MAX_HELLO - 100))))
    data = in_records(message, [len(message) // (MAX_RECORDS - 1)])
    assert len(data) > MAX_HELLO and alert_for(data[:MAX_HELLO]) == DECODE_ERROR


@pytest.mark.parametrize("names", [[b"a"] * 7000, [b"a" * 255] * 60], ids=["many", "long"])
def test_the_time_is_linear(names):
    """The longest that there are take little: each is looked at once for each piece of it that comes."""
    data = hello(alpn(*names))
    began = time.process_time()
    for _ in range(10):
        assert read_client_hello(data) == ClientHello("", tuple(names))
    assert (time.process_time() - began) / 10 < 0.05


def test_alerts_are_records_of_their_own():
    assert alert_bytes(UNRECOGNIZED_NAME) == bytes.fromhex("15 03 03 00 02 02 70")
