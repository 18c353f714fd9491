"""A little API in a thread: keeps what it is sent, and answers as CONTRACT.md says or as it is told."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import attrs


@attrs.define
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: Any

    @property
    def token(self) -> str | None:
        """The bearer token, or None if the request came without."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None


@attrs.define
class Scripted:
    """An answer that a test wants: JSON, or the bytes given."""

    status: int
    body: Any = None
    raw: bytes | None = None
    headers: dict[str, str] = attrs.field(factory=dict)


class FakeApi:
    """Tokens are `<slug>-token-<n>`; a test ends one by taking it out of `valid`."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[Seen] = []
        self.passwords = {"1backend": "admin-pass", "hello-svc": "hello-pass"}
        self.valid: set[str] = set()
        self.refreshable: set[str] = set()
        self.routes: list[dict[str, Any]] = []
        self.redirects: list[dict[str, Any]] = []
        self.certs: list[dict[str, Any]] = []
        self.instances: list[dict[str, Any]] = []
        self._scripted: dict[tuple[str, str], list[Scripted]] = {}

    def script(self, method: str, path: str, status: int, body: Any = None, **more: Any) -> None:
        """Answer the next such request so; repeated calls queue up."""
        self._scripted.setdefault((method, path), []).append(Scripted(status, body, **more))

    def calls(self, path: str) -> list[Seen]:
        """Return the requests that came for a path."""
        return [one for one in self.seen if one.path == path]

    def new_token(self, slug: str) -> str:
        """Issue a token that is valid and can be refreshed."""
        token = f"{slug}-token-{len(self.refreshable) + 1}"
        self.valid.add(token)
        self.refreshable.add(token)
        return token

    def answer(self, seen: Seen) -> Scripted:
        """Decide what a request gets."""
        self.seen.append(seen)
        waiting = self._scripted.get((seen.method, seen.path))
        if waiting:
            return waiting.pop(0)
        name = f"{seen.method} {seen.path}"
        if name == "GET /user-svc/public-key":
            return Scripted(200, {"publicKey": "PEM"})
        if name == "POST /user-svc/login":
            return self._login(seen)
        if name == "POST /user-svc/refresh-token":
            return self._refresh(seen)
        if seen.token not in self.valid:
            return Scripted(401, {"error": "this needs a login"})
        return self._answer_known(seen, name)

    def _answer_known(self, seen: Seen, name: str) -> Scripted:
        key = seen.path.rpartition("/")[2]
        if seen.path in ("/proxy-svc/routes", "/proxy-svc/redirects", "/proxy-svc/certs"):
            return Scripted(200, self._rules(seen, key, getattr(self, key)))
        if name == "POST /user-svc/self":
            slug = (seen.token or "").partition("-token")[0]
            user = {"id": "usr-1", "slug": slug, "name": "Ada", "createdAt": "", "updatedAt": ""}
            return Scripted(200, {"user": user, "roles": ["user-svc:user"], "tokenCount": 0})
        if name == "POST /user-svc/register":
            token = self.new_token(seen.body["slug"])
            return Scripted(200, {"token": {"token": token}})
        if name == "PUT /registry-svc/instance":
            return Scripted(201, {})
        if name == "GET /registry-svc/instances":
            return Scripted(200, {"instances": self.instances})
        if name.startswith("DELETE /registry-svc/instance/"):
            return Scripted(204)
        return Scripted(404, {"error": "no such path"})

    def _login(self, seen: Seen) -> Scripted:
        slug = seen.body["slug"]
        if self.passwords.get(slug) != seen.body["password"]:
            return Scripted(401, {"error": "wrong slug or password"})
        return Scripted(200, {"token": {"token": self.new_token(slug), "id": "tok-1"}})

    def _refresh(self, seen: Seen) -> Scripted:
        if seen.token not in self.refreshable:
            return Scripted(401, {"error": "the token is not ours"})
        return Scripted(200, {"token": {"token": self.new_token(seen.token.partition("-token")[0])}})

    def _rules(self, seen: Seen, key: str, kept: list[dict[str, Any]]) -> dict[str, Any]:
        if seen.method == "DELETE":
            kept[:] = [item for item in kept if item["id"] not in seen.body["ids"]]
            return {}
        if seen.method == "PUT":
            kept.extend(seen.body[key])
            # No key comes back.
            return {key: [{**item, "cert": ""} if key == "certs" else item for item in seen.body[key]]}
        ids = (seen.body or {}).get("ids")
        return {key: [item for item in kept if not ids or item["id"] in ids]}


def _request_class(api: FakeApi) -> type[http.server.BaseHTTPRequestHandler]:
    class Request(http.server.BaseHTTPRequestHandler):
        def _do(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = parse_qsl(parts.query, keep_blank_values=True)
            seen = Seen(self.command, parts.path, query, headers, json.loads(raw) if raw else None)
            answer = api.answer(seen)
            body = json.dumps(answer.body).encode() if answer.body is not None else b""
            body = body if answer.raw is None else answer.raw
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = _do

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Request


@contextlib.contextmanager
def running_api() -> Iterator[FakeApi]:
    """Run a FakeApi on a free loopback port."""
    api = FakeApi()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _request_class(api))
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
