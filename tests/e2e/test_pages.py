"""The examples of docs/maintenance.rst and docs/headers.rst."""

from __future__ import annotations

import pathlib

from .edge import Edge
from .examples import assert_as_shown, run, write_files
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


def test_a_slip_is_named_by_file_route_and_field_and_nothing_is_saved(front, tmp_path):
    (tmp_path / "good.yaml").write_text("id: slip.example.com\ntarget: http://frontend:8080\n")
    (tmp_path / "routes.yaml").write_text(
        "- id: first.example.com\n"
        "  target: http://frontend:8080\n"
        "- id: second.example.com\n"
        "  target: http://frontend:8080\n"
        "  access: {allow: [10.1.2.3/8], basicAuth: [{user: ada, passwordHash: hunter22}]}\n"
        "  headers: {request: {set: {X-Key: 'hunter22$nobody'}}}\n"
    )
    before = front.api.ok("POST", "/proxy-svc/routes")
    said = run(front, ["oo", "routes", "save", "good.yaml", "routes.yaml"], tmp_path, code=1)
    place = "routes.yaml: routes[1]"
    wanted = "has an address within its network: write 10.0.0.0/8, or 10.1.2.3 alone"
    assert f"oo: {place}.access.allow[0]: {wanted}; " in said
    assert f"; {place}.access.basicAuth[0].passwordHash: " in said
    assert f"; {place}.headers.request.set.X-Key: has a $ at character 9" in said
    assert "hunter22" not in said and "nobody" not in said
    assert front.api.ok("POST", "/proxy-svc/routes") == before
