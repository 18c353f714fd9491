"""Policies as the API takes and shows them: what is wrong is named, and what is right comes back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.api.policy_values import MAX_PAGE
from onebackend_proxy.api.rules import SaveRoutesBody
from onebackend_proxy.api.shapes import route_json
from onebackend_proxy.api.validation import structure
from onebackend_proxy.balancing import Upstream
from onebackend_proxy.desk.guard import Guard, Guards
from onebackend_proxy.errors import BadRequest
from onebackend_proxy.passwords import Cost, hash_password
from onebackend_proxy.policies.editing import PLACEHOLDERS
from onebackend_proxy.records import (
    NO_POLICY,
    Access,
    BasicUser,
    FieldEdits,
    ForwardAuth,
    HeaderEdits,
    Pause,
    Policy,
    RateLimit,
    Route,
)
from onebackend_proxy.store.rows import ROUTES, route_row
from onebackend_proxy.targets import RouteUpstreams, Targets

from ..properties import PROPERTY
from .support import cheap_work

HASH = hash_password("a secret", cost=Cost(ln=2))
BCRYPT = "$2y$05$" + "abcdefghijklmnopqrstuu" + "v" * 31
FULL = {
    "stripPrefix": True,
    "access": {
        "allow": ["10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32"],
        "deny": ["10.6.6.6/32"],
        "basicAuth": [{"user": "ada", "passwordHash": HASH}, {"user": "bob", "passwordHash": BCRYPT}],
        "forwardAuth": {"url": "http://auth:9000/check?x", "copyHeaders": ["X-User"]},
    },
    "rateLimit": {"requests": 100, "per": "1s", "burst": 20, "by": "header:x-key"},
    "requestBodyLimit": "10MB",
    "headers": {
        "request": {"set": {"X-Id": "$request_id", "Host": "in.$host:80"}, "remove": ["Cookie"]},
        "response": {"set": {"X-Frame-Options": "DENY", "x_y": ""}, "remove": ["Server"]},
    },
    "compress": True,
    "cache": True,
    "errorPages": {"503": "<p>$status for $$5", "5xx": "", "4xx": "<p>\u00e9\n</p>"},
    "interceptErrors": True,
    "paused": {"retryAfter": "5m", "message": "back soon"},
}


def record(**fields):
    [route] = structure(SaveRoutesBody, {"routes": [{"id": "a.com/x", "target": "b", **fields}]}).records()
    return route


def shown(**fields):
    found = route_json(record(**fields))
    assert (found.pop("id"), found.pop("target")) == ("a.com/x", "b")
    return found


def refused(**fields):
    with pytest.raises(BadRequest) as caught:
        record(**fields)
    return caught.value.message.removeprefix("routes[0].")


def test_every_field_is_kept_and_given_back():
    assert record(**FULL).policy == Policy(
        True,
        Access(
            ("10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32"),
            ("10.6.6.6/32",),
            (BasicUser("ada", HASH), BasicUser("bob", BCRYPT)),
            ForwardAuth("http://auth:9000/check?x", ("X-User",)),
        ),
        RateLimit(100, 1.0, 20, "header:x-key"),
        10_000_000,
        HeaderEdits(
            FieldEdits((("X-Id", "$request_id"), ("Host", "in.$host:80")), ("Cookie",)),
            FieldEdits((("X-Frame-Options", "DENY"), ("x_y", "")), ("Server",)),
        ),
        True,
        True,
        (("503", "<p>$status for $$5"), ("5xx", ""), ("4xx", "<p>\u00e9\n</p>")),
        True,
        Pause(300.0, "back soon"),
    )
    assert shown(**FULL) == FULL


@pytest.mark.parametrize(
    "fields",
    [
        {},
        dict.fromkeys(FULL),
        {"access": {}, "headers": {}, "errorPages": {}, "paused": False, "compress": False},
        {"access": dict.fromkeys(["allow", "deny", "basicAuth", "forwardAuth"])},
        {"access": {"deny": []}, "headers": {"request": {"set": {}, "remove": []}, "response": None}},
    ],
)
def test_what_says_nothing_is_no_policy(fields):
    # The object itself: a Route that has it costs nothing.
    assert record(**fields).policy is NO_POLICY
    assert shown(**fields) == {}


@pytest.mark.parametrize(
    "fields, wanted",
    [
        ({"paused": True}, {"paused": {"retryAfter": "1m"}}),
        ({"paused": {}}, {"paused": {"retryAfter": "1m"}}),
        ({"paused": {"retryAfter": 90, "message": " x "}}, {"paused": {"retryAfter": "90s", "message": "x"}}),
        ({"rateLimit": {"requests": 5}}, {"rateLimit": {"requests": 5, "per": "1s", "by": "ip"}}),
        (
            {"rateLimit": {"requests": 5, "per": 0.25, "burst": 0, "by": "header: X-KEY"}},
            {"rateLimit": {"requests": 5, "per": "250ms", "burst": 0, "by": "header:x-key"}},
        ),
        ({"requestBodyLimit": 0}, {"requestBodyLimit": "0"}),
        ({"requestBodyLimit": 65536}, {"requestBodyLimit": "64KiB"}),
        ({"requestBodyLimit": " 10 mb "}, {"requestBodyLimit": "10MB"}),
        ({"errorPages": {"5XX": "a"}}, {"errorPages": {"5xx": "a"}}),
        (
            {"headers": {"response": {"set": {"X-A": "  b "}}}},
            {"headers": {"response": {"set": {"X-A": "b"}}}},
        ),
        (
            {"access": {"forwardAuth": {"url": " service:auth-svc/check "}}},
            {"access": {"forwardAuth": {"url": "service:auth-svc/check"}}},
        ),
    ],
)
def test_what_is_shown_is_in_one_form(fields, wanted):
    assert shown(**fields) == wanted
    assert shown(**wanted) == wanted


@pytest.mark.parametrize(
    "given_, kept",
    [
        (["10.0.0.0/8"], ["10.0.0.0/8"]),
        ([" 127.0.0.1 ", "127.0.0.1/32"], ["127.0.0.1/32"]),
        (["0.0.0.0/0", "::/0"], ["0.0.0.0/0", "::/0"]),
        (["2001:DB8:0::1"], ["2001:db8::1/128"]),
        (
            ["::ffff:10.1.2.3", "::ffff:a00:0/104", "::ffff:0:0/96"],
            ["10.1.2.3/32", "10.0.0.0/8", "0.0.0.0/0"],
        ),
        (["::ffff:0:0/95"], None),
        (["::fffe:0:0/95"], ["::fffe:0:0/95"]),
    ],
)
def test_addresses_are_kept_in_one_form(given_, kept):
    for name in ("allow", "deny"):
        if kept is None:
            assert refused(access={name: given_}).startswith(f"access.{name}[0]: has an address within")
        else:
            assert shown(access={name: given_}) == {"access": {name: kept}}


NEITHER = "is neither an IP address nor a network such as 10.0.0.0/8"


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("", NEITHER),
        ("x", NEITHER),
        ("10.0.0.0/33", NEITHER),
        ("10.0.0.256", NEITHER),
        ("010.0.0.1", NEITHER),
        ("10.0.0", NEITHER),
        ("10.0.0.0/", NEITHER),
        ("10.0.0.0/8/8", NEITHER),
        # Python takes this for /0: everybody.
        ("10.0.0.0/0.0.0.0", NEITHER),
        ("10.0.0.0/0.255.255.255", NEITHER),
        ("0.0.0.0/-1", NEITHER),
        ("fe80::1%eth0", NEITHER),
        ("[::1]", NEITHER),
        ("::/129", NEITHER),
        ("localhost", NEITHER),
        ("1\u0661.0.0.1", NEITHER),
        ("10.6.6.6/8", "has an address within its network: write 10.0.0.0/8, or 10.6.6.6 alone"),
        ("2001:db8::1/32", "has an address within its network: write 2001:db8::/32, or 2001:db8::1 alone"),
        (167772160, "expected a string"),
    ],
)
def test_what_is_no_network(text, wanted):
    assert refused(access={"deny": ["1.2.3.4", text]}) == f"access.deny[1]: {wanted}"


FRAMING = ["Content-Length", "transfer-encoding", "CONNECTION", "Keep-Alive", "TE", "Trailer", "Upgrade"]
FRAMING += ["Proxy-Connection"]


def users(*pairs):
    return {"access": {"basicAuth": [{"user": user, "passwordHash": each} for user, each in pairs]}}


def asked(url, *copied):
    return {"access": {"forwardAuth": {"url": url, "copyHeaders": list(copied)}}}


def put(side, fields):
    return {"headers": {side: {"set": fields}}}


@pytest.mark.parametrize(
    "fields, wanted",
    [
        ({"access": ["10.0.0.0/8"]}, "access: expected an object"),
        ({"access": {"alow": ["10.0.0.0/8"]}}, "access: unknown field 'alow'"),
        ({"access": {"allow": "10.0.0.0/8"}}, "access.allow: expected a list"),
        ({"access": {"allow": []}}, "access.allow: is empty: leave it out to let everybody in"),
        ({"access": {"basicAuth": []}}, "access.basicAuth: is empty: leave it out to ask for no password"),
        ({"access": {"basicAuth": [{"user": "a"}]}}, "access.basicAuth[0].passwordHash: is missing"),
        ({"access": {"basicAuth": [{"passwordHash": HASH}]}}, "access.basicAuth[0].user: is missing"),
        (
            {"access": {"basicAuth": [{"user": "a", "password": "x"}]}},
            "access.basicAuth[0].passwordHash: is missing; routes[0].access.basicAuth[0]: unkn",
        ),
        (users(("", HASH)), "access.basicAuth[0].user: is empty"),
        (users(("a:b", HASH)), "access.basicAuth[0].user: has a colon, which ends the name"),
        (users(("a\nb", HASH)), "access.basicAuth[0].user: has a control character"),
        (users(("a" * 257, HASH)), "access.basicAuth[0].user: is longer than 256 characters"),
        (
            users(("a", HASH), ("b", HASH), ("a", HASH)),
            "access.basicAuth[2].user: is the user of basicAuth[0] too",
        ),
        (asked("ftp://auth/"), "access.forwardAuth.url: has the scheme 'ftp'"),
        (asked("http://auth/#x"), "access.forwardAuth.url: must not have a fragment"),
        (asked(""), "access.forwardAuth.url: is empty"),
        (asked("http://auth/", "X User"), "access.forwardAuth.copyHeaders[0]: 'X User' is not the name"),
        (asked("http://auth/", "X-A", "X_User"), "access.forwardAuth.copyHeaders[1]: 'X_User' has an under"),
        (asked("http://auth/", "host"), "access.forwardAuth.copyHeaders[0]: Host cannot be taken out"),
        (asked("http://auth/", *["X-A"] * 101), "access.forwardAuth.copyHeaders: has more than 100 items"),
        ({"access": {"forwardAuth": {"copyHeaders": []}}}, "access.forwardAuth.url: is missing"),
        ({"rateLimit": {}}, "rateLimit.requests: is missing"),
        ({"rateLimit": {"requests": 0}}, "rateLimit.requests: must be from 1 to 1000000000"),
        ({"rateLimit": {"requests": 10**9 + 1}}, "rateLimit.requests: must be from 1 to 1000000000"),
        ({"rateLimit": {"requests": 1.5}}, "rateLimit.requests: expected an integer"),
        ({"rateLimit": {"requests": 1, "per": 0}}, "rateLimit.per: must be at least 1ms"),
        ({"rateLimit": {"requests": 1, "per": "0.4ms"}}, "rateLimit.per: must be at least 1ms"),
        ({"rateLimit": {"requests": 1, "burst": -1}}, "rateLimit.burst: must be from 0 to 1000000000"),
        ({"rateLimit": {"requests": 1, "by": "user"}}, "rateLimit.by: must be ip, route or header:NAME"),
        ({"rateLimit": {"requests": 1, "by": "header"}}, "rateLimit.by: must be ip, route or header:NAME"),
        ({"rateLimit": {"requests": 1, "by": "header:"}}, "rateLimit.by: '' is not the name of a header"),
        # What clients send with one is dropped: all would be counted as one.
        ({"rateLimit": {"requests": 1, "by": "header:x_key"}}, "rateLimit.by: 'x_key' has an underscore"),
        ({"requestBodyLimit": -1}, "requestBodyLimit: must be from 0 to"),
        ({"requestBodyLimit": 10**18}, "requestBodyLimit: must be from 0 to"),
        ({"requestBodyLimit": "1000000TiB"}, "requestBodyLimit: must be from 0 to"),
        ({"requestBodyLimit": "10 apples"}, "requestBodyLimit: '10 apples' is not a size"),
        ({"requestBodyLimit": True}, "requestBodyLimit: expected a number of bytes, or a size"),
        ({"requestBodyLimit": 1.5}, "requestBodyLimit: expected a number of bytes, or a size"),
        ({"headers": {"requests": {}}}, "headers: unknown field 'requests'"),
        ({"headers": {"request": {"set": ["X-A"]}}}, "headers.request.set: expected an object"),
        (put("request", {"X-A": 5}), "headers.request.set.X-A: expected a string"),
        (put("request", {"X-A": "a\r\nB: c"}), "headers.request.set.X-A: has a control character"),
        (put("response", {"X-A": "\x00"}), "headers.response.set.X-A: has a control character"),
        (put("response", {"X-A": "\u00e9"}), "headers.response.set.X-A: is not ASCII"),
        (put("response", {"X-A": "x" * 4097}), "headers.response.set.X-A: is longer than 4096 characters"),
        (
            put("response", {"x_first": "$nobody"}),
            "headers.response.set.x_first: has a $ at character 1 that is none of $request_id, $rem",
        ),
        (put("response", {"it's": "$"}), "headers.response.set.it's: has a $ at character 1 that"),
        (put("response", {"X-A": "a $5"}), "headers.response.set.X-A: has a $ at character 3 that is"),
        (put("request", {"X_A": "a"}), "headers.request.set: 'X_A' has an underscore"),
        (put("request", {"X-A": "a", "x-a": "b"}), "headers.request.set: has one name twice"),
        (put("response", {"X-A": "a", "x-a": "b"}), "headers.response.set: has one name twice"),
        (put("request", {"": "a"}), "headers.request.set: '' is not the name of a header field"),
        (put("request", {"A:": "a"}), "headers.request.set: 'A:' is not the name of a header field"),
        (put("request", {"A\r\nB": "a"}), "headers.request.set: 'A\\r\\nB' is not the name"),
        (put("request", {"A @ $.b": "a"}), "headers.request.set: 'A @ $.b' is not the name"),
        (put("request", {"\u212aey": "a"}), "headers.request.set: '\u212aey' is not the name"),
        (put("request", {"host": "a b"}), "headers.request.set: Host is set to what no host is"),
        (put("request", {"HOST": ""}), "headers.request.set: Host is set to what no host is"),
        (put("request", {"Host": "$host/x"}), "headers.request.set: Host is set to what no host is"),
        (put("request", {"Host": "a.com:99999"}), "headers.request.set: Host is set to what no host is"),
        ({"headers": {"request": {"remove": ["Host"]}}}, "headers.request.remove[0]: Host cannot be taken"),
        ({"headers": {"request": {"remove": ["X_A"]}}}, "headers.request.remove[0]: 'X_A' has an underscore"),
        ({"headers": {"response": {"remove": "X-A"}}}, "headers.response.remove: expected a list"),
        ({"headers": {"response": {"remove": ["X" * 257]}}}, "headers.response.remove[0]: 'XXX"),
        ({"compress": "yes"}, "compress: expected true or false"),
        ({"cache": 1}, "cache: expected true or false"),
        ({"errorPages": {"200": "x"}}, "errorPages: '200' is neither a status from 400 to 599 nor 4xx"),
        ({"errorPages": {"600": "x"}}, "errorPages: '600' is neither"),
        ({"errorPages": {"40x": "x"}}, "errorPages: '40x' is neither"),
        ({"errorPages": {"50\u0663": "x"}}, "errorPages: '50\u0663' is neither"),
        ({"errorPages": {"5xx": "x", "5XX": "y"}}, "errorPages: '5xx' is there twice"),
        ({"errorPages": {"503": None}}, "errorPages.503: expected a string"),
        ({"errorPages": {"503": "\u00e9" * (MAX_PAGE // 2 + 1)}}, "errorPages.503: is longer than 64 KiB"),
        ({"errorPages": {"503": "it costs $5"}}, "errorPages.503: has a $ at character 10 that is none"),
        ({"errorPages": {"503": "\ud800"}}, "errorPages.503: has half of a surrogate pair"),
        ({"errorPages": {str(n): "x" for n in range(10_001)}}, "errorPages: has more than 10000 fields"),
        ({"paused": "yes"}, "paused: expected true, false or an object"),
        ({"paused": 1}, "paused: expected true, false or an object"),
        ({"paused": {"retryAfter": "-5m"}}, "paused.retryAfter: '-5m' is negative"),
        ({"paused": {"until": 5}}, "paused: unknown field 'until'"),
        ({"paused": {"message": "a\nb"}}, "paused.message: has a control character"),
        ({"paused": {"message": "x" * 1001}}, "paused.message: is longer than 1000 characters"),
        ({"id": "a.com", "stripPrefix": True}, "stripPrefix: the id has no path prefix that could be taken"),
        ({"id": "*.a.com", "stripPrefix": True}, "stripPrefix: the id has no path prefix"),
        ({"id": "/shop-svc"}, "target: is not for a service: its instances are those of the registry"),
        ({"id": "/shop-svc", "target": None, "targets": [{"url": "b"}]}, "targets: is not for a service"),
        (
            {"id": "/shop-svc", "target": None, "tlsInsecureSkipVerify": False},
            "tlsInsecureSkipVerify: is not for a service",
        ),
        ({"id": "/user-svc", "target": None}, "id: is built in: give a policy to a Route with the target se"),
        ({"id": "/Shop", "target": None}, "id: must be HOST, HOST/PREFIX, or /SLUG for a service"),
        ({"id": "/a/b", "target": None}, "id: must be HOST, HOST/PREFIX, or /SLUG for a service"),
        ({"id": "/", "target": None}, "id: must be HOST, HOST/PREFIX, or /SLUG for a service"),
        *[
            (put(side, {name: "x"}), f"headers.{side}.set: {name!r} frames messages")
            for side in ("request", "response")
            for name in FRAMING
        ],
        *[
            ({"headers": {"response": {"remove": [name]}}}, f"headers.response.remove[0]: {name!r} frames")
            for name in FRAMING
        ],
    ],
)
def test_what_is_wrong_is_named(fields, wanted):
    message = refused(**fields)
    assert message.startswith(wanted), message
    assert "\n" not in message and "\r" not in message


def test_a_secret_is_not_repeated():
    for fields in (
        users(("ada", "hunter22")),
        users(("ada", HASH[:-2])),
        users(("ada", "$2y$31$" + BCRYPT[7:])),
        users(("ada:hunter22", HASH)),
        asked("http://ada:hunter22@auth/"),
        asked("http://ada:hunter22/x@auth/"),
        put("request", {"Authorization": "Bearer hunter22\n"}),
        put("request", {"Authorization": "Bearer 5$hunter22"}),
        put("request", {"Authorization": "Bearer hunter22\u00e9"}),
    ):
        message = refused(**fields)
        assert "hunter22" not in message and HASH[20:-2] not in message and "abcdefgh" not in message, message
    body = structure(SaveRoutesBody, {"routes": [{"id": "a.com/x", "target": "b", **FULL}]})
    assert "ada" in repr(body) and HASH not in repr(body)
    assert HASH not in repr(record(**FULL)) and BCRYPT not in repr(record(**FULL))


def test_an_entry_of_a_service():
    fields = {"balance": "ip_hash", "timeouts": {"connect": "1s"}, "retries": 0, **FULL}
    route = record(id=" /shop-svc ", target=None, **fields)
    assert (route.id, route.target, route.targets) == ("/shop-svc", "", ())
    assert route_json(route) == {"id": "/shop-svc", **fields}


def test_a_built_in_service_behind_a_route():
    assert record(target="service:user-svc", cache=True).policy.cache


_name = st.sampled_from(["X-A", "x-b", "Cookie", "a.b!", "X-Forwarded-For"])
_value = st.lists(
    st.sampled_from(["a", " ", "$$", "; q=1", '"', *(f"${name}" for name in PLACEHOLDERS)]), max_size=4
).map(" ".join)
_edits = st.fixed_dictionaries(
    {},
    optional={
        "set": st.dictionaries(_name, _value, max_size=3),
        "remove": st.lists(_name, max_size=3),
    },
)
_time = st.integers(1, 86_400_000).map(lambda ms: ms / 1000) | st.sampled_from(["5s", "1m30s", "7"])
_v4 = st.builds(
    lambda n, bits: f"{(n >> 24)}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/{bits}",
    st.integers(0, 31).map(lambda shift: (0xFFFFFFFF << shift) & 0xFFFFFFFF),
    st.just(32),
)
_cidr = st.ip_addresses().map(str) | _v4 | st.sampled_from(["10.0.0.0/8", "::/0", "::ffff:10.0.0.0/104"])
_user = st.fixed_dictionaries(
    {"user": st.text("ab \u00e9$", min_size=1, max_size=4), "passwordHash": st.sampled_from([HASH, BCRYPT])}
)
_access = st.fixed_dictionaries(
    {},
    optional={
        "allow": st.lists(_cidr, min_size=1, max_size=4),
        "deny": st.lists(_cidr, max_size=4),
        "basicAuth": st.lists(_user, min_size=1, max_size=3, unique_by=lambda each: each["user"]),
        "forwardAuth": st.fixed_dictionaries(
            {"url": st.sampled_from(["auth", "https://auth:1/x?y", "service:a/b", "unix:/s:/t"])},
            optional={"copyHeaders": st.lists(_name, max_size=3)},
        ),
    },
)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "stripPrefix": st.booleans(),
        "access": _access,
        "rateLimit": st.fixed_dictionaries(
            {"requests": st.integers(1, 10**9)},
            optional={
                "per": _time,
                "burst": st.integers(0, 10**9),
                "by": st.sampled_from(["ip", "route", "header:X-Key"]),
            },
        ),
        "requestBodyLimit": st.integers(0, 10**18 - 1) | st.sampled_from(["0", "10MB", "1 KiB"]),
        "headers": st.fixed_dictionaries({}, optional={"request": _edits, "response": _edits}),
        "compress": st.booleans(),
        "cache": st.booleans(),
        "errorPages": st.dictionaries(
            st.integers(400, 599).map(str) | st.sampled_from(["4xx", "5XX"]),
            st.text("ab<>\u00e9\n", max_size=5).map("{}$status$$".format),
            max_size=3,
        ),
        "interceptErrors": st.booleans(),
        "paused": st.booleans()
        | st.fixed_dictionaries(
            {}, optional={"retryAfter": _time, "message": st.text("ab \u00e9", max_size=4)}
        ),
    },
)
"""The fields of a policy, all of them right, in whatever form."""


@PROPERTY
@given(POLICIES)
def test_what_a_listing_shows_can_be_saved_again(fields):
    route = record(**fields)
    # Over the wire and back.
    listed = json.loads(json.dumps(route_json(route)))
    [again] = structure(SaveRoutesBody, {"routes": [listed]}).records()
    assert again == route and route_json(again) == listed


@PROPERTY
@given(POLICIES)
def test_a_database_keeps_all_of_it(fields):
    route = record(**fields)
    row = route_row(route)
    kept = ROUTES.of((row["id"], row["target"], json.loads(json.dumps(row["fields"]))))
    assert kept == route and isinstance(kept, Route)
    if kept.policy == NO_POLICY:
        assert kept.policy is NO_POLICY


@PROPERTY
@given(POLICIES)
def test_what_is_taken_can_be_made_ready(fields):
    guards = Guards(
        RouteUpstreams(Targets(lambda slug: None)),
        cheap_work(),
        lambda: 0.0,
    )
    route = record(**fields)
    made = guards.of(route)
    if route.policy is NO_POLICY:
        assert isinstance(made, Upstream)
    else:
        assert isinstance(made, Guard) and made.route is route


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-real-ip", "Connection", "X_User", "Forwarded", "TE"])
def test_fields_that_tell_no_clients_apart(name):
    """All of them would share one limit, which one of them could use up."""
    with pytest.raises(BadRequest, match=r"rateLimit\.by"):
        record(rateLimit={"requests": 1, "by": f"header:{name}"})
    assert record(rateLimit={"requests": 1, "by": "header:Host"}).policy.rate_limit.by == "header:host"


def test_built_in_services_do_not_decide_on_access():
    with pytest.raises(BadRequest, match=r"forwardAuth\.url: names a built-in service"):
        record(access={"forwardAuth": {"url": "service:user-svc/user-svc/self"}})


@pytest.mark.parametrize(
    "headers",
    [
        {"response": {"set": {"Date": "today"}}},
        {"response": {"remove": ["date"]}},
        {"request": {"set": {"Host": "$remote_user.x"}}},
    ],
)
def test_edits_that_nobody_can_want(headers):
    with pytest.raises(BadRequest, match="headers"):
        record(headers=headers)
