from __future__ import annotations

import base64
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.headers import ip_of
from onebackend_proxy.messages import field_lines
from onebackend_proxy.policies.access import (
    MAX_CREDENTIALS,
    MAX_KNOWN,
    AddressRules,
    authorization,
    basic_credentials,
    without_authorization,
)

from ..properties import OFTEN, PROPERTY


class TestAddressRules:
    def test_without_rules_everyone_comes_in(self):
        rules = AddressRules((), ())
        for ip in (b"192.0.2.1", b"2001:db8::1", b"unix:", b"nonsense"):
            assert rules.admits(ip)

    def test_allow_is_for_nobody_else(self):
        rules = AddressRules(("10.0.0.0/8", "127.0.0.1", "2001:db8::/32"), ())
        for ip in (b"10.255.255.255", b"10.0.0.0", b"127.0.0.1", b"2001:db8:ffff::1"):
            assert rules.admits(ip)
        for ip in (b"11.0.0.0", b"9.255.255.255", b"127.0.0.2", b"2001:db9::", b"::1", b"unix:", b""):
            assert not rules.admits(ip)

    def test_deny_goes_first(self):
        rules = AddressRules(("10.0.0.0/8",), ("10.6.6.6", "10.7.0.0/16"))
        assert rules.admits(b"10.6.6.7")
        assert not rules.admits(b"10.6.6.6")
        assert not rules.admits(b"10.7.1.2")

    def test_deny_alone_admits_all_others(self):
        rules = AddressRules((), ("10.0.0.0/8",))
        for ip in (b"192.0.2.1", b"::1", b"unix:"):
            assert rules.admits(ip)
        assert not rules.admits(b"10.1.2.3")

    def test_mapped_addresses_are_ipv4(self):
        rules = AddressRules((), ("10.0.0.0/8",))
        for ip in (b"10.1.2.3", b"::ffff:10.1.2.3", b"::ffff:a01:203", b"0:0:0:0:0:FFFF:10.1.2.3"):
            assert not rules.admits(ip)
        assert rules.admits(b"::10.1.2.3")

    def test_each_version_has_its_own_everything(self):
        assert not AddressRules((), ("0.0.0.0/0",)).admits(b"192.0.2.1")
        assert AddressRules((), ("0.0.0.0/0",)).admits(b"::1")
        assert not AddressRules((), ("::/0",)).admits(b"::1")
        assert AddressRules((), ("::/0",)).admits(b"192.0.2.1")

    @pytest.mark.parametrize(
        "ip", [b"10.0.0.1%eth0", b"fe80::1%10.0.0.1", b"010.0.0.1", b"10.1", b"\xff", b"10.0.0.1 "]
    )
    def test_what_is_no_address_is_in_no_network(self, ip):
        assert not AddressRules(("0.0.0.0/0", "::/0"), ()).admits(ip)

    @pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10.0.0.1/8", "example.com", "10.0.0.0/8 "])
    def test_what_is_no_network_is_an_error(self, text):
        with pytest.raises(ValueError):
            AddressRules((text,), ())

    def test_what_is_remembered_is_bounded(self):
        rules = AddressRules(("10.0.0.0/8",), ())
        for number in range(3 * MAX_KNOWN):
            assert rules.admits(str(ipaddress.IPv4Address(0x0A000000 + number)).encode())
        assert len(rules._known) <= MAX_KNOWN

    def test_it_tells_itself(self):
        assert repr(AddressRules((), ("10.0.0.1", "::1"))) == "<AddressRules allow all, deny 2>"
        assert repr(AddressRules(("10.0.0.1",), ())) == "<AddressRules allow 1, deny 0>"


def _addresses():
    # Few bits, so that networks and addresses meet.
    v4 = st.integers(0, 15).map(lambda n: ipaddress.IPv4Address(0x0A000000 + n))
    v6 = st.integers(0, 15).map(lambda n: ipaddress.IPv6Address((0x20010DB8 << 96) + n))
    return st.one_of(v4, v6)


@st.composite
def _networks(draw):
    address = draw(_addresses())
    length = address.max_prefixlen - draw(st.integers(0, 5))
    return ipaddress.ip_network(
        (int(address), length) if address.version == 6 else f"{address}/{length}", strict=False
    )


@OFTEN
@given(
    st.lists(_networks(), max_size=4), st.lists(_networks(), max_size=4), st.lists(_addresses(), min_size=1)
)
def test_it_decides_as_the_plain_definition_does(allow, deny, asked):
    rules = AddressRules([str(each) for each in allow], [str(each) for each in deny])
    for address in asked:
        within = any(address in network for network in allow)
        expected = not any(address in network for network in deny) and (within or not allow)
        for _again in range(2):
            assert rules.admits(str(address).encode()) == expected


@PROPERTY
@given(st.one_of(st.binary(max_size=40), st.text("0123456789abcdef:.%", max_size=40).map(str.encode)))
def test_any_bytes_are_an_address_or_none(text):
    address = ip_of(text)
    if address is not None:
        assert ip_of(str(address).encode()) == address


def _field(text: str | bytes, scheme: bytes = b"Basic ") -> tuple[bytes, bytes]:
    data = text if isinstance(text, bytes) else text.encode()
    return b"Authorization", scheme + base64.b64encode(data)


class TestWithoutAuthorization:
    @pytest.mark.parametrize("name", [b"Authorization", b"authorization"])
    @pytest.mark.parametrize("at", range(4))
    def test_nothing_else_goes(self, name, at):
        others = [(b"X-Authorization", b"Basic eA=="), (b"Accept", b"authorization: Basic eA=="), (b"X", b"")]
        headers = [*others[:at], (name, b"Basic eA=="), *others[at:]]
        ours = b"X-Real-IP: 192.0.2.1\r\n"
        found = without_authorization(headers, field_lines(headers) + ours)
        assert found == (others, field_lines(others) + ours)
        assert headers[at][0] == name

    def test_where_it_is_not(self):
        for headers, lines in (([], b"A: b\r\n"), ([(b"Authorization", b"x")], b"X-Authorization: x\r\n")):
            with pytest.raises(ValueError):
                without_authorization(headers, lines)


class TestCredentials:
    @pytest.mark.parametrize("name", [b"Authorization", b"authorization", b"AUTHORIZATION"])
    @pytest.mark.parametrize("scheme", [b"Basic ", b"basic ", b"BASIC  "])
    def test_in_any_case(self, name, scheme):
        headers = [(b"Accept", b"*/*"), (name, _field("ada:secret", scheme)[1])]
        assert basic_credentials(headers) == ("ada", "secret")

    def test_a_password_may_have_colons_and_any_letters(self):
        assert basic_credentials([_field("ada:a:b:")]) == ("ada", "a:b:")
        assert basic_credentials([_field("ädä:käse")]) == ("ädä", "käse")
        assert basic_credentials([_field("ädä:käse".encode("latin-1"))]) == ("ädä", "käse")
        assert basic_credentials([_field(":")]) == ("", "")

    def test_two_fields_are_none(self):
        both = [_field("ada:secret"), (b"authorization", b"Bearer x")]
        assert authorization(both) is None
        assert basic_credentials(both) is None
        assert basic_credentials([_field("ada:secret")] * 2) is None
        assert basic_credentials([]) is None

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"Basic",
            b"Basic ",
            b"Bearer YWRhOnNlY3JldA==",
            b"BasicYWRhOnNlY3JldA==",
            b"Basic\tYWRhOnNlY3JldA==",
            b"Basic YWRhOnNlY3JldA",
            b"Basic YWRhOnNlY3JldA==x",
            b"Basic YWRhOnNlY3JldA== ==",
            b"Basic YWRh OnNlY3JldA==",
            b"Basic YWRh-nNlY3JldA==",
            b"Basic ada:secret",
            b"Basic YWRh",
            b"Basic " + base64.b64encode(b"ada:se\0cret"),
            b"Basic " + base64.b64encode(b"a\nda:secret"),
            b"Basic " + base64.b64encode(b"a\x9bda:\xffsecret"),
            b"Basic " + base64.b64encode(b"ada:\x7f"),
            b"Basic " + base64.b64encode(b"ada:" + b"x" * MAX_CREDENTIALS),
        ],
    )
    def test_what_cannot_be_read_is_nobodys(self, value):
        assert basic_credentials([(b"Authorization", value)]) is None

    @PROPERTY
    @given(
        st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=":"), max_size=40),
        st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40),
    )
    def test_what_is_written_is_read(self, user, password):
        assert basic_credentials([_field(f"{user}:{password}")]) == (user, password)

    @OFTEN
    @given(
        st.one_of(
            st.binary(max_size=60),
            st.binary(max_size=40).map(lambda data: b"Basic " + base64.b64encode(data)),
        )
    )
    def test_any_value_is_read_or_refused(self, value):
        found = basic_credentials([(b"Authorization", value)])
        if found is not None:
            assert ":" not in found[0]
            assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in "".join(found))
