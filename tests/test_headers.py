from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy import headers
from onebackend_proxy.errors import (
    BadRequest,
    ContentTooLarge,
    ExpectationFailed,
    HeadTooLarge,
    LoopDetected,
    MethodNotAllowed,
    NotImplementedHere,
    ProxyError,
    TargetTooLong,
    UpstreamFailed,
)
from onebackend_proxy.headers import (
    Peer,
    forwarded_client,
    is_trusted,
    origin_form,
    prepare_request,
    prepare_response,
    safe_trailers,
)
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, RequestHead

from .properties import KNOWN, OFTEN, PROPERTY, field, fields

STRANGER = Peer(b"9.9.9.9")
PROXY = Peer(b"10.0.0.1", trusted=True, scheme=b"https")
TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
HOP_BY_HOP = {
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"proxy-authenticate",
    b"transfer-encoding",
    b"upgrade",
    b"http2-settings",
}


def prepared(
    *raw,
    method=b"GET",
    target=b"/",
    version=b"HTTP/1.1",
    peer=STRANGER,
    host=b"a.example",
    trusted=TRUSTED,
    limits=DEFAULTS,
    flaw="",
):
    given_host = [(b"Host", host)] if host is not None else []
    head = RequestHead(method, target, [*given_host, *raw], version, flaw)
    return prepare_request(head, peer, b"ours", trusted, limits)


def sent(out):
    """All fields of a request as they go upstream, but for what frames its body."""
    lines = out.lines.split(b"\r\n")
    assert lines.pop() == b"" and b"" not in lines
    all_of_them = [line.partition(b": ")[::2] for line in lines]
    assert all_of_them[: len(out.headers)] == out.headers
    return [(b"Host", out.host), *all_of_them]


def named(lines, name):
    return [value for field_name, value in lines if field_name.lower() == name.lower()]


def own(host=b"a.example", ip=b"9.9.9.9"):
    """What stands behind the client's fields in every request that goes upstream."""
    return [
        (b"X-Forwarded-For", ip),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Real-IP", ip),
        (b"Via", b"1.1 onebackend-proxy"),
        (b"X-Forwarded-Host", host),
        (b"X-Request-Id", b"ours"),
    ]


def test_a_plain_request():
    out = prepared((b"Accept", b"*/*"), (b"Cookie", b"a=b"), (b"accept", b"x"), target=b"/a%2F//b;c?d=%25")
    assert (out.method, out.target, out.body, out.host) == (
        b"GET",
        b"/a%2F//b;c?d=%25",
        NO_BODY,
        b"a.example",
    )
    assert sent(out) == [
        (b"Host", b"a.example"),
        (b"Accept", b"*/*"),
        (b"Cookie", b"a=b"),
        (b"accept", b"x"),
        *own(),
    ]
    assert (out.client_ip, out.request_id, out.expects_continue) == (b"9.9.9.9", b"ours", False)


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE"])
def test_methods_that_are_not_for_a_reverse_proxy(method):
    with pytest.raises(MethodNotAllowed, match=method.decode()):
        prepared(method=method)


@pytest.mark.parametrize(
    "method", [b"get", b"BREW", b"PRI", b"DESCRIBE", b"", b"GET ", b"G\0ET", b"GET\r\nX: y", b"\xff"]
)
def test_a_method_that_no_parser_knows(method):
    with pytest.raises(NotImplementedHere):
        prepared(method=method)


@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"QUERY"]
)
def test_methods_that_pass(method):
    assert prepared(method=method).method == method


def test_too_many_fields():
    prepared(*[(b"A", b"b")] * (DEFAULTS.head_fields - 1))
    with pytest.raises(HeadTooLarge):
        prepared(*[(b"A", b"b")] * DEFAULTS.head_fields)


@pytest.mark.parametrize(
    "host",
    [
        b"a",
        b"A.Example",
        b"a.example:80",
        b"a_b",
        b"127.0.0.1:65535",
        b"[::1]",
        b"[2001:db8::1]:443",
        b"a.",
        b"1-2",
        b"a:0",
    ],
)
def test_hosts_pass_as_sent(host):
    out = prepared(host=host)
    assert named(sent(out), b"Host") == [host] == named(sent(out), b"X-Forwarded-Host")


HOSTS_THAT_ARE_NONE = [
    b"",
    b" ",
    b":80",
    b"a:b",
    b"a:-1",
    b"a:65536",
    b"a:99999",
    b"a:000080",
    b"a:\xb2",
    b"u@a",
    b"u:p@a",
    b"a b",
    b"a,b",
    b"a/b",
    b"a\\b",
    b"a?b",
    b"a#b",
    b"a%2eb",
    b"a\0",
    b"a\n",
    b"a\r\nX: y",
    b"\xc3\xa9",
    b".a",
    b"-a",
    b"[::1",
    b"::1",
    b"[]",
    b"[:::]",
    b"[1.2.3.4]",
    b"[::1%eth0]",
    b"[::1]x",
    b"[a]",
    b"http://a",
]


@pytest.mark.parametrize("host", HOSTS_THAT_ARE_NONE)
def test_a_host_that_is_none(host):
    with pytest.raises(BadRequest, match="Host header is not"):
        prepared(host=host)
    if not set(host) & set(b"/?"):
        with pytest.raises(BadRequest):
            prepared(target=b"http://" + host + b"/x")


def test_an_empty_port_is_a_port():
    # RFC 3986, 3.2.3.
    assert prepared(host=b"a:").host == b"a:"


def test_a_request_that_came_through_too_often_is_a_loop():
    hop = (b"Via", b"1.1 onebackend-proxy")
    assert prepared(*[hop] * 4, (b"Via", b"1.1 other")).host
    with pytest.raises(LoopDetected, match="5 times"):
        prepared(*[hop] * 3, (b"Via", b"1.1 onebackend-proxy, 1.1 x, 1.1 onebackend-proxy"))


def test_no_host_and_two():
    with pytest.raises(BadRequest, match="no Host"):
        prepared(host=None)
    with pytest.raises(BadRequest, match="no Host"):
        prepared(host=None, target=b"http://a/")
    with pytest.raises(BadRequest, match="no Host"):
        prepared(host=None, version=b"HTTP/1.0")
    for second in (b"a.example", b"b.example", b""):
        with pytest.raises(BadRequest, match="more than one Host"):
            prepared((b"hOST", second))
        with pytest.raises(BadRequest, match="more than one Host"):
            prepared((b"hOST", second), target=b"http://a/")


@pytest.mark.parametrize(
    "target, path, authority",
    [
        (b"http://b.example/x?y", b"/x?y", b"b.example"),
        (b"HTTPS://b.example:8443/x", b"/x", b"b.example:8443"),
        (b"http://b.example", b"/", b"b.example"),
        (b"http://b.example?x", b"/?x", b"b.example"),
        (b"http://[::1]:80//x", b"//x", b"[::1]:80"),
        (b"http://b.example/@c", b"/@c", b"b.example"),
    ],
)
def test_an_absolute_target_names_the_host(target, path, authority):
    out = prepared(target=target)
    assert out.target == path
    assert out.host == authority
    assert named(sent(out), b"Host") == [authority] == named(sent(out), b"X-Forwarded-Host")
    assert origin_form(b"GET", target) == (path, authority)


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"x",
        b"*",
        b"a.example:80",
        b"/a b",
        b"/a\tb",
        b"/a\0",
        b"/a\r\nX: y",
        b"/a\n",
        b"/\xc3\xa9",
        b"/a#b",
        b"/\x7f",
        b"ftp://a/",
        b"http:/a",
        b"http:a",
        b"http:///a",
        b"http://",
        b"http://?x",
        b"http://u@a/",
        b"http://a:b/",
        b"http://a\\@b/",
    ],
)
def test_targets_that_cannot_be(target):
    with pytest.raises(BadRequest):
        prepared(target=target)


def test_an_asterisk_is_for_options_only():
    assert prepared(method=b"OPTIONS", target=b"*").target == b"*"
    with pytest.raises(BadRequest):
        prepared(method=b"OPTIONS", target=b"**")


def test_two_slashes_are_a_path_and_no_authority():
    out = prepared(target=b"//evil.example/x")
    assert (out.target, out.host) == (b"//evil.example/x", b"a.example")


def test_a_long_target():
    prepared(target=b"/" + b"x" * (DEFAULTS.target_size - 1))
    with pytest.raises(TargetTooLong):
        prepared(target=b"/" + b"x" * DEFAULTS.target_size)


@pytest.mark.parametrize(
    "value, body",
    [(b"0", 0), (b"5", 5), (b"05", 5), (b"0" * 19, 0), (b"0" * 19 + b"7", 7), (b"9" * 18, 10**18 - 1)],
)
def test_lengths(value, body):
    out = prepared((b"Content-Length", value), method=b"POST")
    assert out.body == body
    assert not named(sent(out), b"Content-Length")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-1",
        b"+5",
        b"5, 5",
        b"0x5",
        b"5 ",
        b" 5",
        b"1_0",
        b"1e3",
        b"\xb2",
        b"5\n",
    ],
)
def test_what_is_no_length(value):
    with pytest.raises(BadRequest, match="Content-Length"):
        prepared((b"Content-Length", value), method=b"POST")


@pytest.mark.parametrize("value", [b"9" * 19, b"18446744073709551615", b"9" * 5000])
def test_a_length_that_no_body_has(value):
    with pytest.raises(ContentTooLarge):
        prepared((b"Content-Length", value), method=b"POST")


@pytest.mark.parametrize(
    "raw",
    [
        [(b"Content-Length", b"5"), (b"Content-Length", b"5")],
        [(b"Content-Length", b"5"), (b"content-length", b"6")],
        [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"identity")],
        [(b"Transfer-Encoding", b",chunked")],
        [(b"Transfer-Encoding", b"chunked,")],
        [(b"Transfer-Encoding", b"chunked, chunked")],
        [(b"Transfer-Encoding", b"identity")],
        [(b"Transfer-Encoding", b"xchunked")],
        [(b"Transfer-Encoding", b"\x0bchunked")],
        [(b"Transfer-Encoding", b"chunked\0")],
        [(b"Transfer-Encoding", b'"chunked"')],
        [(b"Transfer-Encoding", b"chunked;a=b")],
        [(b"Transfer-Encoding", b"")],
    ],
)
def test_ambiguous_framing(raw):
    with pytest.raises(BadRequest):
        prepared(*raw, method=b"POST")


def test_chunked_in_any_case_and_in_http11_only():
    assert prepared((b"transfer-encoding", b"ChunKed"), method=b"POST").body == CHUNKED
    for version in (b"HTTP/1.0", b"HTTP/2", b"HTTP/1.2"):
        with pytest.raises(BadRequest):
            prepared((b"Transfer-Encoding", b"chunked"), method=b"POST", version=version)


@pytest.mark.parametrize("coding", [b"gzip", b"GZip", b"compress", b"deflate", b"gzip, chunked", b"x-gzip"])
def test_another_transfer_coding(coding):
    with pytest.raises(NotImplementedHere):
        prepared((b"Transfer-Encoding", coding), method=b"POST")


def test_connection_strips_what_it_names_and_never_framing_host_or_ours():
    out = prepared(
        (b"Connection", b"close, X-Forwarded-For, Host,\tX-A ,,authorization"),
        (b"connection", b"Content-Length, X-Real-IP, via2, X-Request-Id"),
        (b"X-a", b"1"),
        (b"X-B", b"2"),
        (b"Authorization", b"Bearer x"),
        (b"Via2", b"x"),
        (b"Content-Length", b"5"),
        method=b"POST",
    )
    assert sent(out) == [(b"Host", b"a.example"), (b"X-B", b"2"), *own()]
    assert out.body == 5


@pytest.mark.parametrize("value", [b"close", b"Keep-Alive", b"", b",", b" , ,", b"te, close"])
def test_a_connection_that_names_no_field_strips_none(value):
    out = prepared((b"Connection", value), (b"X-A", b"1"))
    assert sent(out) == [(b"Host", b"a.example"), (b"X-A", b"1"), *own()]


def test_connection_cannot_smuggle_by_naming_transfer_encoding():
    out = prepared((b"Connection", b"Transfer-Encoding"), (b"Transfer-Encoding", b"chunked"), method=b"POST")
    assert out.body == CHUNKED


@pytest.mark.parametrize(
    "name", [b"X_Forwarded_For", b"Transfer_Encoding", b"Content_Length", b"Proxy", b"a_b", b"PROXY"]
)
def test_names_that_a_backend_may_mistake_are_dropped(name):
    for peer in (STRANGER, PROXY):
        assert not named(sent(prepared((name, b"x"), peer=peer)), name)


@pytest.mark.parametrize(
    "name",
    [
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Proxy-Authorization",
        b"Proxy-Authenticate",
        b"Upgrade",
        b"HTTP2-Settings",
    ],
)
def test_hop_by_hop_fields_are_dropped(name):
    assert not named(sent(prepared((name, b"x"))), name)


@pytest.mark.parametrize(
    "protocol", [b"websocket", b"WebSocket", b"spdy/3.1", b"x", b"tcp/1", b"hprose", b"tl"]
)
def test_an_upgrade_that_is_asked_for_properly(protocol):
    out = prepared((b"Connection", b"x-a, uPgrade"), (b"Upgrade", protocol), (b"X-A", b"1"), (b"X-B", b"2"))
    assert out.upgrade == protocol
    assert out.headers == [(b"X-B", b"2")]


@pytest.mark.parametrize(
    "protocol",
    [b"", b"h2c", b"H2", b"http/2.0", b"HTTP", b"TLS/1.0", b"tls", b"a, b", b"a b", b"a/b/c", b"/a", b'"a"'],
)
def test_a_protocol_that_is_not_passed_on(protocol):
    assert prepared((b"Connection", b"Upgrade"), (b"Upgrade", protocol)).upgrade == b""


def test_an_upgrade_in_two_fields():
    out = prepared((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"upgrade", b"x"))
    assert out.upgrade == b""


def test_an_upgrade_is_for_get_and_http11_and_must_be_named_by_connection():
    asked = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    assert prepared(*asked).upgrade == b"websocket"
    assert prepared(*asked, (b"Content-Length", b"0")).upgrade == b"websocket"
    assert prepared(*asked, method=b"POST").upgrade == b""
    assert prepared(*asked, method=b"HEAD").upgrade == b""
    assert prepared(*asked, version=b"HTTP/1.0").upgrade == b""
    assert prepared(asked[1]).upgrade == b""
    assert prepared((b"Connection", b"upgraded"), asked[1]).upgrade == b""


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("framing", [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")])
def test_an_upgrade_with_a_body(method, framing):
    asked = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    with pytest.raises(BadRequest, match="upgrade with a body"):
        prepared(*asked, framing, method=method)
    # Where it is none, its body is like any other's.
    assert prepared(asked[1], framing, method=method).body in (1, CHUNKED)


@pytest.mark.parametrize(
    "version, connection, kept",
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"keep-alive", True),
        (b"HTTP/1.1", b"Close", False),
        (b"HTTP/1.1", b"x, close", False),
        (b"HTTP/1.1", b"keep-alive, close", False),
        (b"HTTP/1.0", b"", False),
        (b"HTTP/1.0", b"Keep-Alive", True),
        (b"HTTP/1.0", b"close, keep-alive", False),
    ],
)
def test_whether_the_clients_connection_outlives_the_request(version, connection, kept):
    raw = [(b"Connection", connection)] if connection else []
    assert prepared(*raw, version=version).keep_alive is kept


def test_a_parsers_complaint_comes_behind_what_the_rules_say():
    with pytest.raises(BadRequest, match="not valid HTTP") as caught:
        prepared(flaw="Invalid header")
    assert caught.value.detail == "Invalid header"
    with pytest.raises(MethodNotAllowed):
        prepared(flaw="Invalid header", method=b"CONNECT")
    with pytest.raises(BadRequest, match="more than one Content-Length"):
        prepared((b"Content-Length", b"1"), (b"Content-Length", b"1"), flaw="Duplicate")


def test_limits_are_settings():
    limits = Limits(head_fields=2, target_size=5)
    assert prepared((b"A", b"b"), target=b"/1234", limits=limits)
    with pytest.raises(HeadTooLarge, match="more than 2 "):
        prepared((b"A", b"b"), (b"C", b"d"), limits=limits)
    with pytest.raises(TargetTooLong, match="over 5 bytes"):
        prepared(target=b"/12345", limits=limits)


def test_what_strangers_make_up_is_not_kept():
    for number in range(2000):
        prepared((b"X-%d" % number, b""), (b"X" * 1000 + b"%d" % number, b""))
        answered((b"X-%d" % number, b""), (b"X" * 1000 + b"%d" % number, b""))
    for rules in (headers._request_rules, headers._response_rules):
        assert len(rules) <= 512
        assert max(map(len, rules)) < 48


def test_an_upgrade_to_http2_is_not_passed_on():
    out = prepared(
        (b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AA")
    )
    assert out.upgrade == b""
    assert sent(out) == [(b"Host", b"a.example"), *own()]


@pytest.mark.parametrize("value", [b"trailers", b"Trailers", b"deflate, trailers", b"trailers , x"])
def test_te_says_trailers_or_nothing(value):
    out = prepared((b"TE", value), (b"Connection", b"TE"))
    assert out.headers == [(b"TE", b"trailers"), (b"Connection", b"TE")]


def test_te_in_two_fields():
    assert named(sent(prepared((b"TE", b"gzip"), (b"TE", b"trailers"))), b"TE") == [b"trailers"]


@pytest.mark.parametrize("value", [b"gzip", b"", b"trailers;q=0", b"xtrailers", b"chunked"])
def test_te_of_anything_else_is_dropped(value):
    kept = sent(prepared((b"TE", value)))
    assert not named(kept, b"TE") and not named(kept, b"Connection")


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
def test_an_expectation_of_a_body(value):
    raw = [(b"Expect", value), (b"Content-Length", b"5")]
    out = prepared(*raw, method=b"POST")
    assert out.expects_continue and not named(sent(out), b"Expect")
    assert not prepared(*raw, method=b"POST", version=b"HTTP/1.0").expects_continue


@pytest.mark.parametrize("raw", [[], [(b"Content-Length", b"0")]])
def test_an_expectation_of_no_body_is_none(raw):
    assert not prepared((b"Expect", b"100-continue"), *raw, method=b"POST").expects_continue


def test_an_empty_expectation_is_none():
    assert not prepared((b"Expect", b""), (b"Content-Length", b"5"), method=b"POST").expects_continue


@pytest.mark.parametrize(
    "values", [[b"200-ok"], [b"100-continue", b"x"], [b"100-continue", b"100-continue"], [b"100"]]
)
def test_other_expectations(values):
    with pytest.raises(ExpectationFailed):
        prepared(*[(b"Expect", value) for value in values])


SPOOFED = [
    (b"X-Forwarded-For", b"6.6.6.6"),
    (b"x-forwarded-for", b"7.7.7.7"),
    (b"X-FORWARDED-PROTO", b"https"),
    (b"X-Forwarded-Host", b"evil.example"),
    (b"X-Forwarded-Port", b"1"),
    (b"X-forwarded-Prefix", b"/x"),
    (b"Forwarded", b"for=6.6.6.6"),
    (b"X-Real-Ip", b"6.6.6.6"),
    (b"X-Request-ID", b"theirs"),
    (b"X_Real_IP", b"6.6.6.6"),
]


def test_what_a_stranger_says_of_itself_is_dropped():
    out = prepared(*SPOOFED)
    assert sent(out) == [(b"Host", b"a.example"), *own()]
    assert (out.client_ip, out.request_id) == (b"9.9.9.9", b"ours")


def test_what_a_trusted_proxy_says_is_passed_on():
    out = prepared(*SPOOFED, peer=PROXY)
    assert sent(out) == [
        (b"Host", b"a.example"),
        (b"X-Forwarded-Port", b"1"),
        (b"X-forwarded-Prefix", b"/x"),
        (b"Forwarded", b"for=6.6.6.6"),
        (b"X-Forwarded-For", b"6.6.6.6, 7.7.7.7, 10.0.0.1"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Real-IP", b"7.7.7.7"),
        (b"Via", b"1.1 onebackend-proxy"),
        (b"X-Forwarded-Host", b"evil.example"),
        (b"X-Request-Id", b"theirs"),
    ]
    assert (out.client_ip, out.request_id) == (b"7.7.7.7", b"theirs")


def test_empty_words_of_a_trusted_proxy_are_none():
    out = prepared(*((name, b"") for name, _ in SPOOFED if b"_" not in name), peer=PROXY)
    assert named(sent(out), b"X-Forwarded-Proto") == [b"https"]
    assert named(sent(out), b"X-Forwarded-Host") == [b"a.example"]
    assert named(sent(out), b"X-Real-IP") == [b"10.0.0.1"]
    assert named(sent(out), b"X-Request-Id") == [b"ours"]
    twice = prepared((b"X-Forwarded-For", b"1.1.1.1"), (b"X-Forwarded-For", b""), peer=PROXY)
    assert (twice.client_ip, named(sent(twice), b"X-Forwarded-For")[0]) == (
        b"10.0.0.1",
        b"1.1.1.1,, 10.0.0.1",
    )
    assert named(sent(prepared(*[(b"Forwarded", b"")] * 2, peer=PROXY)), b"Forwarded") == [b","]
    assert prepared((b"X-Forwarded-For", b""), peer=PROXY).lines.startswith(b"X-Forwarded-For: 10.0.0.1\r\n")


@pytest.mark.parametrize("said", [b"a b", b"a\tb", b"a, b", b"x" * 129, b"\xff", b'"', b"<b>"])
def test_a_request_id_that_is_none_is_made_anew(said):
    assert prepared((b"X-Request-Id", said), peer=PROXY).request_id == b"ours"


def test_x_real_ip_counts_where_there_is_no_forwarded_for():
    assert prepared((b"X-Real-IP", b"6.6.6.6"), peer=PROXY).client_ip == b"6.6.6.6"
    # A proxy that speaks by X-Forwarded-For may pass on what the client put in X-Real-IP.
    for chain in (b"unknown", b"1.2.3.4:5678", b""):
        out = prepared((b"X-Real-IP", b"6.6.6.6"), (b"X-Forwarded-For", chain), peer=PROXY)
        assert out.client_ip == b"10.0.0.1"


@pytest.mark.parametrize(
    "said", [b"unknown", b'6.6.6.6" 200 1 "', b"6.6.6.6:80", b"::1%\t evil", b"6.6.6.6, 7.7.7.7", b"\xb2"]
)
def test_x_real_ip_that_is_no_address_is_dropped(said):
    assert prepared((b"X-Real-IP", said), peer=PROXY).client_ip == b"10.0.0.1"


@pytest.mark.parametrize(
    "chain, client",
    [
        (b"", b"-"),
        (b"1.1.1.1", b"1.1.1.1"),
        (b"6.6.6.6, 1.1.1.1", b"1.1.1.1"),
        (b"6.6.6.6, 1.1.1.1, 10.0.0.2 ,10.0.0.3", b"1.1.1.1"),
        (b"10.0.0.2, 10.0.0.3", b"10.0.0.2"),
        (b"6.6.6.6, unknown, 10.0.0.3", b"10.0.0.3"),
        (b"6.6.6.6, , 10.0.0.3", b"10.0.0.3"),
        (b"6.6.6.6,", b"-"),
        (b"6.6.6.6, 1.1.1.1:80", b"-"),
        (b"2001:db8::1, fd00::1", b"2001:db8::1"),
        (b"6.6.6.6, ::ffff:10.0.0.2", b"6.6.6.6"),
        (b"6.6.6.6, ::1%evil zone", b"-"),
        (b"6.6.6.6, \xd9\xa1.1.1.1", b"-"),
        (b"6.6.6.6, 1", b"-"),
    ],
)
def test_the_client_behind_trusted_proxies(chain, client):
    assert forwarded_client(Peer(b"-"), chain, b"9.9.9.9", TRUSTED) == client


@pytest.mark.parametrize(
    "ip, trusted",
    [
        (b"10.0.0.1", True),
        (b"11.0.0.1", False),
        (b"::ffff:10.0.0.1", True),
        (b"::ffff:11.0.0.1", False),
        (b"fd00::1", True),
        (b"fe80::1", False),
        (b"fd00::1%eth0", False),
        (b"unix:", False),
        (b"", False),
        (b"010.0.0.1", False),
        (b"\xff", False),
    ],
)
def test_trust(ip, trusted):
    assert is_trusted(ip, TRUSTED) is trusted
    assert is_trusted(ip, ()) is False


TARGET = st.sampled_from(
    [
        b"/",
        b"/a/b?c",
        b"http://b.example/x",
        b"HTTP://b:80",
        b"//x",
        b"*",
        b"x",
        b"/\r\nA: b",
        b"/" + b"y" * 20_000,
    ]
)
HEAD = st.builds(
    RequestHead,
    st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"CONNECT", b"BREW"]),
    TARGET | st.binary(max_size=12).map(lambda tail: b"/" + tail),
    st.tuples(fields, fields).map(lambda two: [*two[0], (b"Host", b"a.example"), *two[1]])
    | fields.map(lambda more: [f for f in more if f[0].lower() != b"host"] + [(b"Host", b"a.example")])
    | st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=5),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b""]),
)


@OFTEN
@given(HEAD, st.sampled_from([STRANGER, PROXY]))
def test_whatever_comes_only_this_goes_upstream(head, peer):
    try:
        out = prepare_request(head, peer, b"ours", TRUSTED)
    except ProxyError as error:
        assert 400 <= error.status <= 501
        return
    names = [name.lower() for name, _ in sent(out)]
    assert not HOP_BY_HOP & set(names)
    assert b"content-length" not in names and b"expect" not in names and b"proxy" not in names
    assert names[0] == b"host" and names.count(b"host") == 1
    assert named(sent(out), b"te") in ([], [b"trailers"])
    assert named(sent(out), b"connection") == ([b"TE"] if b"te" in names else [])
    assert not any(b"_" in name for name in names)
    for single in (
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-real-ip",
        b"x-request-id",
    ):
        assert names.count(single) == 1
    if not peer.trusted:
        told = [
            f for f in sent(out) if f[0].lower().startswith(b"x-forwarded-") or f[0].lower() == b"x-real-ip"
        ]
        assert told == [f for f in own(out.host) if f[0] not in (b"Via", b"X-Request-Id")]
        assert b"forwarded" not in names
        assert out.request_id == b"ours"
    ipaddress.ip_address(out.client_ip.decode())
    assert out.body >= CHUNKED
    # Each field that is left is one that came, in the order it came.
    rest = iter(head.headers)
    theirs = [f for f in sent(out) if f in head.headers and f[0].lower() not in KNOWN]
    assert all(any(f == came for came in rest) for f in theirs)


def answered(*raw, method=b"GET", http11=True, status=200):
    return prepare_response(method, http11, status, b"x", list(raw))


def test_a_plain_answer():
    head = answered(
        (b"Server", b"a"),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
        (b"content-length", b"05"),
        (b"Date", b"now"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Connection", b"keep-alive, X-Hop"),
        (b"Connection", b"server2"),
        (b"X-Hop", b"1"),
        (b"Proxy-Connection", b"x"),
        (b"Upgrade", b"h2c"),
    )
    assert (head.status, head.reason, head.body, head.dated) == (200, b"x", 5, True)
    assert [name for name, _ in head.headers] == [
        b"Server",
        b"Set-Cookie",
        b"Set-Cookie",
        b"Date",
        b"Content-Length",
    ]
    assert [int(value) for value in named(head.headers, b"Content-Length")] == [5]
    assert not answered((b"Content-Length", b"0")).dated


@pytest.mark.parametrize(
    "raw, http11, body",
    [
        ([(b"Content-Length", b"0")], True, 0),
        ([(b"Content-Length", b"7"), (b"content-length", b"7")], True, 7),
        ([(b"Transfer-Encoding", b"Chunked")], True, CHUNKED),
        ([], True, UNTIL_CLOSE),
        ([], False, UNTIL_CLOSE),
    ],
)
def test_how_an_answer_is_framed(raw, http11, body):
    head = answered(*raw, http11=http11)
    assert head.body == body
    assert len(named(head.headers, b"Content-Length")) == (body >= 0)
    assert not named(head.headers, b"Transfer-Encoding")


@pytest.mark.parametrize(
    "raw, http11",
    [
        ([(b"Content-Length", b"5"), (b"Content-Length", b"6")], True),
        ([(b"Content-Length", b"5, 5")], True),
        ([(b"Content-Length", b"-1")], True),
        ([(b"Content-Length", b"")], True),
        ([(b"Content-Length", b"\xb2")], True),
        ([(b"Content-Length", b"9" * 19)], True),
        ([(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")], True),
        ([(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")], True),
        ([(b"Transfer-Encoding", b"xchunked")], True),
        ([(b"Transfer-Encoding", b"gzip, chunked")], True),
        ([(b"Transfer-Encoding", b"identity")], True),
        ([(b"Transfer-Encoding", b"")], True),
        ([(b"Transfer-Encoding", b"chunked")], False),
    ],
)
def test_an_answer_whose_framing_is_ambiguous(raw, http11):
    with pytest.raises(UpstreamFailed) as caught:
        answered(*raw, http11=http11)
    assert caught.value.message == "the service's answer was not valid HTTP"


@pytest.mark.parametrize(
    "method, status", [(b"HEAD", 200), (b"HEAD", 404), (b"GET", 304), (b"GET", 204), (b"GET", 103)]
)
@pytest.mark.parametrize("raw", [[], [(b"Content-Length", b"7")], [(b"Transfer-Encoding", b"chunked")]])
def test_answers_without_a_body(method, status, raw):
    head = answered(*raw, method=method, status=status)
    assert head.body == NO_BODY
    tells = raw[:1] == [(b"Content-Length", b"7")] and status not in (204, 103)
    assert head.headers == ([(b"Content-Length", b"7")] if tells else [])


@pytest.mark.parametrize(
    "raw, http11, kept",
    [
        ([], True, True),
        ([(b"Connection", b"Close")], True, False),
        ([(b"Connection", b"x"), (b"connection", b"close")], True, False),
        ([], False, False),
        ([(b"Connection", b"Keep-Alive")], False, True),
        ([(b"Connection", b"keep-alive, close")], False, False),
    ],
)
def test_whether_the_services_connection_outlives_the_answer(raw, http11, kept):
    assert answered((b"Content-Length", b"0"), *raw, http11=http11).keep_alive is kept
    assert answered(*raw, http11=http11).keep_alive is False, "it ends with the connection"


@pytest.mark.parametrize(
    "raw, upgrade",
    [
        ([(b"Connection", b"upgrade"), (b"Upgrade", b"websocket")], b"websocket"),
        ([(b"Connection", b"keep-alive, Upgrade"), (b"upgrade", b"x")], b"x"),
        ([(b"Upgrade", b"websocket")], b""),
        ([(b"Connection", b"upgrade")], b""),
    ],
)
def test_what_a_101_switches_to(raw, upgrade):
    head = answered(*raw, (b"Sec-WebSocket-Accept", b"x"), (b"Content-Length", b"5"), status=101)
    assert (head.upgrade, head.body, head.keep_alive) == (upgrade, NO_BODY, False)
    assert head.headers == [(b"Sec-WebSocket-Accept", b"x")]
    # Any other answer that has the field advertises, and switches nothing.
    assert answered(*raw, status=426).upgrade == b""


@PROPERTY
@given(
    fields,
    st.sampled_from([b"GET", b"HEAD", b"POST"]),
    st.booleans(),
    st.sampled_from([100, 103, 200, 204, 304, 502, 999]),
)
def test_no_answer_carries_what_was_meant_for_us(raw, method, http11, status):
    try:
        head = prepare_response(method, http11, status, b"", raw)
    except UpstreamFailed:
        return
    names = [name.lower() for name, _ in head.headers]
    assert not {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"} & set(
        names
    )
    assert names.count(b"content-length") <= 1
    if head.body >= 0:
        assert int(named(head.headers, b"content-length")[0]) == head.body


@PROPERTY
@given(st.lists(field, max_size=12))
def test_trailers_set_nothing_that_was_decided_on_before_them(trailers):
    kept = safe_trailers(trailers)
    names = {name.lower() for name, _ in kept}
    assert not names & set(KNOWN) - {b"date"}
    assert not any(b"_" in name or name.startswith(b"x-forwarded-") for name in names)
    rest = iter(trailers)
    assert all(any(f == came for came in rest) for f in kept)


def test_trailers_that_are_forwarded():
    trailers = [(b"Digest", b"a"), (b"Grpc-Status", b"0"), (b"X-Checksum", b"b"), (b"digest", b"c")]
    assert safe_trailers(trailers) == trailers


@pytest.mark.parametrize(
    "name",
    [
        b"Host",
        b"Content-Length",
        b"TRANSFER-ENCODING",
        b"Connection",
        b"X-Forwarded-For",
        b"X-Forwarded-Anything",
        b"X-Real-IP",
        b"Forwarded",
        b"Set-Cookie",
        b"Authorization",
        b"Content-Encoding",
        b"Trailer",
        b"TE",
        b"Proxy",
        b"X_Forwarded_For",
    ],
)
def test_trailers_that_are_dropped(name):
    assert safe_trailers([(b"A", b"1"), (name, b"x"), (b"B", b"2")]) == [(b"A", b"1"), (b"B", b"2")]


@pytest.mark.parametrize("character", [b"\x01", b"\x08", b"\x0b", b"\x1f", b"\x7f"])
def test_a_control_character_in_a_value_is_refused_whoever_read_the_head(character):
    with pytest.raises(BadRequest, match="control character"):
        prepared((b"X-A", b"b" + character + b"c"))
    assert prepared((b"X-A", b"b\tc\x80")).headers == [(b"X-A", b"b\tc\x80")]
