"""What can be switched on at our front desk, one by one: the policy, what asks for it, and what proves it."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend import AUTH, CACHED, JSON_2K, JSON_2K_ANSWER, MIB, SMALL_ANSWER
from load import Load, Outcome, pace, saturate
from measures import Bench, Check, Measure, Measured, answers, probe, rated, watched
from processes import Running

USER = "bench:a password of the bench"
BASIC = "Authorization: Basic " + base64.b64encode(USER.encode()).decode()
GZIP = "Accept-Encoding: gzip"
OFFERED, ADMITTED, BURST = 10_000, 1_000, 50
"""Requests/s that are sent and that a limit lets in, and how many more at once."""
MANY = 1_000_000_000
FOREIGN = "127.0.0.66"
SMALL_OK = answers(SMALL_ANSWER)
JSON_OK = answers(JSON_2K_ANSWER)


@dataclass(frozen=True)
class Refusal:
    """A request that the policy must refuse with this status."""

    status: int
    load: Load
    source: str = "127.0.0.1"


@dataclass(frozen=True)
class Variant:
    """One policy (fields of ``PUT /proxy-svc/routes``) of the service ``<name>-svc``.

    `path` is asked for below that; `{run}` in it is another word in each round. `asks` says that every
    request comes to the backend. `beside` is what it is compared with.
    """

    title: str
    policy: Mapping[str, Any] = field(default_factory=dict)
    path: str = "x"
    headers: tuple[str, ...] = ()
    check: Check = SMALL_OK
    refusal: Refusal | None = None
    asks: bool = True
    beside: str = "plain"


def _with(name: str, contains: str, check: Check) -> Check:
    """The answer must have a field with this in it, and also pass the other check."""

    def both(answer: http.client.HTTPResponse) -> str:
        wrong = check(answer)
        got = answer.headers.get(name, "")
        return wrong or ("" if contains in got else f"{name}: {got!r} has no {contains!r}")

    return both


def _gzipped(answer: http.client.HTTPResponse) -> str:
    size = len(answer.read())
    return "" if 0 < size < len(JSON_2K_ANSWER) else f"{size} bytes"


VARIANTS = {
    "plain": Variant("no policy", beside=""),
    "addresses": Variant(
        "addresses",
        {"access": {"allow": ["127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"], "deny": ["10.6.6.6", FOREIGN]}},
        refusal=Refusal(403, Load("x"), FOREIGN),
    ),
    "credentials": Variant("no policy, credentials for the service", headers=(BASIC,), beside=""),
    "basic": Variant(
        "basicAuth, known credentials",
        {"access": {"basicAuth": [{"user": "bench", "passwordHash": USER.partition(":")[2]}]}},
        headers=(BASIC,),
        refusal=Refusal(401, Load("x")),
        beside="credentials",
    ),
    # What nobody is refused by is there all the same: the fields say so.
    "rate": Variant(
        "rateLimit by address",
        {"rateLimit": {"requests": MANY, "per": "1s", "by": "ip"}},
        check=_with("RateLimit-Limit", f"{MANY}", SMALL_OK),
    ),
    "edits": Variant(
        "headers set and removed",
        {
            "headers": {
                "request": {"set": {"X-Trace": "$request_id", "X-Front": "bench"}, "remove": ["X-Secret"]},
                "response": {"set": {"X-Frame-Options": "DENY"}, "remove": ["Server"]},
            }
        },
        check=_with("X-Frame-Options", "DENY", SMALL_OK),
    ),
    "strip": Variant("stripPrefix", {"stripPrefix": True}),
    "body": Variant(
        "requestBodyLimit", {"requestBodyLimit": MIB}, refusal=Refusal(413, Load("x", "POST", body=MIB + 1))
    ),
    "forward": Variant(
        "forwardAuth, asked for each request",
        {"access": {"forwardAuth": {"url": "{backend}" + AUTH, "copyHeaders": ["X-User"]}}},
    ),
    "hit": Variant(
        "cache, hits",
        {"cache": True},
        CACHED,
        asks=False,
        beside="miss",
    ),
    # Each of them is another target, and is stored.
    "miss": Variant(
        "cache, misses that are stored", {"cache": True}, CACHED + "?{run}-{n}", beside="nocache"
    ),
    "nocache": Variant("the same answers, no policy", path=CACHED, beside=""),
    "json": Variant("JSON of 2 KiB, no policy", path=JSON_2K, headers=(GZIP,), check=JSON_OK, beside=""),
    "gzip": Variant(
        "JSON of 2 KiB, compress",
        {"compress": True},
        JSON_2K,
        (GZIP,),
        _with("Content-Encoding", "gzip", _gzipped),
        beside="json",
    ),
    "limited": Variant(
        "rateLimit",
        {"rateLimit": {"requests": ADMITTED, "per": "1s", "burst": BURST, "by": "ip"}},
        beside="",
    ),
    # Two that must never get a figure.
    "lax": Variant("(refuses nobody)", refusal=Refusal(403, Load("x"))),
    "asking": Variant("(asks for each hit)", path=CACHED, asks=False),
}


def entry(name: str, backend: str) -> dict[str, Any]:
    """The Route entry of a variant, as the API takes it; empty where there is no policy."""
    policy = dict(VARIANTS[name].policy)
    if not policy:
        return {}
    access = dict(policy.get("access", {}))
    if users := access.get("basicAuth"):
        from onebackend_proxy.passwords import hash_password

        access["basicAuth"] = [
            {**user, "passwordHash": hash_password(user["passwordHash"])} for user in users
        ]
    if forward := access.get("forwardAuth"):
        access["forwardAuth"] = {**forward, "url": forward["url"].format(backend=backend)}
    return {"id": f"/{name}-svc", **policy, **({"access": access} if access else {})}


def _load(name: str, path: str = "") -> Load:
    variant = VARIANTS[name]
    run = secrets.token_hex(4)
    return Load(f"/{name}-svc/" + (path or variant.path).replace("{run}", run), headers=variant.headers)


def _refused(proxy: Running, refusal: Refusal) -> list[str]:
    """What is wrong with the answer to a request that must be refused."""
    load = refusal.load
    connection = http.client.HTTPConnection(
        "127.0.0.1", proxy.port, timeout=20, source_address=(refusal.source, 0)
    )
    with contextlib.closing(connection):
        connection.request(load.method, f"/{proxy.variant}-svc/{load.path}", b"x" * load.body or None)
        status = connection.getresponse().status
    return [] if status == refusal.status else [f"probe: status {status}, not {refusal.status}"]


def _from_memory(bench: Bench, run: Callable[[], Outcome]) -> Outcome:
    """The outcome of the load, with an error where the backend was asked all the same."""
    before = bench.backend.requests()
    outcome = run()
    seen = bench.backend.requests(before + outcome.requests // 100) - before
    if not outcome.requests or seen > outcome.requests // 100:
        outcome.errors.append(f"{seen} of {outcome.requests} requests came to the backend")
    return outcome


def variant_rate(bench: Bench, proxy: Running) -> Measured:
    """Answers a second with what the proxy's variant has switched on."""
    variant = VARIANTS[proxy.variant]
    load = _load(proxy.variant)
    wrong = _refused(proxy, variant.refusal) if variant.refusal else []
    # The first one may be a miss, or compute a hash.
    wrong = wrong or probe(proxy, load, variant.check) or probe(proxy, load, variant.check)
    if wrong:
        return Measured(0.0, errors=wrong)
    look = watched if variant.asks else _from_memory
    return rated(proxy, lambda: look(bench, lambda: saturate(proxy, load, bench.seconds)))


def admitted(bench: Bench, proxy: Running) -> Measured:
    """How far from its limit it lets in, in %: ADMITTED a second of OFFERED, and BURST + 1 at once."""
    load = dataclasses.replace(_load(proxy.variant), also=429)
    outcome = watched(bench, lambda: pace(proxy, load, bench.seconds, OFFERED))
    offered = (outcome.requests + outcome.others) / outcome.seconds
    if offered < 0.95 * OFFERED:
        outcome.errors.append(f"only {offered:,.0f} requests/s were sent")
    expected = ADMITTED * outcome.seconds + BURST + 1
    columns = {"admitted": outcome.requests, "expected": expected, "refused": outcome.others}
    return Measured(100 * abs(outcome.requests / expected - 1), columns, outcome.errors)


def logged(load: Load, check: Check) -> Measure:
    """Answers a second where each of them must have its line in the log, if there is one."""

    def measure(bench: Bench, proxy: Running) -> Measured:
        if wrong := probe(proxy, load, check):
            return Measured(0.0, errors=wrong)
        before = proxy.log_lines()
        measured = rated(proxy, lambda: watched(bench, lambda: saturate(proxy, load, bench.seconds)))
        lines = proxy.log_lines(before + measured.answers) - before
        if proxy.log and lines < measured.answers:
            measured.errors.append(f"{lines} lines in the log for {measured.answers} answers")
        return measured

    return measure
