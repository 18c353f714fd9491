"""The scenarios: what is measured of whom, in which unit, and the targets."""

from __future__ import annotations

from dataclasses import dataclass

from backend import DOWNLOAD_100M, FILES, JSON_4K, JSON_ANSWER, MIB, POST, SMALL, SMALL_ANSWER, VARIED
from load import Load
from measures import (
    SMALL_GET,
    Measure,
    answers,
    closes,
    disturbance,
    has_length,
    idle_memory,
    latency,
    mib_per_second,
    requests_per_second,
    slow_reader_memory,
    took,
)
from peers import OURS
from tls_measures import context_memory, handshakes, http2_requests_per_second, many_names
from variants import ADMITTED, BURST, OFFERED, admitted, logged, variant_rate


@dataclass(frozen=True)
class Target:
    """A bound on our median: on its ratio to a peer's, or, `against` nobody, on the figure or a column.

    With `of` it is that peer's in place of ours, round by round.
    """

    bound: float
    against: str = ""
    at_least: bool = False
    column: str = ""
    of: str = ""

    def is_met(self, value: float) -> bool:
        """Whether this value is within the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        """As the tables tell it."""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"


@dataclass(frozen=True)
class Scenario:
    """One table. `paced_by` is the peer, and `pace` the part of its maximum, that a fixed rate is made of.

    With `names` it is over TLS, and so many are served; we keep so many `contexts`, 0 is our default.
    """

    title: str
    unit: str
    measure: Measure
    peers: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    decimals: int = 0
    fresh: bool = False
    """Each measurement gets a proxy that has done nothing yet."""
    most_rounds: int = 1000
    paced_by: str = ""
    pace: float = 0.0
    names: int = 0
    contexts: int = 0


BROWSER = (
    "Connection: keep-alive",
    "Cache-Control: max-age=0",
    'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
    'sec-ch-ua-platform: "Linux"',
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"
    " Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site: none",
    "Sec-Fetch-Mode: navigate",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Cookie: session=6a1f0c9e4b7d4f7f9a52; theme=dark; consent=1",
)
UPLOADS = Load(POST, "POST", body=MIB, connections=16)
DOWNLOADS = Load(DOWNLOAD_100M, connections=4)
IDLE = 10_000
SLOW = 50

ALL = ("nginx", "haproxy", "caddy", "traefik", "go", OURS)
WITH_LOGS = (
    "nginx",
    "nginx-installed",
    "nginx-log",
    "haproxy",
    "caddy",
    "traefik",
    "go",
    "stock",
    OURS,
    "ours-log",
)
SECURE = ("nginx", "nginx-installed", "caddy", "traefik", "go", OURS)
MANY = ("nginx", "nginx-installed", "caddy", OURS)
NAMES = 1000
CONTEXTS = 256
DESK = ("addresses", "rate", "edits", "strip", "body")
CALM = ("nginx", "haproxy", "caddy", "go", OURS)


def _at_least(**ratios: float) -> tuple[Target, ...]:
    return tuple(Target(bound, peer, at_least=True) for peer, bound in ratios.items())


def _parts(bound: float, against: str, *peers: str) -> tuple[Target, ...]:
    return tuple(Target(bound, against, at_least=True, of=peer) for peer in peers)


SCENARIOS = {
    "get": Scenario(
        "Small keep-alive GET, 64 connections",
        "requests/s",
        requests_per_second(SMALL_GET, answers(SMALL_ANSWER)),
        WITH_LOGS,
        _at_least(nginx=0.5, caddy=2.5, go=1.5, stock=8),
    ),
    "get12": Scenario(
        "The same with 12 request headers of a browser",
        "requests/s",
        requests_per_second(Load(SMALL, headers=BROWSER), answers(SMALL_ANSWER)),
        ALL,
        _at_least(nginx=0.45),
    ),
    "varied": Scenario(
        "The same with a header that is another one in each request, and one in each answer",
        "requests/s",
        requests_per_second(Load(VARIED, headers=(*BROWSER, "X-Trace: {n}")), answers(SMALL_ANSWER)),
        ALL,
    ),
    "json4k": Scenario(
        "4 KiB JSON answers, 64 connections",
        "requests/s",
        requests_per_second(Load(JSON_4K), answers(JSON_ANSWER)),
        ALL,
        _at_least(nginx=0.45),
    ),
    "post1m": Scenario(
        "POST bodies of 1 MiB, 16 connections",
        "MiB/s",
        mib_per_second(UPLOADS, took(MIB)),
        ALL,
        (*_at_least(nginx=0.5), Target(8, column="grew, MiB")),
    ),
    "download100m": Scenario(
        "Downloads of 100 MiB, 4 connections",
        "MiB/s",
        mib_per_second(DOWNLOADS, has_length(FILES[DOWNLOAD_100M])),
        ALL,
        (*_at_least(nginx=0.5), Target(8, column="grew, MiB")),
    ),
    "connect": Scenario(
        "A new connection for each request, 64 at once",
        "requests/s",
        requests_per_second(Load(SMALL, headers=("Connection: close",)), closes),
        ALL,
        _at_least(nginx=0.4),
    ),
    "idle10k": Scenario(
        f"{IDLE:,} idle keep-alive connections",
        "KiB each",
        idle_memory(IDLE),
        ALL,
        (Target(12),),
        decimals=1,
        fresh=True,
        most_rounds=3,
    ),
    "slow50": Scenario(
        f"{SLOW} slow readers of 512 MB",
        "KiB each",
        slow_reader_memory(SLOW),
        ALL,
        (Target(128), Target(8, column="grew, KiB")),
        decimals=1,
        fresh=True,
        most_rounds=3,
    ),
    "p99": Scenario(
        "p99 at 70 % of our own maximum",
        "ms",
        latency,
        CALM,
        (Target(1, "caddy"),),
        decimals=2,
        paced_by=OURS,
        pace=0.7,
    ),
    "p99caddy": Scenario(
        "p99 at 70 % of Caddy's maximum, a rate that all can keep",
        "ms",
        latency,
        CALM,
        decimals=2,
        paced_by="caddy",
        pace=0.7,
    ),
    "disturb": Scenario(
        "p99 at 30 % of our maximum among 50 slow heads, 50 slow bodies, 50 slow readers and 1000 idle"
        " openings, against p99 without them",
        "times",
        disturbance,
        CALM,
        (Target(2), Target(128, column="KiB each"), Target(8, column="grew, MiB")),
        decimals=2,
        paced_by=OURS,
        pace=0.3,
    ),
    "tls": Scenario(
        "TLS 1.3: small keep-alive GET, 64 connections",
        "requests/s",
        requests_per_second(SMALL_GET, answers(SMALL_ANSWER)),
        SECURE,
        _at_least(nginx=0.5, caddy=2),
        names=1,
    ),
    "handshake": Scenario(
        "TLS 1.3: full handshakes for each second of the proxy's processor time: a new connection,"
        " one small GET, end",
        "per CPU s",
        handshakes(resume=False),
        SECURE,
        _at_least(nginx=0.6),
        names=1,
    ),
    "resume": Scenario(
        "TLS 1.3: the same with the ticket of a connection before",
        "per CPU s",
        handshakes(resume=True),
        SECURE,
        _at_least(nginx=0.6),
        names=1,
    ),
    "sni1000": Scenario(
        f"TLS 1.3: full handshakes for {NAMES:,} names by chance, each with its own certificate, in units of"
        " processor time of one name",
        "times",
        many_names,
        MANY,
        (Target(1.1),),
        decimals=2,
        fresh=True,
        most_rounds=3,
        names=NAMES,
    ),
    "contexts": Scenario(
        f"Memory while {3 * NAMES:,} names are visited, ours with {CONTEXTS} contexts: growth after the"
        f" first {NAMES:,}",
        "MiB",
        context_memory(CONTEXTS, NAMES, 3 * NAMES),
        MANY,
        (Target(8),),
        decimals=1,
        fresh=True,
        most_rounds=2,
        names=3 * NAMES,
        contexts=CONTEXTS,
    ),
    "tlspost1m": Scenario(
        "TLS 1.3: POST bodies of 1 MiB, 16 connections",
        "MiB/s",
        mib_per_second(UPLOADS, took(MIB)),
        SECURE,
        names=1,
    ),
    "tlsdownload100m": Scenario(
        "TLS 1.3: downloads of 100 MiB, 4 connections",
        "MiB/s",
        mib_per_second(DOWNLOADS, has_length(FILES[DOWNLOAD_100M])),
        SECURE,
        names=1,
    ),
    "h2": Scenario(
        "HTTP/2 over TLS 1.3: small GETs, 64 connections, 4 at once on each",
        "requests/s",
        http2_requests_per_second,
        SECURE,
        names=1,
    ),
    "log": Scenario(
        "Access log to a file: small keep-alive GET, 64 connections, a line of each",
        "requests/s",
        logged(SMALL_GET, answers(SMALL_ANSWER)),
        ("nginx", "nginx-log", "caddy", "caddy-log", OURS, "ours-log"),
        _parts(0.9, OURS, "ours-log"),
    ),
    "policies": Scenario(
        "Policies, one by one, of services in one process of ours: small keep-alive GET, 64 connections",
        "requests/s",
        variant_rate,
        ("plain", *DESK, "credentials", "basic", "forward"),
        (*_parts(0.9, "plain", *DESK), *_parts(0.9, "credentials", "basic")),
    ),
    "cache": Scenario(
        "Cache: small answers that may be stored for an hour, 64 connections",
        "requests/s",
        variant_rate,
        ("nginx-miss", "nginx-hit", "nocache", "miss", "hit"),
        _parts(1.5, "miss", "hit"),
    ),
    "gzip": Scenario(
        "Compression: JSON of 2 KiB, with `Accept-Encoding: gzip`, 64 connections",
        "requests/s",
        variant_rate,
        ("nginx-json", "nginx-gzip", "caddy-json", "caddy-gzip", "json", "gzip"),
    ),
    "limited": Scenario(
        f"Rate limit of {ADMITTED:,} requests/s with a burst of {BURST}, offered {OFFERED:,}: off what should"
        " be let in",
        "%",
        admitted,
        ("nginx-limited", "traefik-limited", "limited"),
        (Target(5, of="limited"),),
        decimals=2,
    ),
}
