"""A real browser before the edge: https by the local authority, HTTP/2, a WebSocket, and port 80."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import h11
import pytest

from .browser import INSTALL, Browser, BrowserMissing, find_browser, install_browser
from .echoing import echo_server
from .edge import Edge
from .raw_backend import Connection, RawBackend
from .waiting import wait_until

PATIENCE = 40

PAGE = b"""<!doctype html><title>edge</title><script type="module">
const seen = { url: location.href, secure: isSecureContext };
const hop = (entry) => entry.nextHopProtocol;
try {
  const answers = await Promise.all([...Array(20).keys()].map((n) => fetch(`/part?${n}`)));
  seen.parts = (await Promise.all(answers.map((answer) => answer.text()))).join(" ");
  seen.page = performance.getEntriesByType("navigation").map(hop);
  seen.hops = [...new Set(performance.getEntriesByType("resource").map(hop))];
  const posted = await fetch("/size", { method: "POST", body: new Uint8Array(3_000_000) });
  seen.size = await posted.text();
  seen.echo = await new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/talk/echo`);
    socket.onopen = () => socket.send("hello through the edge");
    socket.onmessage = ({ data }) => { resolve(data); socket.close(); };
    socket.onerror = () => reject(new Error("no WebSocket"));
  });
} catch (error) { seen.error = String(error); }
await fetch("/report", { method: "POST", body: JSON.stringify(seen) });
</script>"""


class Site:
    """The page, what it asks for, and what it reports."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def __call__(self, connection: Connection) -> None:
        parser = h11.Connection(h11.SERVER)
        parser.receive_data(connection.head + connection.rest())
        body = b""
        target = ""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = connection.receive()
                if not data:
                    return
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                body, target = b"", event.target.decode()
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._answer(connection, target, body)
                return
            else:
                return

    def _answer(self, connection: Connection, target: str, body: bytes) -> None:
        path, _, query = target.partition("?")
        kind = "Content-Type: text/html"
        if path == "/":
            connection.answer(PAGE, "200 OK", kind, "Connection: close")
        elif path == "/report":
            self.reports.append(json.loads(body))
            connection.answer(b"", "200 OK", kind, "Connection: close")
        elif path in ("/part", "/size"):
            connection.answer(query.encode() or b"%d" % len(body), "200 OK", kind, "Connection: close")
        else:
            connection.answer(b"", "404 Not Found", kind, "Connection: close")


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    if not all(find_browser()):
        install_browser()
    found = find_browser()
    if not all(found):
        text = f"no Chromium or no certutil, and so no test with a browser: {INSTALL}"
        warnings.warn(text, BrowserMissing, stacklevel=1)
        pytest.skip(text)
    return found


@pytest.fixture
def browser(programs: tuple[str, str], tmp_path) -> Browser:
    return Browser(*programs, tmp_path / "home")


@pytest.fixture
def site(edge: Edge, host: str) -> Iterator[tuple[str, Site]]:
    """A page below localhost, which no certificate was saved for."""
    name = f"{host.removesuffix('.test')}.localhost"
    page = Site()
    with RawBackend(page) as backend, echo_server() as talks:
        edge.route(name, backend.url)
        edge.route(f"{name}/talk", talks)
        yield name, page


def report_of(browser: Browser, page: Site, url: str, ports: dict[int, int]) -> dict[str, Any]:
    with browser.showing(url, ports) as log:
        try:
            wait_until(lambda: page.reports, "the page reports", PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}: {log.read_text(errors='replace')[-3000:]}") from None
    return page.reports[0]


def test_a_page_over_http_2_with_a_websocket(edge, site, browser):
    """It begins on port 80, as whoever types a name does."""
    name, page = site
    browser.trust("local authority", edge.trust_local())
    report = report_of(browser, page, f"http://{name}/", {80: edge.http_port, 443: edge.https_port})
    assert report == {
        "url": f"https://{name}/",
        "secure": True,
        "page": ["h2"],
        "hops": ["h2"],
        "parts": " ".join(map(str, range(20))),
        "size": "3000000",
        "echo": "hello through the edge",
    }


def test_who_does_not_trust_the_authority_sees_no_page(edge, site, browser):
    name, page = site
    with browser.showing(f"https://{name}/", {443: edge.https_port}) as log:
        # ERR_CERT_AUTHORITY_INVALID.
        wait_until(lambda: "net_error -202" in log.read_text(errors="replace"), "it is refused", PATIENCE)
    assert page.reports == []
