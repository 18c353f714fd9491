"""The metrics of the real program: the page's examples, and that what is counted is what is logged."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect
from websockets.sync.server import serve

from onebackend_proxy.passwords import hash_password

from .edge import Edge
from .examples import DOCS, OO, code_blocks
from .policies import Reply, Service
from .programs import curl
from .proxy_process import ADMIN_PASSWORD, environment
from .raw_backend import RawBackend
from .raw_client import RawClient
from .recording import Received
from .test_websocket import echo
from .waiting import free_port, wait_until

PAGE = "metrics.rst"
TOKEN = "a-token-for-the-scraper"
PREFIX = "onebackend_proxy_"
ACCEPTED_BY_PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)


def blocks(kind: str) -> list[str]:
    """The page's code blocks of this kind."""
    return code_blocks(PAGE, kind)


def samples(text: str) -> Iterator[Any]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def scraped(url: str) -> str:
    answer = requests.get(
        f"{url}/proxy-svc/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20
    )
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_example_with_curl(new_proxy):
    [export, twistd, command] = blocks("console")[0].strip().splitlines()
    assert (
        export.startswith("$ export OB_PROXY_METRICS_TOKEN=") and twistd == "$ twistd -n onebackend-proxy &"
    )
    proxy = new_proxy(OB_PROXY_METRICS_TOKEN=TOKEN)
    here = command.removeprefix("$ ").replace("127.0.0.1:11337", f"127.0.0.1:{proxy.port}")
    assert here != command and here.startswith("curl ")
    done = subprocess.run(
        ["sh", "-c", shlex.quote(curl()) + " -sS" + here.removeprefix("curl")],
        env={"OB_PROXY_METRICS_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = [line for line in blocks("text")[0].splitlines() if line.startswith("#")]
    assert shown and all(line in done.stdout.splitlines() for line in shown)
    assert 'onebackend_proxy_requests_total{code="2xx",route=""}' in done.stdout
    proxy.stop()
    assert TOKEN not in proxy.log()


def test_the_example_with_oo(new_proxy):
    assert blocks("console")[1].strip() == "$ oo get /proxy-svc/metrics"
    proxy = new_proxy()
    done = subprocess.run(
        [*OO, "get", "/proxy-svc/metrics"],
        env=environment(OB_SERVER_URL=proxy.url, OB_ADMIN_PASSWORD=ADMIN_PASSWORD, HOME=str(proxy.folder)),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert value_of(done.stdout, "connections") >= 1


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_a_request_that_brings_no_trace_begins_one(new_edge, protocol):
    edge = new_edge("--trace")
    service = Service()
    with RawBackend(service) as backend:
        edge.certify("front.test")
        edge.route("front.test", backend.url)
        edge.curl("https://front.test/", protocol, "--header", "tracestate: a=b")
        given = f"00-{'a' * 32}-{'b' * 16}-00"
        edge.curl("https://front.test/", protocol, "-H", f"traceparent: {given}", "-H", "tracestate: a=b")
    [began, passed] = service.requests
    [parent] = began.all(b"traceparent")
    [request_id] = began.all(b"x-request-id")
    assert re.fullmatch(rb"00-%b-[0-9a-f]{16}-01" % request_id, parent)
    assert began.all(b"tracestate") == []
    assert (passed.all(b"traceparent"), passed.all(b"tracestate")) == ([given.encode()], [b"a=b"])
    edge.stop()


def test_the_configuration_of_prometheus(new_proxy, tmp_path):
    proxy = new_proxy("--metrics-token", TOKEN)
    [job] = yaml.safe_load(blocks("yaml")[0])["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:11337"]}]
    assert pathlib.Path(job["authorization"]["credentials_file"]).is_absolute()
    url = f"http://127.0.0.1:{proxy.port}{job['metrics_path']}"
    headers = {"Accept": ACCEPTED_BY_PROMETHEUS, "Accept-Encoding": "gzip"}
    assert requests.get(url, headers=headers, timeout=20).status_code == 401
    answer = requests.get(url, headers=headers | {"Authorization": f"Bearer {TOKEN}"}, timeout=20)
    assert answer.status_code == 200
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


def test_the_alerts_name_what_there_is():
    rules = yaml.safe_load(blocks("yaml")[1])["groups"][0]["rules"]
    documented = set(re.findall(r"``(onebackend_proxy_\w+)``", (DOCS / PAGE).read_text()))
    for rule in rules:
        names = set(re.findall(r"onebackend_proxy_\w+", rule["expr"]))
        assert names and {name.removesuffix("_bucket") for name in names} <= documented, rule


@contextlib.contextmanager
def websockets_at() -> Iterator[str]:
    with serve(echo, "127.0.0.1", 0) as server:
        import threading

        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def fresh(received: Received) -> Reply:
    """An answer that may be kept."""
    return Reply(b"" if received.method == b"HEAD" else b"hello", ("Cache-Control: max-age=60",))


POLICIES: dict[str, dict[str, Any]] = {
    "limited": {"rateLimit": {"requests": 1, "per": "1h", "burst": 1}},
    "shut": {"access": {"deny": ["127.0.0.0/8"]}},
    "secret": {"access": {"basicAuth": [{"user": "a", "passwordHash": hash_password("b")}]}},
    "small": {"requestBodyLimit": "10B"},
    "cached": {"cache": True},
    "edited": {"headers": {"response": {"set": {"X-A": "b"}}}, "compress": True},
}


def many_ways(edge: Edge, service: str, dead: str, tunnels: str) -> None:
    """Requests of all kinds, on every port and protocol, that end in every way."""
    edge.certify("front.test", "*.front.test")
    edge.api.add_instance(service, "plain-svc")
    edge.api.add_instance(dead, "dead-svc")
    edge.api.add_instance(tunnels, "tunnel-svc")
    edge.route("front.test", service)
    edge.route("dead.front.test", dead)
    edge.route("api.front.test", "service:user-svc")
    edge.redirect("front.test/old", "/new")
    for name, policy in POLICIES.items():
        edge.route(f"{name}.front.test", service, **policy)
    edge.route("guarded.front.test", "service:user-svc", headers={"response": {"set": {"X-A": "b"}}})
    below = (*POLICIES, "guarded", "api", "dead", "nobody")
    hosts = ["front.test", *(f"{name}.front.test" for name in below)]
    for protocol in "--http1.1", "--http2":
        for host in hosts:
            for path in "/", "/user-svc/public-key", "/old/x", "/a/../b":
                edge.curl(f"https://{host}{path}", protocol, check=False)
        edge.curl("https://small.front.test/", protocol, "--data", "x" * 100, check=False)
        edge.curl("https://front.test/", protocol, "--head")
        edge.curl("https://front.test/", protocol, "--data", "x" * 100)
    edge.curl("http://front.test/a")
    edge.curl("http://unknown.test/a")
    for path in "plain-svc/x", "dead-svc/x", "nobody-svc/x", "", "proxy-svc/none", "user-svc/public-key":
        requests.get(f"{edge.url}/{path}", timeout=20)
    with connect(f"ws://127.0.0.1:{edge.port}/tunnel-svc/x") as tunnel:
        tunnel.send("hello")
        assert tunnel.recv() == "hello"


NOT_HTTP = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET /user-svc/x HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
)


def not_http(port: int) -> None:
    """What is no request, and one that nobody waits for."""
    for data in NOT_HTTP:
        with RawClient(port) as client:
            client.send(data)
            client.to_the_end()


def test_what_is_counted_is_what_is_logged(new_edge, tmp_path):
    log = tmp_path / "access.log"
    edge = new_edge("--access-log", str(log), OB_PROXY_METRICS_TOKEN=TOKEN)
    with RawBackend(Service(fresh)) as backend, websockets_at() as tunnels:
        many_ways(edge, backend.url, f"http://127.0.0.1:{free_port()}", tunnels)
        not_http(edge.port)
        wait_until(lambda: value_of(scraped(edge.url), "exchanges_in_flight") == 0, "nothing is in flight")
        text = scraped(edge.url)
    edge.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    scrapes = [number for number, line in enumerate(lines) if line["target"] == "/proxy-svc/metrics"]
    logged = Counter((line["route"], line["status"] // 100) for line in lines[: scrapes[-1]])
    counted = {
        (sample.labels["route"], int(sample.labels["code"].replace("reset", "0")[0])): sample.value
        for sample in samples(text)
        if sample.name == f"{PREFIX}requests_total"
    }
    assert counted == logged
    assert {digit for _, digit in counted} == {0, 1, 2, 3, 4, 5}
    refused = Counter((line["route"], line["status"]) for line in lines)
    for host, status, name, labels in (
        ("limited.front.test", 429, "rate_limited_total", {}),
        ("shut.front.test", 403, "access_denied_total", {"rule": "addresses"}),
        ("secret.front.test", 401, "access_denied_total", {"rule": "basicAuth"}),
    ):
        assert value_of(text, name, route=host, **labels) == refused[host, status] > 0
    assert value_of(text, "cache_hits_total") > 0


def value_of(text: str, name: str, **labels: str) -> float:
    [value] = [
        sample.value for sample in samples(text) if sample.name == PREFIX + name and sample.labels == labels
    ]
    return float(value)
