"""One call of the API: who asks, what the body says, which operation it is, and the answer as JSON.

A built-in service is a table of `Operation`; `BuiltInService` does for all of them what is the same.
"""

from __future__ import annotations

import enum
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from ..downstream.request import MAX_BUFFERED
from ..errors import (
    BadRequest,
    ContentTooLarge,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    TooManyRequests,
    Unauthenticated,
    answer_for,
)
from .accounts import Accounts
from .echo import shortened
from .permissions import is_authorized
from .strict_json import parse_json
from .tokens import Claims
from .validation import structure

# Half of twisted.web has no annotations yet.
# mypy: disable-error-code="no-untyped-call"

T = TypeVar("T")

ClientAddress = Callable[[Request], str]
_log = Logger()


def peer_address(request: Request) -> str:
    """The IP address at the other end of the connection; "" where it has none (a Unix socket)."""
    return str(getattr(request.getClientAddress(), "host", ""))


class Bearer(enum.Enum):
    """Whether an operation wants a token."""

    IGNORED = "none is looked at"
    OPTIONAL = "one that is sent must be valid"
    REQUIRED = "a valid one"
    EXPIRED_TOO = "one that is ours, expired or not"


@attrs.frozen
class Call:
    """A call as an operation sees it; `argument` is the path segment where the template has ``*``.

    `keyed` says that it came with the operation's own key, in the place of an account's token.
    """

    address: str
    claims: Claims | None = None
    keyed: bool = False
    accept: str = ""
    accept_encoding: str = ""
    argument: str = ""
    query: Mapping[str, str] = attrs.field(factory=dict)
    content: bytes = attrs.field(default=b"", repr=False)

    @property
    def caller(self) -> Claims:
        """Whose token it is."""
        if self.claims is None:
            raise Unauthenticated("a bearer token is needed")
        return self.claims

    def body(self, kind: type[T], *, optional: bool = False) -> T:
        """The JSON body as `kind`; `optional` takes none, or ``null``, for an empty object."""
        value = {} if optional and not self.content.strip() else parse_json(self.content)
        if value is None and optional:
            value = {}
        if not isinstance(value, dict):
            raise BadRequest("the body must be a JSON object")
        return structure(kind, value)

    def parameters(self, kind: type[T]) -> T:
        """The query's parameters as `kind`."""
        return structure(kind, dict(self.query))


@attrs.frozen
class Answer:
    """What to send: `content` as JSON, or `encoded`, or no body at all.

    What is encoded is JSON already, unless a Content-Type in `headers` says what it is.
    """

    status: int = 200
    content: object | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    encoded: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class Operation:
    """One line of a service's table: a method and a path (segments, ``*`` for any) and what runs.

    Bodies over `MAX_BUFFERED` are taken from those only who have `permission`. `key`, where there is one, may
    be sent as the bearer token.
    """

    method: bytes
    path: tuple[str, ...]
    run: Callable[[Call], Awaitable[Answer]]
    bearer: Bearer = Bearer.REQUIRED
    max_body: int = MAX_BUFFERED
    permission: str = ""
    key: str = attrs.field(default="", repr=False)

    def opens(self, token: str | None) -> bool:
        """Whether the token is the operation's own key; how long that takes tells nothing of it."""
        return bool(self.key) and hmac.compare_digest((token or "").encode("latin-1"), self.key.encode())

    def body_limit(self, claims: Claims | None) -> int:
        """Bytes of a body that this caller may send."""
        if self.permission and claims is not None and is_authorized(claims.roles, self.permission):
            return self.max_body
        return min(self.max_body, MAX_BUFFERED)

    def argument(self, segments: Sequence[str]) -> str | None:
        """The segment that ``*`` stands for ("" without one), or None if the path is another."""
        if len(segments) != len(self.path):
            return None
        argument = ""
        for wanted, segment in zip(self.path, segments, strict=True):
            if wanted == "*":
                argument = segment
            elif wanted != segment:
                return None
        return argument


def _content(request: Request, limit: int) -> bytes:
    # The Site of this program stops reading at the limit; another's, where we are embedded, may not.
    length = request.getHeader(b"content-length") or b""
    too_long = length.isdigit() and int(length) > limit
    content = b""
    if not too_long and request.content is not None:
        request.content.seek(0)
        content = request.content.read(limit + 1)
    if too_long or len(content) > limit:
        raise ContentTooLarge(f"the body is over {limit} bytes")
    return content


def _query(request: Request) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, values in (request.args or {}).items():
        try:
            key = name.decode("utf-8")
            if len(values) > 1:
                raise BadRequest(f"{shortened(key)}: is there more than once")
            query[key] = values[0].decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("the query is not UTF-8") from None
    return query


def _segments(request: Request) -> list[str]:
    segments = [segment.decode("utf-8", "replace") for segment in request.postpath or ()]
    return segments[:-1] if segments and not segments[-1] else segments


def _field(request: Request, name: str) -> str:
    return ",".join(
        value.decode("latin-1") for value in request.requestHeaders.getRawHeaders(name.encode(), [])
    )


def _token_in(request: Request) -> str | None:
    sent = request.requestHeaders.getRawHeaders(b"authorization", [])
    if len(sent) > 1:
        raise Unauthenticated("there is more than one Authorization header")
    words = sent[0].decode("latin-1").split() if sent else []
    if len(words) == 2 and words[0].lower() == "bearer":
        return words[1]
    # 1Backend takes a token without the scheme too.
    if len(words) > 1:
        raise Unauthenticated("the Authorization header must be: Bearer TOKEN")
    return words[0] if words else None


def _error_answer(error: Exception) -> Answer:
    status, message = answer_for(error)
    headers: dict[str, str] = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    elif isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Answer(status, {"error": message}, headers)


def send_json(request: Request, answer: Answer) -> None:
    """Write `answer` and finish the request."""
    request.setResponseCode(answer.status)
    request.setHeader("Cache-Control", "no-store")
    body = answer.encoded
    if answer.content is not None:
        body = json.dumps(answer.content).encode("ascii")
    if body:
        request.setHeader("Content-Type", "application/json")
        request.setHeader("Content-Length", str(len(body)))
    for name, value in answer.headers.items():
        request.setHeader(name, value)
    if body:
        request.write(body)
    request.finish()


def _after(call: Deferred[Any]) -> Deferred[None]:
    """Fires after `call` has, which goes on as ever."""
    after: Deferred[None] = Deferred()
    call.addBoth(lambda _: after.callback(None))
    return after


class BuiltInService(Resource):
    """A built-in service: everything below its slug, by a table of operations."""

    isLeaf = True

    def __init__(
        self,
        operations: Iterable[Operation],
        accounts: Accounts,
        client_address: ClientAddress = peer_address,
    ) -> None:
        super().__init__()
        self._operations = tuple(operations)
        self._accounts = accounts
        self._client_address = client_address
        self._under_way: set[Deferred[Any]] = set()

    def drained(self) -> Deferred[Any]:
        """Fires when no call is under way."""
        return DeferredList([_after(call) for call in self._under_way])

    def render(self, request: IRequest) -> int:
        """Answer in JSON, now or later, unless the client leaves first."""
        # What twisted.web hands out is always a Request; the interface leaves half of it out.
        http_request = cast(Request, request)
        gone: list[Failure] = []
        http_request.notifyFinish().addErrback(gone.append)

        def answer(result: Answer) -> None:
            # Nobody is left to read it. What was done stays done.
            if not gone:
                send_json(http_request, result)

        done = Deferred.fromCoroutine(self._answer(http_request))
        done.addCallback(answer)
        done.addErrback(lambda failure: _log.failure("an answer of the API could not be sent", failure))
        if not done.called:
            self._under_way.add(done)
            done.addCallback(lambda _: self._under_way.discard(done))
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self._dispatch(request)
        except ProxyError as error:
            if error.status >= 500:
                what = {"method": request.method, "path": request.path, "error": str(error)}
                _log.warn("{method} {path}: {error}", **what)
            return _error_answer(error)
        except Exception as error:
            _log.failure("{method} {path} failed", method=request.method, path=request.path)
            return _error_answer(error)

    async def _dispatch(self, request: Request) -> Answer:
        here = self._here(request)
        if not here:
            raise NotFound("there is no such call in this service")
        allowed = _allowed(here)
        if request.method == b"OPTIONS":
            return Answer(204, headers={"Allow": ", ".join(allowed)})
        wanted = b"GET" if request.method == b"HEAD" else request.method
        if wanted not in here:
            raise MethodNotAllowed(f"this call takes {', '.join(allowed)}", allowed)
        operation, argument = here[wanted]
        keyed = operation.opens(_token_in(request)) if operation.key else False
        claims = None if keyed else self._claims(request, operation.bearer)
        call = Call(
            address=self._client_address(request),
            claims=claims,
            keyed=keyed,
            accept=_field(request, "accept"),
            accept_encoding=_field(request, "accept-encoding"),
            argument=argument,
            query=_query(request),
            content=_content(request, operation.body_limit(claims)),
        )
        if call.claims is not None:
            # Not before the body was read: twisted.web closes it when the client leaves.
            await self._accounts.require_kept(call.claims)
        return await operation.run(call)

    def _here(self, request: Request) -> dict[bytes, tuple[Operation, str]]:
        """The operations on this path, by their methods, and what stands for ``*``."""
        segments = _segments(request)
        return {o.method: (o, arg) for o in self._operations if (arg := o.argument(segments)) is not None}

    def body_limit(self, request: Request) -> int:
        """Bytes of this request's body that may be kept until it is complete; asked when the head is."""
        operation, _argument = self._here(request).get(request.method, (None, ""))
        if operation is None or not operation.permission:
            return MAX_BUFFERED
        try:
            return operation.body_limit(self._claims(request, operation.bearer))
        except ProxyError:
            # It is told why when it is answered.
            return MAX_BUFFERED

    def _claims(self, request: Request, bearer: Bearer) -> Claims | None:
        if bearer is Bearer.IGNORED:
            return None
        token = _token_in(request)
        if token is not None:
            return self._accounts.verify(token, allow_expired=bearer is Bearer.EXPIRED_TOO)
        if bearer is not Bearer.OPTIONAL:
            raise Unauthenticated("a bearer token is needed")
        return None


def _allowed(methods: Iterable[bytes]) -> tuple[str, ...]:
    names = {method.decode("ascii") for method in methods}
    if "GET" in names:
        names.add("HEAD")
    return tuple(sorted(names | {"OPTIONS"}))
