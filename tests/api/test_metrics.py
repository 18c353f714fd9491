from __future__ import annotations

import gzip
import itertools
import pathlib
import re
import time
from collections.abc import Iterable
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.addresses import parse_target
from onebackend_proxy.api import MetricSources, exposition
from onebackend_proxy.api.exposition import BREATH, PREFIX, READINGS, text_of
from onebackend_proxy.api.permissions import METRICS_VIEW
from onebackend_proxy.balancing import Ejection, EndpointState, Health
from onebackend_proxy.metrics import BUCKETS, RequestCounts

from ..tls import making
from .support import START, Api, Reply

TOKEN = "a-token-of-a-scraper"
PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "metrics.rst"


def endpoint(url: str, health: Health = Health.HEALTHY, **more: Any) -> EndpointState:
    return EndpointState(parse_target(url), health=health, **more)


def families_in(text: str, parse: Any = prometheus) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The values by the names of the lines and their labels; no line is there twice."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parse(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            values = found.setdefault(sample.name.removeprefix(PREFIX), {})
            assert labels not in values, (sample.name, labels)
            values[labels] = sample.value
    return found


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.counts = RequestCounts()
        self.endpoints: list[tuple[str, EndpointState]] = []
        self.certificates: list[Any] = []
        self.names = {"a.com", "/svc"}
        self.readings: dict[str, Any] = {}
        sources = MetricSources(
            "1.2.3",
            lambda: self.api.clock.seconds(),
            self.counts,
            lambda: self.endpoints,
            lambda: self.certificates,
            self.names.__contains__,
            self.readings,
            TOKEN,
        )
        self.api = Api(metrics=sources)
        self.successResultOf(self.api.start())

    def scrape(self, token: str = TOKEN, method: str = "GET", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        call = self.api.call(method, "/proxy-svc/metrics", token=token, headers=named)
        return self.successResultOf(Deferred.fromCoroutine(call))

    def scraped(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        reply = self.scrape()
        assert reply.status == 200, reply
        return families_in(reply.body.decode())


class TestWhoMaySee(MetricsTests):
    def test_admins_and_the_token(self) -> None:
        admin = self.successResultOf(Deferred.fromCoroutine(self.api.login()))
        assert self.scrape(admin).status == 200
        assert self.scrape().status == 200
        assert self.scrape("", authorization=TOKEN).status == 200
        assert self.scrape("", authorization=f"bearer {TOKEN}").status == 200

    def test_nobody_else(self) -> None:
        service = self.successResultOf(Deferred.fromCoroutine(self.api.register("svc")))
        reply = self.scrape(service)
        assert (reply.status, reply.error) == (403, f"the permission {METRICS_VIEW} is needed")
        for token in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é" * 20, "a.b.c"):
            reply = self.scrape(token)
            assert reply.status == 401, token
            assert reply.header("WWW-Authenticate") == "Bearer" and b"onebackend_proxy_" not in reply.body

    def test_the_token_opens_nothing_else(self) -> None:
        for method, path in ("POST", "/proxy-svc/routes"), ("PUT", "/proxy-svc/routes"):
            call = self.api.call(method, path, {}, token=TOKEN)
            assert self.successResultOf(Deferred.fromCoroutine(call)).status == 401

    def test_without_a_token_nobody_has_it(self) -> None:
        self.api = Api(metrics=MetricSources("1", lambda: 0.0, self.counts, list, list, bool, {}))
        self.successResultOf(self.api.start())
        for headers in ({}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer "}):
            assert self.scrape("", **headers).status == 401

    def test_where_nothing_is_counted_there_is_no_such_call(self) -> None:
        self.api = Api()
        self.successResultOf(self.api.start())
        assert self.scrape().status == 404

    def test_the_token_is_not_shown(self) -> None:
        assert TOKEN not in repr(MetricSources("1", lambda: 0.0, self.counts, list, list, bool, {}, TOKEN))

    def test_only_get(self) -> None:
        assert self.scrape(method="POST").status == 405
        reply = self.scrape(method="HEAD")
        assert (reply.status, reply.body) == (200, b"")


class TestFormats(MetricsTests):
    def test_the_text_of_prometheus_unless_another_is_asked_for(self) -> None:
        reply = self.scrape()
        assert reply.header("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
        assert reply.header("Cache-Control") == "no-store"
        assert reply.header("Vary") == "Accept, Accept-Encoding"

    def test_openmetrics(self) -> None:
        self.counts.add("a.com", 200, 0.1, 1, 2)
        reply = self.scrape(accept="application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1")
        content_type = reply.header("Content-Type")
        assert content_type is not None
        assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert reply.body.endswith(b"# EOF\n")
        assert families_in(reply.body.decode(), openmetrics)["requests_total"] == {
            (("code", "2xx"), ("route", "a.com")): 1
        }

    def test_what_no_client_should_say(self) -> None:
        for accept in ("application/openmetrics-text;version=x.y", ";;;,=", "text/plain;version=1.x", "é"):
            assert self.scrape(accept=accept).status == 200, accept

    def test_compressed_for_who_takes_it(self) -> None:
        self.counts.add("a.com", 200, 0.1)
        reply = self.scrape(accept_encoding="br, gzip;q=0.5")
        assert reply.status == 200
        # StubTreq's agent may have unpacked it.
        text = gzip.decompress(reply.body) if reply.header("Content-Encoding") == "gzip" else reply.body
        assert b'onebackend_proxy_requests_total{code="2xx",route="a.com"} 1.0' in text
        assert self.scrape().header("Content-Encoding") is None


class TestNumbers(MetricsTests):
    def test_requests(self) -> None:
        self.counts.add("a.com", 200, 0.004, 10, 100)
        self.counts.add("a.com", 204, 0.3, 20, 200)
        self.counts.add("a.com", 499, 11.0)
        self.counts.add("/svc", 101, 3600.0, 5, 6)
        self.counts.add("", 0, 0.0)
        found = self.scraped()
        assert found["requests_total"] == {
            (("code", "2xx"), ("route", "a.com")): 2,
            (("code", "4xx"), ("route", "a.com")): 1,
            (("code", "1xx"), ("route", "/svc")): 1,
            (("code", "reset"), ("route", "")): 1,
        }
        assert found["request_bytes_total"] == {
            (("route", ""),): 0,
            (("route", "/svc"),): 5,
            (("route", "a.com"),): 30,
        }
        assert found["response_bytes_total"][(("route", "a.com"),)] == 300
        counts = found["request_duration_seconds_count"]
        assert counts[(("code", "2xx"), ("route", "a.com"))] == 2
        assert (("code", "1xx"), ("route", "/svc")) not in counts, (
            "how long a tunnel lasts says nothing of us"
        )
        assert found["request_duration_seconds_sum"][(("code", "2xx"), ("route", "a.com"))] == 0.304
        buckets = found["request_duration_seconds_bucket"]
        taken = {
            dict(labels)["le"]: value
            for labels, value in buckets.items()
            if dict(labels).items() >= {("code", "2xx"), ("route", "a.com")}
        }
        assert [float(bound) for bound in taken] == [*BUCKETS, float("inf")]
        assert list(taken.values()) == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
        late = {dict(each)["le"]: v for each, v in buckets.items() if ("code", "4xx") in each}
        assert (late["10.0"], late["+Inf"]) == (0, 1)

    def test_what_policies_stopped(self) -> None:
        for rule in ("rateLimit", "rateLimit", "basicAuth", "addresses"):
            self.counts.denied("a.com", rule)
        found = self.scraped()
        assert found["rate_limited_total"] == {(("route", "a.com"),): 2}
        assert found["access_denied_total"] == {
            (("route", "a.com"), ("rule", "basicAuth")): 1,
            (("route", "a.com"), ("rule", "addresses")): 1,
        }

    def test_the_series_of_a_deleted_route_go(self) -> None:
        self.counts.add("a.com", 200, 0.1)
        self.counts.add("", 404, 0.1)
        assert len(self.scraped()["requests_total"]) == 2
        self.names.remove("a.com")
        assert list(self.scraped()["requests_total"]) == [(("code", "4xx"), ("route", ""))]
        assert len(self.counts) == 1

    def test_names_are_escaped(self) -> None:
        name = 'a"b\\c\nd{}é'
        self.names.add(name)
        self.counts.add(name, 200, 0.1)
        assert self.scraped()["requests_total"] == {(("code", "2xx"), ("route", name)): 1}

    def test_addresses(self) -> None:
        down = endpoint("http://10.0.0.2:80", Health.UNREACHABLE, in_flight=1)
        out = endpoint("http://10.0.0.3:80")
        for _ in range(3):
            out.failed(1.0, Ejection())
        self.endpoints = [
            ("/svc", endpoint("http://10.0.0.1:80", in_flight=2)),
            ("/svc", down),
            ("/svc", out),
            ("", endpoint("http://10.0.0.1:80/one", in_flight=1)),
            # The same host and port by another path.
            ("", endpoint("http://10.0.0.1:80/two", Health.DEGRADED, in_flight=4)),
            ("", endpoint("unix:/run/a.sock", Health.UNKNOWN)),
        ]
        found = self.scraped()

        def by_address(name: str) -> dict[tuple[str, str], float]:
            return {(dict(key)["route"], dict(key)["upstream"]): value for key, value in found[name].items()}

        assert by_address("upstream_healthy") == {
            ("/svc", "10.0.0.1:80"): 1,
            ("/svc", "10.0.0.2:80"): 0,
            ("/svc", "10.0.0.3:80"): 0,
            ("", "10.0.0.1:80"): 1,
        }
        flying = by_address("upstream_in_flight")
        assert (flying["/svc", "10.0.0.1:80"], flying["", "10.0.0.1:80"]) == (2, 5)
        assert len(flying) == 5, "one that nobody has looked at is there"
        assert by_address("upstream_failures_total")["/svc", "10.0.0.3:80"] == 3

    def test_failures_are_not_forgotten_when_it_works_again(self) -> None:
        state = endpoint("http://10.0.0.1:80")
        state.failed(1.0, Ejection())
        state.worked()
        state.refused(2.0, Ejection())
        assert (state.failures, state.failures_ever) == (1, 2)

    def test_certificates(self) -> None:
        record = making.record("x.com")
        self.certificates = [record]
        found = self.scraped()
        labels = (("certificate", record.id),)
        end = record.not_after.timestamp()
        assert found["certificate_not_after_timestamp_seconds"] == {labels: end}
        days = found["certificate_days_left"][labels]
        assert abs(days - (end - START) / 86400) < 0.001

    def test_readings(self) -> None:
        self.readings.update({"connections": lambda: 3, "cache_hits": lambda: 7})
        found = self.scraped()
        assert (found["connections"], found["cache_hits_total"]) == ({(): 3}, {(): 7})
        assert "cache_bytes" not in found

    def test_the_program(self) -> None:
        found = self.scraped()
        [labels] = found["build_info"]
        assert dict(labels).keys() == {"version", "python", "twisted"} and dict(labels)["version"] == "1.2.3"
        assert found["process_start_time_seconds"][()] <= time.time()


class TestManyRoutes(MetricsTests):
    def test_the_text_is_made_in_a_thread_and_lets_others_go_on(self) -> None:
        """10,000 routes take more than a second: the reactor must not notice."""
        ran: list[Any] = []

        def in_thread(work: Any, *arguments: Any) -> Deferred[Any]:
            done: Deferred[Any] = Deferred()
            ran.append((work, arguments, done))
            return done

        sources = MetricSources("1", lambda: 0.0, self.counts, list, list, lambda _: True, {}, TOKEN)
        api = Api(metrics=sources, in_thread=in_thread)
        self.successResultOf(api.start())
        reply = Deferred.fromCoroutine(api.call("GET", "/proxy-svc/metrics", token=TOKEN))
        self.assertNoResult(reply)
        [(work, arguments, done)] = ran
        assert work is text_of
        done.callback(work(*arguments))
        api.treq.flush()
        assert self.successResultOf(reply).status == 200

    def test_it_breathes(self) -> None:
        breaths: list[float] = []
        self.patch(time, "sleep", breaths.append)
        for number in range(20):
            self.counts.add(f"{number}.com", 200, 0.1)
        picture = MetricSources("1", lambda: 0.0, self.counts, list, list, lambda _: True, {}).picture()
        text_of(picture, "", "")
        assert breaths == [BREATH] * (20 * (len(BUCKETS) + 3) // exposition.AT_ONCE)
        assert breaths

    def test_requests_go_on_meanwhile(self) -> None:
        numbers = itertools.count()

        def request(_: float) -> None:
            number = next(numbers)
            self.counts.add(f"{number % 7}.com", 100 * (number % 5 + 1), 0.1)
            self.counts.denied(f"{number % 7}.com", f"rule {number % 3}")

        self.patch(exposition, "AT_ONCE", 1)
        self.patch(time, "sleep", request)
        for _ in range(20):
            request(0.0)
        sources = MetricSources("1", lambda: 0.0, self.counts, list, list, lambda _: True, {})
        found = families_in(text_of(sources.picture(), "", "")[0].decode())
        assert next(numbers) > 200
        for labels, value in found["request_duration_seconds_count"].items():
            last = found["request_duration_seconds_bucket"][tuple(sorted((*labels, ("le", "+Inf"))))]
            assert value == last, "a histogram is whole"


def documented() -> dict[str, set[str]]:
    """What the page's table says: each name with its labels."""
    rows = re.findall(r"^   \* - ``(onebackend_proxy_\w+)``\n     -(.*)\n", PAGE.read_text(), re.MULTILINE)
    return {name: set(re.findall(r"``(\w+)``", labels)) for name, labels in rows}


class TestDocumentation(MetricsTests):
    def exposed(self) -> Iterable[Any]:
        self.counts.add("a.com", 200, 0.1)
        self.counts.denied("a.com", "rateLimit")
        self.counts.denied("a.com", "basicAuth")
        self.endpoints = [("/svc", endpoint("http://10.0.0.1:80"))]
        self.certificates = [making.record("x.com")]
        self.readings.update(dict.fromkeys(READINGS, lambda: 1))
        return prometheus(self.scrape().body.decode())

    def test_the_table_is_what_there_is(self) -> None:
        found: dict[str, set[str]] = {}
        for family in self.exposed():
            suffix = "_total" if family.type == "counter" else ""
            if family.name.startswith(PREFIX):
                labels = {label for sample in family.samples for label in sample.labels} - {"le"}
                found[family.name + suffix] = labels
            else:
                assert f"``{family.name}{suffix}``" in PAGE.read_text()
        assert documented() == found

    def test_the_names_are_as_prometheus_wants_them(self) -> None:
        for family in self.exposed():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
            assert family.documentation.endswith((".", "seconds.")) or family.name.startswith("process_")
            assert not re.search(r"milliseconds|_ms$|kilobytes|_total$", family.name)
            assert {sample.name for sample in family.samples} & {family.name, f"{family.name}_total"} or (
                family.type == "histogram"
            )
