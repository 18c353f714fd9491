from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onebackend_proxy.addresses import (
    MAX_URL,
    Address,
    auth_target,
    bracketed,
    canonical_host,
    check_redirect_target,
    check_target,
    is_slug,
    parse_instance_url,
    parse_target,
    service_of,
    without_port,
)

from .properties import OFTEN, PROPERTY

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,8}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: not name[-1].isdigit())
HOST = NAME | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda ip: ip.compressed)
PATH = st.from_regex(r"(/[A-Za-z0-9._~%:@;=-]{0,6}){0,4}", fullmatch=True)
# Characters that mean something to one parser of URLs or another.
URLISH = st.text(
    st.sampled_from("htps:/@[]%?#.\\ \t\r\n\0a1-_*\u00e9\uff0e\uff0f\u3002\u2100\uff11\ud800"), max_size=24
)


@pytest.mark.parametrize("slug", ["a", "user-svc", "1backend", "a-1-b", "0", "x" * 64])
def test_slugs(slug):
    assert is_slug(slug)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "a-",
        "-a",
        "a--b",
        "A",
        "a_b",
        "a.b",
        "..",
        "../x",
        "a/b",
        "a\n",
        "\u0661",
        "\uff41",
        "a\0",
        "x" * 65,
    ],
)
def test_what_is_no_slug(text):
    assert not is_slug(text)


@pytest.mark.parametrize(
    "text, host",
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        (" example.com ", "example.com"),
        ("localhost", "localhost"),
        ("_dmarc.a_b.x", "_dmarc.a_b.x"),
        ("127.0.0.1", "127.0.0.1"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[2001:DB8:0:0::1]", "2001:db8::1"),
        ("[::ffff:1.2.3.4]", "::ffff:102:304"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        ("\u65e5\u672c\u3002jp", "xn--wgv71a.jp"),
        ("a" * 63, "a" * 63),
    ],
)
def test_canonical_hosts(text, host):
    assert canonical_host(text) == host


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the host is empty"),
        (" ", "the host is empty"),
        (".", "the host is empty"),
        ("..", "not a host name"),
        ("a..", "not a host name"),
        ("a.. ", "not a host name"),
        ("a..b", "not a host name"),
        (".a", "not a host name"),
        ("-a.com", "not a host name"),
        ("a-.com", "not a host name"),
        ("a b", "not a host name"),
        ("a:80", "not a host name"),
        ("a/b", "not a host name"),
        ("a@b", "not a host name"),
        ("a%2eb", "not a host name"),
        ("a\0", "not a host name"),
        ("a\r\nb", "not a host name"),
        ("*.a", "not a host name"),
        ("::1", "not a host name"),
        ("a" * 64, "not a host name"),
        (".".join(["a" * 60] * 5), "not a host name"),
        ("\u3002", "not a host name"),
        ("\u00e9\u3002", "not a host name"),
        ("\u2100.com", "not a host name"),
        ("\ud800.com", "not a host name"),
        ("999.1.1.1", "not an IPv4 address"),
        ("010.0.0.1", "not an IPv4 address"),
        ("1", "not an IPv4 address"),
        ("1.2.3", "not an IPv4 address"),
        ("a.1", "not an IPv4 address"),
        ("[", "not a host name"),
        ("[]", "not an IPv6 address"),
        ("[1.2.3.4]", "not an IPv6 address"),
        ("[v1.a]", "not an IPv6 address"),
        ("[a.com]", "not an IPv6 address"),
        ("[::1%eth0]", "not an IPv6 address"),
        ("[::1%\r\nX-Evil: 1]", "not an IPv6 address"),
        ("[::\uff11]", "not an IPv6 address"),
        ("[1:2:3:4:5:6:7:8:9]", "not an IPv6 address"),
    ],
)
def test_what_is_no_host(text, message):
    with pytest.raises(ValueError, match=message):
        canonical_host(text)


@OFTEN
@given(st.text(max_size=40) | URLISH | HOST | HOST.map(bracketed))
def test_a_host_is_canonical_once_and_for_all(text):
    try:
        host = canonical_host(text)
    except ValueError:
        return
    assert canonical_host(bracketed(host)) == host
    assert host.isascii() and host == host.lower() and not host.endswith(".")
    assert not set(host) & set("[]/@% \t\r\n\0?#\\")


@pytest.mark.parametrize(
    "text, host",
    [
        ("a", "a"),
        ("a:", "a"),
        ("a:65535", "a"),
        ("a:000065535", "a"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]"),
        ("a:x", "a:x"),
        ("a:\u0668", "a:\u0668"),
    ],
)
def test_what_stands_before_a_port(text, host):
    assert without_port(text) == host


@pytest.mark.parametrize("text", ["a:65536", "a:99999", "[::1]:70000", "a:" + "9" * 5000])
def test_a_port_there_is_not(text):
    with pytest.raises(ValueError, match="has a port over 65535"):
        without_port(text)


@pytest.mark.parametrize(
    "url, address",
    [
        ("http://a", Address("http", "a", 80)),
        ("https://a", Address("https", "a", 443)),
        ("HTTP://A.b:8080/", Address("http", "a.b", 8080)),
        ("http://a:", Address("http", "a", 80)),
        ("http://a:080", Address("http", "a", 80)),
        ("https://a:80/x/", Address("https", "a", 80, "/x")),
        ("http://a/x;y=1/%2F//z", Address("http", "a", 80, "/x;y=1/%2F//z")),
        ("http://[::1]:81/x", Address("http", "::1", 81, "/x")),
        ("http://[2001:DB8::0]", Address("http", "2001:db8::", 80)),
        ("http://127.0.0.1:65535", Address("http", "127.0.0.1", 65535)),
        ("http://b\u00fccher.example", Address("http", "xn--bcher-kva.example", 80)),
    ],
)
def test_urls_of_instances(url, address):
    assert parse_instance_url(url) == address


@pytest.mark.parametrize(
    "url, message",
    [
        ("", "has no scheme"),
        ("a:80", "has no scheme"),
        ("http:/a", "has no scheme"),
        ("://a", "has the scheme ''"),
        ("ftp://a", "has the scheme 'ftp'"),
        ("file:///etc/passwd", "has the scheme 'file'"),
        ("unix:///x", "has the scheme 'unix'"),
        ("http://", "has no host"),
        ("http:///a", "has no host"),
        ("http://:80", "has no host"),
        ("http://u@a", "must not carry credentials"),
        ("http://@a", "must not carry credentials"),
        ("http://a?", "must not have a query"),
        ("http://a?x=1", "must not have a query"),
        ("http://a#", "must not have a fragment"),
        ("http://a/#x", "must not have a fragment"),
        ("http://a:0", "has port 0"),
        ("http://a:65536", "its port is not a number"),
        ("http://a:-1", "its port is not a number"),
        ("http://a:+80", "its port is not a number"),
        ("http://a:8_0", "its port is not a number"),
        ("http://a:\u0668\u0660", "its port is not a number"),
        ("http://a:" + "9" * 1000, "its port is not a number"),
        ("http://a b", "no URL may hold: ' '"),
        ("http://a\t.b", r"no URL may hold: '\\t'"),
        ("http://a/\r\nx", r"no URL may hold: '\\r'"),
        ("http://a\0", r"no URL may hold: '\\x00'"),
        ("http://a\x85", r"no URL may hold: '\\x85'"),
        ("http://a\\@b", "no URL may hold"),
        ("http://a/\u00e9", "not ASCII: percent-encode it"),
        ("http://[::1", "its host is none"),
        ("http://[::1]x:80/", "in brackets is not an IPv6"),
        ("http://x[::1]/", "in brackets is not an IPv6"),
        ("http://[v1.ab]/", "in brackets is not an IPv6"),
        ("http://[fe80::1%25eth0]/", "in brackets is not an IPv6"),
        ("http://[:::]/", "not an IPv6 address|its host is none"),
        ("http://1.2.3/", "not an IPv4 address"),
        ("http://a%2eb/", "not a host name"),
        ("http://a/" + "x" * MAX_URL, f"longer than {MAX_URL}"),
    ],
)
def test_urls_that_cannot_be_proxied(url, message):
    with pytest.raises(ValueError, match=message):
        parse_instance_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@host/",
        "http://user:s3cret@exa\u2100mple/",
        "http://user:s3cret/x@host",
        "http://user:s3cret#x@host",
        "http://user:s3cret?x@host",
        "http://user:s3cret@[host/",
        "http://user:s3cret@[v1.a]/",
        "http://user:[s3cret@host",
        "http://user:[s3cret]@host",
        "ftp://user:s3cret@host",
    ],
)
@pytest.mark.parametrize("check", [parse_instance_url, check_target, check_redirect_target])
def test_a_password_is_not_repeated(check, url):
    with pytest.raises(ValueError) as caught:
        check(url)
    assert "s3cret" not in str(caught.value)


@PROPERTY
@given(st.sampled_from(["http", "https"]), HOST, st.integers(1, 65535), PATH)
@example("http", "::", 443, "")
def test_an_address_survives_its_url(scheme, host, port, path):
    address = Address(scheme, host, port, path.rstrip("/"))
    assert parse_instance_url(address.url) == address
    assert address.authority == f"{bracketed(host)}:{port}"
    assert parse_instance_url(f"{scheme}://{address.authority}{path}") == address


@OFTEN
@given(
    URLISH | st.text(max_size=40),
    st.sampled_from(["", "http://", "HTTPS://", "http://a", "http://[::1]", "//"]),
)
def test_nothing_but_value_errors_and_one_form(text, start):
    try:
        address = parse_instance_url(start + text)
    except ValueError:
        return
    assert parse_instance_url(address.url) == address
    assert address.url.isascii() and not set(address.url) & set(" \t\r\n\0\\")
    assert 1 <= address.port <= 65535


@pytest.mark.parametrize(
    "target, kept",
    [
        ("http://a:80/x", "http://a:80/x"),
        (" a:8080 ", "a:8080"),
        ("localhost", "localhost"),
        ("[::1]:80/x", "[::1]:80/x"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("service:user-svc", "service:user-svc"),
    ],
)
def test_targets(target, kept):
    assert check_target(target) == kept


@pytest.mark.parametrize(
    "target, message",
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("service:", "names '', which is not a service slug"),
        ("service:../x", "not a service slug"),
        ("service:A", "not a service slug"),
        ("unix:", "absolute path"),
        ("unix:x", "absolute path"),
        ("unix:/a b", "absolute path"),
        ("unix:/a\0", "absolute path"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
        ("unix:/" + "\u00e9" * 54, "at most 107 bytes"),
        ("unix:/\ud800", "surrogates"),
        ("ftp://a", "has the scheme"),
        ("a?x", "must not have a query"),
        ("u:p@a", "must not carry credentials"),
        ("/path", "has no host"),
        ("http://x/%zz", "a path with a broken percent-encoding"),
        ("x/a%2", "a path with a broken percent-encoding"),
        ("http://x/a/../b", "a path with a dot segment"),
        ("x/.", "a path with a dot segment"),
        ("http://x/a/%2E./b", "a path with a dot segment"),
        ("UNIX:/x", "begins with UNIX: where unix: is meant"),
        ("Service:user-svc", "begins with Service: where service: is meant"),
        ("http:/x", "one slash behind http: where there are two"),
    ],
)
def test_what_is_no_target(target, message):
    with pytest.raises(ValueError, match=message):
        check_target(target)


@pytest.mark.parametrize(
    "target, address",
    [
        ("http://a:80/x/", Address("http", "a", 80, "/x")),
        (" a:8080 ", Address("http", "a", 8080)),
        ("https://A", Address("https", "a", 443)),
        ("HTTP://a/.../%2F", Address("http", "a", 80, "/.../%2F")),
        ("http:8080", Address("http", "http", 8080)),
        ("unix:/run/a.sock", Address("http", "", 0, socket="/run/a.sock")),
    ],
)
def test_addresses_of_targets(target, address):
    assert parse_target(target) == address
    unverified = parse_target(target, verify=False)
    assert unverified.verify is (address.scheme != "https")
    assert (unverified == address) is unverified.verify
    assert unverified.url == address.url


def test_a_socket_is_named_by_its_path():
    address = parse_target("unix:/run/a.sock")
    assert address.url == address.authority == "unix:/run/a.sock"


def test_the_service_of_a_target():
    assert service_of(" service:user-svc\n") == "user-svc"
    assert service_of("service") is service_of("http://service:80") is service_of("") is None
    with pytest.raises(ValueError, match="not a service slug"):
        service_of("service:A")
    with pytest.raises(ValueError, match="names a service, where an address is needed"):
        parse_target("service:user-svc")


@OFTEN
@given(URLISH, st.sampled_from(["", "http://a", "https://", "unix:/", "unix:/run/", "service:", "service:a"]))
def test_every_target_that_is_checked_is_a_service_or_an_address(text, start):
    try:
        kept = check_target(start + text)
    except ValueError:
        with pytest.raises(ValueError):
            if service_of(start + text) is None:
                parse_target(start + text)
        return
    if service_of(kept) is None:
        address = parse_target(kept)
        assert parse_target(address.url) == address
        assert bool(address.host) is not bool(address.socket)


@pytest.mark.parametrize("target", ["http://a/x?y#z", "https://[::1]:81", "/", "/x?y", "/a//b", "/http://x"])
def test_redirect_targets(target):
    assert check_redirect_target(f" {target}\n") == target


@pytest.mark.parametrize(
    "target, message",
    [
        ("", "is empty"),
        ("//evil.example", "two slashes"),
        ("/\\evil.example", "no URL may hold"),
        ("/\t/evil.example", "no URL may hold"),
        ("/x\r\nSet-Cookie: a", "no URL may hold"),
        ("javascript:alert(1)", "must be an http"),
        ("evil.example", "must be an http"),
        ("ftp://a", "must be an http"),
        ("http:evil.example", "has no host"),
        ("http://", "has no host"),
        ("http://u@a", "must not carry credentials"),
        ("http://a..b", "not a host name"),
        ("http://a:99999", "its port is not a number"),
        ("http://a:0/", "has port 0"),
        ("/" + "x" * MAX_URL, "longer than"),
    ],
)
def test_what_is_no_redirect_target(target, message):
    with pytest.raises(ValueError, match=message):
        check_redirect_target(target)


@OFTEN
@given(URLISH, st.sampled_from(["", "/", "http://", "unix:/", "service:"]))
def test_checks_of_targets_raise_nothing_else_and_keep_what_they_pass(text, start):
    for check in (check_target, check_redirect_target):
        try:
            kept = check(start + text)
        except ValueError:
            continue
        assert check(kept) == kept
        assert not set(kept) & set(" \t\r\n\0\\")


@pytest.mark.parametrize(
    "url, target, path",
    [
        ("http://auth:9000/check?x=http://y/", "http://auth:9000", "/check?x=http://y/"),
        (" auth:9000 ", "auth:9000", "/"),
        ("auth/check/", "auth", "/check/"),
        ("https://[::1]:4?q", "https://[::1]:4", "/?q"),
        ("service:auth-svc/verify?x", "service:auth-svc", "/verify?x"),
        ("service:auth-svc", "service:auth-svc", "/"),
        ("unix:/run/a.sock", "unix:/run/a.sock", "/"),
        ("unix:/run/a.sock:/check?a=b", "unix:/run/a.sock", "/check?a=b"),
    ],
)
def test_who_is_asked_and_what(url, target, path):
    assert auth_target(url) == (target, path)


@pytest.mark.parametrize(
    "url, message",
    [
        ("", "is empty"),
        ("/check", "is empty"),
        ("http:///x", "has no host"),
        ("http:/x", "has one slash behind http: where there are two"),
        ("ftp://x/", "has the scheme 'ftp': only http and https can be proxied"),
        ("http://u:secret@x/", "must not carry credentials"),
        ("http://u:secret/w@x/", "not a URL: its port is not a number up to 65535"),
        ("service:A/x", "names 'A', which is not a service slug"),
        ("http://x/#f", "must not have a fragment"),
        ("http://x/\xe9", "has a path or query that is not ASCII: percent-encode it"),
        ("http://x/a b", "has a character in its path or query that no URL may hold"),
        ("http://x/?\r\nX: y", "has a character in its path or query that no URL may hold"),
        ("http://x/%zz", "has a broken percent-encoding"),
        ("http://x/" + "y" * 2048, "longer than 2048 characters"),
    ],
)
def test_nobody_to_ask(url, message):
    with pytest.raises(ValueError) as caught:
        auth_target(url)
    assert str(caught.value) == message


@PROPERTY
@given(st.text() | st.text("htp:/?#@ax.%2\r\n \\"), st.sampled_from(["", "http://", "unix:/", "service:"]))
def test_what_can_be_asked_can_be_sent(text, start):
    try:
        target, path = auth_target(start + text)
    except ValueError:
        return
    assert check_target(target) == target
    assert path.startswith("/") and path.isascii() and path.isprintable() and " " not in path
