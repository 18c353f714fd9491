"""1Backend's HTTP API as the tests call it."""

from __future__ import annotations

from typing import Any

import requests

from .proxy_process import ADMIN_PASSWORD

TIMEOUT = 20


class Api:
    """Calls to one proxy with one account's token."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self.token = token

    def call(self, method: str, path: str, body: Any = None, **params: str) -> requests.Response:
        """One call, whatever its answer."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return requests.request(
            method, self.url + path, json=body, params=params, headers=headers, timeout=TIMEOUT
        )

    def ok(self, method: str, path: str, body: Any = None, **params: str) -> Any:
        """One call that must succeed; its JSON."""
        answer = self.call(method, path, body, **params)
        assert answer.status_code in (200, 201, 204), f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def login(self, slug: str = "1backend", password: str = ADMIN_PASSWORD) -> Api:
        """The same server as this account."""
        body = {"appHost": "unnamed", "slug": slug, "password": password, "device": "tests"}
        return Api(self.url, self.ok("POST", "/user-svc/login", body)["token"]["token"])

    def register(self, slug: str, password: str) -> Api:
        """Make a service account, and return the server as that account."""
        body = {"appHost": "unnamed", "slug": slug, "name": slug, "password": password}
        return Api(self.url, self.ok("POST", "/user-svc/register", body)["token"]["token"])

    def add_instance(self, url: str, slug: str | None = None) -> None:
        """Register an instance, an admin naming the slug it serves."""
        body = {"url": url} if slug is None else {"url": url, "slug": slug}
        answer = self.call("PUT", "/registry-svc/instance", body)
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}"

    def instances(self, **filters: str) -> list[dict[str, Any]]:
        """The instances this account may see."""
        found: list[dict[str, Any]] = self.ok("GET", "/registry-svc/instances", **filters)["instances"]
        return found
