"""What a scrape of the metrics shows: a picture taken at one moment, and the text that is made of it.

The text is made in a thread, by prometheus_client, which is loaded when somebody first asks.
"""

from __future__ import annotations

import gzip
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import attrs

import twisted

from ..balancing import EndpointState, Health
from ..metrics import BUCKETS, RequestCounts, RouteCounts
from ..records import Certificate

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX = "onebackend_proxy_"
AT_ONCE = 100
"""Lines made before other threads, the reactor's above all, have their turn."""
BREATH = 0.0001
RATE_LIMIT = "rateLimit"
"""The rule of a policy that is about how many come, not about who."""
_DAY = 86400.0
_USABLE = frozenset((Health.HEALTHY, Health.DEGRADED))

Line = tuple[str, Mapping[str, str], float]
"""What stands behind the family's name (``_total``), the labels, and the value."""

READINGS: Mapping[str, tuple[str, str]] = {
    "connections": ("gauge", "Client connections that are open."),
    "exchanges_in_flight": ("gauge", "Requests under way to services, and tunnels."),
    "access_log_dropped_lines": ("counter", "Lines of the access log that could not be written."),
    "cache_hits": ("counter", "Requests answered from the edge cache."),
    "cache_misses": ("counter", "Requests that the edge cache had no answer to."),
    "cache_stale": ("counter", "Requests answered from the edge cache with what was not fresh any more."),
    "cache_revalidated": (
        "counter",
        "Requests answered from the edge cache once the service had said it may.",
    ),
    "cache_bypass": ("counter", "Requests that the edge cache is not for."),
    "cache_stored": ("counter", "Answers kept in the edge cache."),
    "cache_evicted": ("counter", "Answers that the edge cache had no room for any more."),
    "cache_bytes": ("gauge", "Bytes that the edge cache holds."),
    "cache_entries": ("gauge", "Answers that the edge cache holds."),
}
"""The single numbers that parts of the program give, by name: whether they only grow, and what they are."""


@attrs.frozen
class MetricSources:
    """Where the numbers come from; all of it is asked in the reactor's thread.

    `upstreams` gives every address in use, with the service (``/<slug>``) whose instance it is, or ``""`` for
    one that a Route names; `readings` are some of `READINGS`; `version` is the program's, `seconds` the
    clock. `token` lets in who has no account; nobody has the empty one.
    """

    version: str
    seconds: Callable[[], float]
    requests: RequestCounts
    upstreams: Callable[[], Iterable[tuple[str, EndpointState]]]
    certificates: Callable[[], Iterable[Certificate]]
    there_is: Callable[[str], bool]
    """Whether a Route has this id, or a service ``/<slug>`` an instance."""
    readings: Mapping[str, Callable[[], float]]
    token: str = attrs.field(default="", repr=False)

    def picture(self) -> Picture:
        """How it all is now."""
        self.requests.keep(self.there_is)
        return Picture(
            self.version,
            self.seconds(),
            self.requests.all(),
            list(self.upstreams()),
            list(self.certificates()),
            {name: read() for name, read in self.readings.items()},
        )


def _usable(endpoint: EndpointState) -> bool:
    return endpoint.health in _USABLE and not endpoint.ejected_until


@attrs.frozen
class Picture:
    """All that there is at one moment. It is looked at in a thread, while requests go on and are counted."""

    version: str
    now: float
    requests: list[tuple[str, RouteCounts]]
    upstreams: list[tuple[str, EndpointState]]
    certificates: list[Certificate]
    readings: dict[str, float]

    def collect(self) -> Iterator[Metric]:
        """The families, as prometheus_client wants them: their samples are made as they are written."""
        for name, kind, help, lines in self.families():
            yield _metric(PREFIX + name, kind, help, lines)
        yield from _process()

    def families(self) -> Iterator[tuple[str, str, str, Iterable[Line]]]:
        """Each family of ours: its name without the prefix, its kind, what it is, and its lines."""
        yield from self._of_requests()
        yield from self._of_upstreams()
        ends = [({"certificate": each.id}, each.not_after.timestamp()) for each in self.certificates]
        yield (
            "certificate_not_after_timestamp_seconds",
            "gauge",
            "When the certificate expires, in Unix seconds.",
            [("", labels, end) for labels, end in ends],
        )
        yield (
            "certificate_days_left",
            "gauge",
            "Days until the certificate expires; negative once it has.",
            [("", labels, (end - self.now) / _DAY) for labels, end in ends],
        )
        for name, value in self.readings.items():
            kind, help = READINGS[name]
            yield name, kind, help, [("_total" if kind == "counter" else "", {}, value)]
        versions = {
            "version": self.version,
            "python": platform.python_version(),
            "twisted": twisted.__version__,
        }
        yield "build_info", "gauge", "1, with what is running.", [("", versions, 1.0)]

    def _of_requests(self) -> Iterator[tuple[str, str, str, Iterable[Line]]]:
        routes = sorted(self.requests, key=lambda pair: pair[0])
        yield "requests", "counter", "Requests that were answered or given up.", _requests(routes)
        yield (
            "request_duration_seconds",
            "histogram",
            "Seconds from a request's head to the end of its answer; tunnels are not in it.",
            _durations(routes),
        )
        for name, help in (
            ("request_bytes", "Bytes of request bodies."),
            ("response_bytes", "Bytes of answers' bodies, and of what tunnels sent to clients."),
        ):
            yield name, "counter", help, _bytes(routes, name == "request_bytes")
        denied = [
            (route, rule, number) for route, counts in routes for rule, number in list(counts.denied.items())
        ]
        yield (
            "rate_limited",
            "counter",
            "Requests refused with 429 by a rate limit.",
            [("_total", {"route": route}, number) for route, rule, number in denied if rule == RATE_LIMIT],
        )
        yield (
            "access_denied",
            "counter",
            "Requests that the access rules did not let in, by the rule.",
            [
                ("_total", {"route": route, "rule": rule}, number)
                for route, rule, number in denied
                if rule != RATE_LIMIT
            ],
        )

    def _of_upstreams(self) -> Iterator[tuple[str, str, str, Iterable[Line]]]:
        healthy: dict[tuple[str, str], bool] = {}
        in_flight: dict[tuple[str, str], int] = {}
        failures: dict[tuple[str, str], int] = {}
        for service, endpoint in self.upstreams:
            # One host and port may be there several times, with other paths or schemes.
            key = service, endpoint.address.authority
            if endpoint.health is not Health.UNKNOWN:
                healthy[key] = healthy.get(key, True) and _usable(endpoint)
            in_flight[key] = in_flight.get(key, 0) + endpoint.in_flight
            failures[key] = failures.get(key, 0) + endpoint.failures_ever
        for name, kind, help, values in (
            ("upstream_healthy", "gauge", "1 if requests go to the address, 0 if it is out of use.", healthy),
            ("upstream_in_flight", "gauge", "Requests under way to the address.", in_flight),
            ("upstream_failures", "counter", "Requests that failed at the address.", failures),
        ):
            suffix = "_total" if kind == "counter" else ""
            labelled = [
                (suffix, {"route": service, "upstream": address}, float(value))
                for (service, address), value in sorted(values.items())
            ]
            yield name, kind, help, labelled


def _class(digit: int) -> str:
    # Over HTTP/2 a stream may end without an answer.
    return f"{digit}xx" if digit else "reset"


def _requests(routes: Iterable[tuple[str, RouteCounts]]) -> Iterator[Line]:
    for route, counts in routes:
        for digit, outcomes in sorted(counts.outcomes.items()):
            yield "_total", {"route": route, "code": _class(digit)}, sum(outcomes.buckets)


def _durations(routes: Iterable[tuple[str, RouteCounts]]) -> Iterator[Line]:
    bounds = [*map(repr, BUCKETS), "+Inf"]
    for route, counts in routes:
        for digit, outcomes in sorted(counts.outcomes.items()):
            if digit == 1:
                # How long a tunnel lasts is its client's affair.
                continue
            labels = {"route": route, "code": _class(digit)}
            seconds, sums = outcomes.seconds, list(accumulate(outcomes.buckets))
            for bound, number in zip(bounds, sums, strict=True):
                yield "_bucket", {**labels, "le": bound}, number
            yield "_count", labels, sums[-1]
            yield "_sum", labels, seconds


def _bytes(routes: Iterable[tuple[str, RouteCounts]], received: bool) -> Iterator[Line]:
    for route, counts in routes:
        yield "_total", {"route": route}, counts.bytes_in if received else counts.bytes_out


def _metric(name: str, kind: str, help: str, lines: Iterable[Line]) -> Metric:
    from prometheus_client import Metric

    metric = Metric(name, help, kind)
    metric.samples = _samples(name, lines)  # type: ignore[assignment]
    return metric


def _samples(name: str, lines: Iterable[Line]) -> Iterator[Any]:
    """The lines of one family as they are wanted, with time for others between."""
    from prometheus_client.samples import Sample

    for number, (suffix, labels, value) in enumerate(lines, 1):
        yield Sample(name + suffix, labels, value)  # type: ignore[arg-type]
        if number % AT_ONCE == 0:
            time.sleep(BREATH)


def _process() -> Iterator[Metric]:
    from prometheus_client import CollectorRegistry, ProcessCollector

    return iter(ProcessCollector(registry=CollectorRegistry()).collect())


def text_of(picture: Picture, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
    """The picture as text, in the format that the client likes best, and the header fields that say so."""
    from prometheus_client import exposition

    try:
        encode, content_type = exposition.choose_encoder(accept)
    except (TypeError, ValueError):
        # The client names a version that is none.
        encode, content_type = exposition.choose_encoder("")
    text = encode(picture)
    headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    if exposition.gzip_accepted(accept_encoding):
        headers["Content-Encoding"] = "gzip"
        text = gzip.compress(text, 1)
    return text, headers
