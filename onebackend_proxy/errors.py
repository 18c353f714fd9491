"""One tree of errors. Each carries its HTTP status and a message fit for strangers.

``message`` goes to the client: it never holds an internal address, a file path or a secret.
``detail`` goes to the log only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence


class ProxyError(Exception):
    """Anything this program refuses or fails to do; `status` is the HTTP status it maps to.

    `closes` says that a client connection ends with it: what breaks HTTP may be read otherwise elsewhere.
    """

    status = 500
    closes = False
    fields: Sequence[tuple[bytes, bytes]] = ()
    """Header fields that its answer has."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


class BadRequest(ProxyError):
    """The request breaks a rule of HTTP or of the API; the message names what was wrong."""

    status = 400
    closes = True


class Unauthenticated(ProxyError):
    """No token, or one that is expired or not ours."""

    status = 401


class NotPermitted(ProxyError):
    """We know who asks, and the answer is no."""

    status = 403


class NotFound(ProxyError):
    """No such service, route, instance or path."""

    status = 404


class MethodNotAllowed(ProxyError):
    """The path exists, but not for this method; `allowed` lists those that do."""

    status = 405
    closes = True

    def __init__(self, message: str, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed


class RequestTimeout(ProxyError):
    """The client took too long to send its request (RFC 9110, 15.5.9)."""

    status = 408
    closes = True


class Conflict(ProxyError):
    """The thing to be created is there already and belongs to somebody else."""

    status = 409


class ContentTooLarge(ProxyError):
    """The body is over its limit (RFC 9110, 15.5.14)."""

    status = 413
    closes = True


class TargetTooLong(ProxyError):
    """The request target is over its limit (RFC 9110, 15.5.15)."""

    status = 414
    closes = True


class ExpectationFailed(ProxyError):
    """An `Expect` other than ``100-continue`` (RFC 9110, 10.1.1)."""

    status = 417
    closes = True


class TooManyRequests(ProxyError):
    """Slow down; `retry_after` is in whole seconds (RFC 6585, 4)."""

    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.fields = ((b"Retry-After", b"%d" % retry_after),)


class Misdirected(ProxyError):
    """A host that this connection's certificate is not for (RFC 9110, 15.5.20)."""

    status = 421


class HeadTooLarge(ProxyError):
    """The header section is over its limit (RFC 6585, 5)."""

    status = 431
    closes = True


class NotImplementedHere(ProxyError):
    """A method or transfer coding this proxy does not speak (RFC 9110, 15.6.2)."""

    status = 501
    closes = True


class VersionNotSupported(ProxyError):
    """HTTP, but neither 1.0 nor 1.1 (RFC 9110, 15.6.6)."""

    status = 505
    closes = True


class UpstreamFailed(ProxyError):
    """No instance could be reached, or the one reached broke HTTP."""

    status = 502


class Unavailable(ProxyError):
    """Not now: nobody to answer, a store that is locked, a proxy that is stopping."""

    status = 503


class StoreUnavailable(Unavailable):
    """The store could not be read or written; what is in memory goes on serving."""


class UpstreamTimeout(ProxyError):
    """The instance took longer than it may to connect or to answer."""

    status = 504


class LoopDetected(ProxyError):
    """The request has come through this proxy too often (RFC 5842, 7.2)."""

    status = 508
    closes = True


class SettingError(ProxyError):
    """A setting, or the folder it names, cannot be used; the program does not start."""


def answer_for(error: BaseException) -> tuple[int, str]:
    """Map any error to the status and the message that a client may see."""
    if isinstance(error, ProxyError):
        return error.status, error.message
    return 500, "internal error"


def error_body(message: str) -> bytes:
    """The JSON that carries an error to a client."""
    return json.dumps({"error": message}).encode("ascii") + b"\n"
