from __future__ import annotations

import pathlib
import socket
import threading
from collections.abc import Iterator

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.cli.client import Client, Refusal, canonical_url, is_loopback, one_line
from tests.cli.fake_api import FakeApi


def failure(client: Client, path: str = "/x", token: str | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        client.call("GET", path, token=token)
    return str(caught.value)


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody listens on, kept so while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def answering_once(raw: bytes | None) -> str:
    """A server that answers one connection with these bytes; None: says nothing until the client goes."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection, server:
            connection.recv(65536)
            if raw is None:
                connection.recv(65536)
            else:
                connection.sendall(raw)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:11337", "http://127.0.0.1:11337"),
        (" HTTP://Example.COM:80/ ", "http://example.com"),
        ("https://x:443/base//", "https://x/base"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_canonical_url(text: str, expected: str) -> None:
    assert canonical_url(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not an http"),
        ("localhost:11337", "not an http"),
        ("//x", "not an http"),
        ("http://", "names no host"),
        ("http:// :", "a character that no URL has"),
        ("http://x/a b", "a character that no URL has"),
        ("http://x:99999", "is not a URL"),
        ("http://x:y", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://x?a=1", "has a query or a fragment"),
        ("http://x#a", "has a query or a fragment"),
        ("http://ada:secret@x", "no user and password"),
    ],
)
def test_bad_urls(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        canonical_url(text)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=30) | st.text("htps:/[]@?#.%1x ", max_size=20).map("http://".__add__))
def test_any_text_is_a_canonical_url_or_an_error(text: str) -> None:
    try:
        url = canonical_url(text)
    except ValueError:
        return
    assert canonical_url(url) == url
    is_loopback(url)


@given(st.text())
def test_one_line_is_one_printable_line(text: str) -> None:
    assert one_line(text).isprintable()


def test_nobody_there(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    assert failure(Client(url)) == (
        f"cannot connect to {url} (Connection refused): is the proxy running? "
        "start it with: twistd -n onebackend-proxy"
    )


def test_no_such_host() -> None:
    text = failure(Client("http://nowhere.invalid"))
    assert text.startswith("cannot connect to http://nowhere.invalid (")
    assert "object at 0x" not in text


def test_tls_where_there_is_none(api: FakeApi) -> None:
    text = failure(Client(api.url.replace("http:", "https:")))
    assert text.startswith("TLS with https://127.0.0.1:")


def test_a_server_that_says_nothing() -> None:
    url = answering_once(None)
    assert failure(Client(url, timeout=0.2)) == f"{url} gave no answer within 0.2 seconds"


@pytest.mark.parametrize("raw", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"])
def test_a_server_that_breaks_off(raw: bytes) -> None:
    url = answering_once(raw)
    assert failure(Client(url)).startswith(f"the connection to {url} broke: ")


@pytest.mark.parametrize(
    ("status", "raw", "expected"),
    [
        (400, b'{"error": "routes[0].id: empty"}', "routes[0].id: empty"),
        (400, b'{"error": "two\\nlines \\u001b[31m"}', "two lines  [31m"),
        (502, b"<html>", "{url} answered 502 Bad Gateway"),
        (500, b'{"error": 5}', "{url} answered 500 Internal Server Error"),
        (500, b'{"error": " "}', "{url} answered 500 Internal Server Error"),
        (200, b"<html>", "{url} answered 200, but not in JSON: is it a 1Backend proxy?"),
        (200, b"[" * 100000, "{url} answered 200, but not in JSON: is it a 1Backend proxy?"),
    ],
)
def test_refusals_are_one_line(api: FakeApi, status: int, raw: bytes, expected: str) -> None:
    api.script("GET", "/x", status, raw=raw)
    assert failure(Client(api.url)) == expected.format(url=api.url)


def test_a_redirect_is_named_and_not_followed(api: FakeApi) -> None:
    api.script("GET", "/x", 308, headers={"Location": "https://real.example/x"})
    assert failure(Client(api.url), token="secret") == (
        f"{api.url} answered 308 and points to https://real.example/x: give that as the URL"
    )
    assert len(api.seen) == 1


def test_netrc_and_proxies_keep_out(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, port: int
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password x\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    client = Client(api.url)
    client.call("GET", "/user-svc/public-key")
    assert "authorization" not in api.seen[-1].headers
    client.send("GET", "/x", token="tok")
    assert api.seen[-1].headers["authorization"] == "Bearer tok"
    assert "the HTTP proxy before http://example.com failed" in failure(Client("http://example.com"))


def test_an_error_of_requests_shows_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "secret" not in failure(Client("http://127.0.0.1:1"), token="secret\n")

    def broken(*args: object, **more: object) -> None:
        raise requests.exceptions.ContentDecodingError("bad gzip")

    monkeypatch.setattr(requests.Session, "request", broken)
    assert failure(Client("http://x")).startswith("the connection to http://x broke: ")
