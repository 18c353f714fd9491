"""The examples of docs/maintenance.rst and docs/headers.rst."""

from __future__ import annotations

import pathlib

from .edge import Edge
from .examples import assert_as_shown, write_files
from .policies import Reply, Service
from .raw_backend import RawBackend
from .recording import Received

HOST = "example.com"


def reply(received: Received) -> Reply:
    """What the service of the pages says."""
    fields = ("Server: app/1.0", "Content-Type: text/plain")
    if received.target.endswith(b"/lost"):
        return Reply(b"a stack trace\n", fields, "404 Not Found")
    return Reply(b"hello\n", fields)


def follow(page: str, front: Edge, folder: pathlib.Path) -> Service:
    """Do what the page says; the service that was behind it."""
    service = Service(reply)
    with RawBackend(service) as backend:
        front.certify(HOST)
        write_files(page, folder, {"http://frontend:8080": backend.url})
        assert_as_shown(page, front, folder)
    return service


def test_maintenance(front, tmp_path):
    assert [request.target for request in follow("maintenance.rst", front, tmp_path).requests] == [
        b"/",
        b"/shop/lost",
    ]


def test_headers(front, tmp_path):
    [request] = follow("headers.rst", front, tmp_path).requests
    assert request.target == b"/cart?id=7"
    assert request.all(b"x-tenant") == [b"shop"] and request.all(b"cookie") == []
    [seen] = request.all(b"x-seen")
    assert seen == request.all(b"x-request-id")[0] + b" from 127.0.0.1"
    assert request.all(b"x-forwarded-prefix") == [b"/shop"]
    assert front.curl(f"https://{HOST}/shop", "--data-binary", "x" * 100_001).status == 413
