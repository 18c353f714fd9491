from __future__ import annotations

import ipaddress
import itertools
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onebackend_proxy.proxy_protocol import (
    MAX_HEADER,
    MAX_V1,
    NO_HEADER,
    BrokenHeader,
    ProxyHeader,
    crc32c,
    read_header,
)

from .properties import OFTEN, PROPERTY

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXIED = 0x20, 0x21
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31
CRC32C = 3


def line(source: str, port: int, destination: str = "", destination_port: int = 443) -> bytes:
    """A header of version 1."""
    kind = "TCP6" if ":" in source else "TCP4"
    destination = destination or ("::1" if kind == "TCP6" else "192.0.2.1")
    return f"PROXY {kind} {source} {destination} {port} {destination_port}\r\n".encode()


def block(command: int, family: int, rest: bytes) -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


def value(kind: int, data: bytes) -> bytes:
    """Something more that a sender says in version 2."""
    return struct.pack("!BH", kind, len(data)) + data


def addresses(source: str, port: int) -> tuple[int, bytes]:
    """The family and the addresses of a client, in version 2."""
    packed = ipaddress.ip_address(source).packed
    return (TCP6 if len(packed) == 16 else TCP4), packed + bytes(len(packed)) + struct.pack("!HH", port, 443)


def named(source: str, port: int, *values: bytes) -> bytes:
    """A header of version 2 that names this client."""
    family, packed = addresses(source, port)
    return block(PROXIED, family, packed + b"".join(values))


def checked(header: bytes) -> bytes:
    """The same with a checksum behind it."""
    size = int.from_bytes(header[14:16], "big") + 7
    header = header[:14] + size.to_bytes(2, "big") + header[16:] + value(CRC32C, bytes(4))
    return header[:-4] + crc32c(header).to_bytes(4, "big")


# What a proxy adds that has looked at the TLS: protocol, name, and more within one.
EXTRAS = (
    value(0x01, b"h2"),
    value(0x02, b"x.test"),
    value(0x04, b""),
    value(0x20, b"\1\0\0\0\0" + value(0x21, b"TLSv1.3")),
)


class TestVersion1:
    def test_who_the_client_is(self):
        header = line("203.0.113.7", 51000)
        assert read_header(header) == ProxyHeader(len(header), ("203.0.113.7", 51000))
        assert read_header(header + b"GET / HTTP/1.1\r\n") == ProxyHeader(len(header), ("203.0.113.7", 51000))

    def test_ipv6_is_written_in_one_form(self):
        header = read_header(line("2001:DB8:0:0:0:0:0:1", 1))
        assert header is not None and header.client == ("2001:db8::1", 1)
        for mapped in ("::ffff:203.0.113.7", "::FFFF:cb00:7107"):
            header = read_header(line(mapped, 1))
            assert header is not None and header.client == ("203.0.113.7", 1)

    @pytest.mark.parametrize("rest", [b"", b" ", b" ffff:: ::1 1 2", b" TCP4 \0 whatever"])
    def test_unknown_names_nobody(self, rest):
        header = b"PROXY UNKNOWN" + rest + b"\r\n"
        assert read_header(header + b"x") == ProxyHeader(len(header))

    def test_the_longest_there_is(self):
        longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        header = b"PROXY UNKNOWN %b %b 65535 65535\r\n" % (longest.encode(), longest.encode())
        assert len(header) == MAX_V1
        assert read_header(header) == ProxyHeader(MAX_V1)

    @pytest.mark.parametrize(
        "header",
        [
            b"PROXY UNKNOWN" + b"x" * MAX_V1,
            b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15) + b"\r\n",
            b"PROXY \r\n",
            b"PROXY  TCP4 203.0.113.7 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2 \r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n\r\n",
            b"PROXY TCP4\t203.0.113.7 192.0.2.1 1 2\r\n",
            b"PROXY tcp4 203.0.113.7 192.0.2.1 1 2\r\n",
            b"PROXY TCP5 203.0.113.7 192.0.2.1 1 2\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY TCP4 2001:db8::1 192.0.2.1 1 2\r\n",
            b"PROXY TCP6 203.0.113.7 ::1 1 2\r\n",
            b"PROXY TCP4 203.0.113.07 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 203.0.113 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 203.0.113.256 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.256 1 2\r\n",
            b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 2\r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 1 65536\r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 01 2\r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 2\r\n",
        ],
    )
    def test_what_is_none(self, header):
        with pytest.raises(BrokenHeader) as caught:
            read_header(header)
        assert "203.0.113" not in str(caught.value)


class TestVersion2:
    def test_who_the_client_is(self):
        header = named("203.0.113.7", 51000)
        assert read_header(header + b"\x16\x03\x01") == ProxyHeader(28, ("203.0.113.7", 51000))
        header = named("2001:db8::1", 65535)
        assert read_header(header) == ProxyHeader(52, ("2001:db8::1", 65535))
        mapped = read_header(named("::ffff:203.0.113.7", 1))
        assert mapped is not None and mapped.client == ("203.0.113.7", 1)

    def test_what_else_it_says_is_skipped(self):
        header = named("203.0.113.7", 51000, *EXTRAS)
        assert read_header(header + b"x") == ProxyHeader(len(header), ("203.0.113.7", 51000))

    @pytest.mark.parametrize("rest", [b"", b"whatever", bytes(12) + b"\3\0\4abcd"])
    def test_local_and_unspecified_name_nobody(self, rest):
        for header in (
            block(LOCAL, 0, rest),
            block(LOCAL, TCP4, rest),
            block(PROXIED, 0, rest),
            block(PROXIED, 0x10, rest),
        ):
            assert read_header(header + b"x") == ProxyHeader(len(header))

    def test_a_unix_socket_is_no_address(self):
        header = block(PROXIED, UNIX, b"/run/x".ljust(216, b"\0"))
        assert read_header(header) == ProxyHeader(len(header))

    def test_a_checksum_must_be_right(self):
        header = checked(named("203.0.113.7", 51000, *EXTRAS))
        assert read_header(header) == ProxyHeader(len(header), ("203.0.113.7", 51000))
        for position in (16, 20, 26, 30, len(header) - 1):
            broken = bytearray(header)
            broken[position] ^= 1
            with pytest.raises(BrokenHeader):
                read_header(bytes(broken))

    def test_a_checksum_has_four_bytes(self):
        """One that would be right as a number, and has five."""
        found = 0
        for port, low in itertools.product(range(8), range(256)):
            crc = crc32c(named("203.0.113.7", port, value(CRC32C, bytes((0, 0, 0, 0, low)))))
            if crc & 255 == low:
                found += 1
                with pytest.raises(BrokenHeader):
                    read_header(named("203.0.113.7", port, value(CRC32C, crc.to_bytes(5, "big"))))
        assert found

    def test_a_known_checksum(self):
        # RFC 3720, B.4.
        assert crc32c(bytes(32)) == int.from_bytes(bytes.fromhex("aa36918a"), "little")
        assert crc32c(bytes(range(32))) == int.from_bytes(bytes.fromhex("4e79dd46"), "little")

    def test_the_longest_that_is_read(self):
        family, packed = addresses("203.0.113.7", 1)
        room = MAX_HEADER - 16 - len(packed) - 3
        longest = block(PROXIED, family, packed + value(4, bytes(room)))
        assert read_header(longest) == ProxyHeader(MAX_HEADER, ("203.0.113.7", 1))
        with pytest.raises(BrokenHeader, match="4096"):
            read_header(block(PROXIED, family, packed + value(4, bytes(room + 1)))[:16])

    @pytest.mark.parametrize(
        "header",
        [
            block(0x11, TCP4, bytes(12)),
            block(0x31, TCP4, bytes(12)),
            block(0x22, TCP4, bytes(12)),
            block(PROXIED, TCP4, bytes(11)),
            block(PROXIED, TCP6, bytes(35)),
            block(PROXIED, UNIX, bytes(215)),
            block(PROXIED, 0x12, bytes(12)),
            block(PROXIED, 0x13, bytes(12)),
            block(PROXIED, 0x41, bytes(12)),
            named("203.0.113.7", 1, b"\4"),
            named("203.0.113.7", 1, b"\4\0"),
            named("203.0.113.7", 1, b"\4\0\1"),
            named("203.0.113.7", 1, value(4, b"x"), b"\4\0\2x"),
            named("203.0.113.7", 1, value(CRC32C, b"")),
            named("203.0.113.7", 1, value(CRC32C, bytes(5))),
        ],
    )
    def test_what_is_none(self, header):
        with pytest.raises(BrokenHeader):
            read_header(header)

    def test_what_cannot_become_one_is_known_at_once(self):
        with pytest.raises(BrokenHeader):
            read_header(SIGNATURE + b"\x11")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXI",
        b"PROXY\r\n",
        b"proxy ",
        b"PROPFIND / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"\r\n\r\nGET / HTTP/1.1\r\n",
        b"\r\n\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\r",
        b"\nPROXY ",
        b" PROXY ",
    ],
)
def test_what_begins_otherwise_is_no_header(data):
    assert read_header(data) is NO_HEADER


@pytest.mark.parametrize("data", [b"", b"P", b"PROXY", b"\r", b"\r\n\r\n", SIGNATURE[:-1]])
def test_what_cannot_be_told_yet(data):
    assert read_header(data) is None


_ports = st.integers(0, 65535)
_clients = st.tuples(st.ip_addresses().filter(lambda each: not getattr(each, "ipv4_mapped", None)), _ports)
_values = st.lists(
    st.builds(value, st.sampled_from([1, 2, 4, 5, 0x20, 0x30, 0xEA]), st.binary(max_size=40)), max_size=4
)


@OFTEN
@given(_clients, _values, st.sampled_from(["1", "2", "checked"]), st.binary(max_size=20))
def test_what_is_written_is_read_and_nothing_behind_it(client, values, version, behind):
    source, port = str(client[0]), client[1]
    if version == "1":
        header = line(source, port)
    else:
        header = named(source, port, *values)
        header = checked(header) if version == "checked" else header
    assert read_header(header + behind) == ProxyHeader(len(header), (source, port))
    for size in range(len(header)):
        assert read_header(header[:size]) is None


@PROPERTY
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=60).map(lambda data: b"PROXY " + data + b"\r\n"),
        st.binary(max_size=60).map(lambda data: SIGNATURE + data),
        st.tuples(st.sampled_from([LOCAL, PROXIED]), st.integers(0, 255), st.binary(max_size=60)).map(
            lambda parts: block(*parts)
        ),
    ),
)
@example(SIGNATURE + b"\x21\x11\xff\xff")
def test_any_bytes_are_read_or_refused_however_they_come(data):
    """Once it is told it stays so, whatever comes behind."""
    told: object = None
    for size in range(len(data) + 1):
        try:
            found: object = read_header(data[:size])
        except BrokenHeader:
            found = BrokenHeader
        if told is not None:
            assert found == told
        told = found
        if isinstance(found, ProxyHeader):
            assert found.size <= size
            if found.client is not None:
                ipaddress.ip_address(found.client[0])
    assert told is not None or len(data) < MAX_HEADER
