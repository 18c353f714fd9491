"""One request to the HTTP API, and every way it can fail as one line a person can act on."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs
import requests
import requests.auth

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 60.0

Query = Sequence[tuple[str, str]]

_HOST = re.compile(r"[\w.:-]+")
_PATH = re.compile(r"[!-~]*")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


class Refusal(Exception):
    """Something was refused or failed; the text is one line, `status` the HTTP status if there is one."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(one_line(text))
        self.status = status


def one_line(text: str) -> str:
    """Make any text fit for one line of a terminal: control characters become spaces."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split(" ")).strip()


def canonical_url(text: str) -> str:
    """Check a server's URL and write it one way, to be compared; ValueError says what is wrong."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL of a server holds no user and password: use oo login")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{text!r} is not an http:// or https:// URL")
    if not parts.hostname:
        raise ValueError(f"{text!r} names no host")
    if not _HOST.fullmatch(parts.hostname) or not _PATH.fullmatch(parts.path):
        raise ValueError(f"{text!r} has a character that no URL has")
    if parts.query or parts.fragment:
        raise ValueError(
            f"{text!r} has a query or a fragment; only scheme, host, port and path make a server"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}[parts.scheme]
    where = host if port is None or port == default else f"{host}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Tell whether the host of `url` is this machine talking to itself."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@attrs.frozen
class Answer:
    """What a server said: its status, its reason phrase and its body as text."""

    url: str
    status: int
    reason: str
    text: str
    location: str = ""
    asked_as: str = ""
    """Whose token the request went with, and how to use another's: said where this one may not."""

    @property
    def ok(self) -> bool:
        """True for every 2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the body as JSON, None if there is none; Refusal if it is something else."""
        if not self.text.strip():
            return None
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            raise Refusal(
                f"{self.url} answered {self.status}, but not in JSON: is it a 1Backend proxy?"
            ) from None

    def checked(self) -> Answer:
        """Return itself, or raise a Refusal with the server's own words."""
        if self.ok:
            return self
        why = self._why()
        raise Refusal(
            f"{why}, and {self.asked_as}" if self.status == 403 and self.asked_as else why, self.status
        )

    def _why(self) -> str:
        try:
            said = json.loads(self.text)
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict) and isinstance(said.get("error"), str) and said["error"].strip():
            return str(said["error"])
        if self.location:
            return f"{self.url} answered {self.status} and points to {self.location}: give that as the URL"
        return f"{self.url} answered {self.status} {self.reason}".rstrip()


class _Bearer(requests.auth.AuthBase):
    """Sets the token, or nothing; being there at all, it keeps requests from using ~/.netrc instead."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            prepared.headers["Authorization"] = f"Bearer {self._token}"
        return prepared


class Client:
    """Speaks JSON to the server at `url` (canonical); knows nothing of logins."""

    def __init__(self, url: str, *, timeout: float = ANSWER_TIMEOUT) -> None:
        self.url = url
        self._timeout = (min(CONNECT_TIMEOUT, timeout), timeout)
        self._http = requests.Session()
        # A proxy from the environment cannot reach our loopback; it would only see our password.
        self._http.trust_env = not is_loopback(url)
        self._http.headers["User-Agent"] = "oo (onebackend_proxy)"
        self._http.headers["Accept"] = "application/json"

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Query = (),
        token: str | None = None,
    ) -> Answer:
        """Send one request and return the answer, whatever its status; Refusal if there is none."""
        if token is not None and not _TOKEN.fullmatch(token):
            # Said here, because the error that requests would raise has the token in it.
            raise Refusal(f"the token kept for {self.url} is damaged: oo login SLUG")
        try:
            got = self._http.request(
                method,
                self.url + path,
                params=list(query),
                json=body,
                auth=_Bearer(token),
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise Refusal(self._failure(error)) from None
        location = got.headers.get("Location", "") if got.is_redirect else ""
        got.encoding = got.encoding if "charset" in got.headers.get("Content-Type", "") else "utf-8"
        return Answer(self.url, got.status_code, got.reason or "", got.text, location)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Query = (),
        token: str | None = None,
    ) -> Any:
        """Send one request and return its JSON; Refusal with the server's words if it says no."""
        return self.send(method, path, body, query=query, token=token).checked().json()

    def _failure(self, error: requests.RequestException) -> str:
        if isinstance(error, requests.exceptions.SSLError):
            return f"TLS with {self.url} failed: {_reason(error)}"
        if isinstance(error, requests.exceptions.ProxyError):
            return f"the HTTP proxy before {self.url} failed (see HTTPS_PROXY): {_reason(error)}"
        if isinstance(error, requests.ReadTimeout):
            return f"{self.url} gave no answer within {self._timeout[1]:g} seconds"
        if isinstance(error, requests.ConnectionError) and "Connection aborted" not in str(error):
            return (
                f"cannot connect to {self.url} ({_reason(error)}): is the proxy running? "
                "start it with: twistd -n onebackend-proxy"
            )
        return f"the connection to {self.url} broke: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """Return the innermost cause, without the library's wrapping and object addresses."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), seen.__cause__)
        if inner is None:
            break
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    text = str(seen)
    return text.rpartition(">: ")[2] or type(seen).__name__
