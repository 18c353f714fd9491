"""The life of one request: endpoint, upstream request, relay both ways, retry, back-pressure, abort.

An `Exchange` stands between a `Downstream` and a `Connection` (see `interfaces`). Both tell it what
happened; it tells them what to do. It knows no reactor, no socket, and no implementation of either.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from random import random
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from .balancing import Balance, EndpointState, Health, Upstream, affinity_cookie, pick
from .errors import (
    ContentTooLarge,
    ProxyError,
    RequestTimeout,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
    answer_for,
)
from .headers import OutgoingRequest, safe_trailers
from .http1 import request_bytes
from .interfaces import Connection, Downstream, UpstreamClient
from .limits import DEFAULTS, Limits
from .messages import NO_BODY, Headers, ResponseHead, shown, shown_url
from .tunnel import Tunnel

MAX_HELD = 64 * 1024
"""Bytes of a request body held while there is no upstream connection yet."""
CONTINUE_AFTER = 1.0
"""Seconds an upstream may be silent before we ask for an expected body ourselves (RFC 9110, 10.1.1)."""
MAX_CONNECTING = 15.0
"""Seconds spent on failing connects, after which no further endpoint is tried."""

STOPPING = "the proxy is stopping"
"""Why a tunnel is ended then: it has no end of its own to wait for."""

# May be repeated without asking the client (RFC 9110, 9.2.2).
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


class State(str, enum.Enum):  # noqa: UP042 (a str's hash is not a Python function, an Enum's is)
    """Where an exchange stands."""

    CONNECTING = "connecting"
    WAITING = "waiting"
    RELAYING = "relaying"
    DONE = "done"


_CONNECTING, _WAITING, _RELAYING, _DONE = State

# WAITING goes back to CONNECTING when the request is sent once more.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.CONNECTING: frozenset((State.CONNECTING, State.WAITING, State.DONE)),
    State.WAITING: frozenset((State.CONNECTING, State.RELAYING, State.DONE)),
    State.RELAYING: frozenset((State.DONE,)),
    State.DONE: frozenset(),
}


class Destination(Protocol):
    """Where a request goes that first has to pass something: what makes the exchange for it."""

    def exchange(self, exchanges: Exchanges, downstream: Downstream, request: OutgoingRequest) -> Exchange:
        """An exchange that is not started yet."""


class Exchange:
    """One request and its answer, from head to last byte."""

    # On the class: what most exchanges never change costs them nothing.
    state: State = State.CONNECTING
    endpoint: EndpointState | None = None
    status = 0
    reason = ""
    denied = ""
    """The rule of a policy that it was stopped by, for the metrics: a word of a few."""
    user = ""
    """Who the client has proved to be, for the log."""
    cache = ""
    """What the cache had: "hit", "miss", "stale", "revalidated", "bypass"; "" where it was not asked."""
    asked = 0.0
    answered = 0.0
    """When the last upstream attempt began, and when the head of its answer came; 0.0 if never."""
    bytes_in = 0
    bytes_out = 0
    _connection: Connection | None = None
    _cancel_open: Callable[[], None] | None = None
    _continue_call: IDelayedCall | None = None
    _error: ProxyError | None = None
    _stale_retried = False
    # Seconds that failed connects took.
    _spent = 0.0
    # The body so far: until there is a connection, and as long as it is small enough to be sent again.
    _kept: bytearray | None = None
    _holding = False
    _request_done = True
    _trailers: Headers = []  # noqa: RUF012 (never changed in place)
    _paused_by_client = False
    _progress = True
    _deadline = 0.0
    _body_limit = 0

    def __init__(
        self, exchanges: Exchanges, downstream: Downstream, request: OutgoingRequest, upstream: Upstream
    ) -> None:
        self._exchanges = exchanges
        self._downstream = downstream
        self.request = request
        self.upstream = upstream
        self.started: float = exchanges.clock.seconds()
        self._tried: list[EndpointState] = []
        self._retries = upstream.retries
        if request.body > 0 or request.body < NO_BODY:
            self._kept = bytearray()
            self._request_done = False
            self._body_limit = exchanges.limits.body_limit

    def __repr__(self) -> str:
        return (
            f"<Exchange {self.request.method.decode('ascii', 'replace')} {self.request.target!r}"
            f" to {self.upstream.name} {self.state.value}>"
        )

    def _go(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"{self!r} cannot become {state.value}")
        self.state = state

    # Endpoints and connections.

    def start(self) -> None:
        """Send the request to an endpoint of the upstream, or refuse it."""
        if self._body_limit and self._too_large(self.request.body):
            return
        self._try_next(self.started)

    def limit_body(self, size: int) -> None:
        """Let the request's body have at most so many bytes, whatever the settings say; 0 is no limit."""
        if not self._request_done:
            self._body_limit = size

    def _too_large(self, size: int) -> bool:
        """End it if a body of this size is over the limit: which is the client's doing, and no news."""
        limit = self._body_limit
        if not limit or size <= limit or self.state is _DONE:
            return False
        error = ContentTooLarge(f"the body is over {limit} bytes")
        if self.state is _RELAYING:
            self._abort(error)
        else:
            self.refuse(error)
        return True

    def _try_next(self, now: float) -> None:
        endpoint = pick(self.upstream, self.request, self._tried, self._exchanges.random, now)
        if endpoint is None:
            self._refuse(self._error or UpstreamFailed("no instance of the service could be reached"))
            return
        self._tried.append(endpoint)
        self.endpoint = endpoint
        self.asked = now
        # From here on: one that does not connect must not look as if it had nothing to do.
        endpoint.in_flight += 1
        connection = self._exchanges.client.checkout(endpoint)
        if connection is not None:
            self.connected(connection)
        else:
            self._open(endpoint)

    def _open(self, endpoint: EndpointState) -> None:
        self.asked = self._exchanges.clock.seconds()
        self._cancel_open = self._exchanges.client.open(endpoint, self.upstream.timeouts.connect, self)

    def connected(self, connection: Connection) -> None:
        """An upstream connection is ours: send the request with what body is at hand, in one piece."""
        self._cancel_open = None
        self._connection = connection
        self._go(_WAITING)
        endpoint = self.endpoint
        assert endpoint is not None
        self._progress = True
        request = self.request
        path = endpoint.address.path
        head = request_bytes(request, path.encode("ascii") if path else b"")
        if request.expects_continue:
            self._continue_call = self._exchanges.clock.callLater(CONTINUE_AFTER, self._continue_unasked)
        kept = self._kept
        trailers = self._trailers if self._request_done else None
        connection.send(self, request, head, bytes(kept) if kept else b"", trailers)
        if kept is not None:
            self._keep_if_small(kept)
            if not connection.full:
                self._let_request()

    def _keep_if_small(self, kept: bytearray) -> None:
        """Go on keeping the body if the request can be sent once more with it."""
        if len(kept) > MAX_HELD or (kept and self.request.method not in _IDEMPOTENT):
            self._kept = None

    def connect_failed(self, error: ProxyError) -> None:
        """The endpoint could not be connected to: nothing was sent, so any request may go to another."""
        self._cancel_open = None
        endpoint = self.endpoint
        assert endpoint is not None
        now = self._exchanges.clock.seconds()
        self._spent += now - self.asked
        endpoint.refused(now, self.upstream.ejection)
        self._let_go()
        self._error = error
        self._exchanges.log.warn(
            "connecting to {address} for {service} failed: {detail}",
            address=endpoint.address.authority,
            service=self.upstream.name,
            detail=error.detail,
        )
        if self._spent > MAX_CONNECTING:
            self._refuse(error)
        else:
            self._try_next(now)

    def no_room(self, error: ProxyError) -> None:
        """The endpoint has all the connections it may have, in use: another one may have room."""
        self._cancel_open = None
        self._error = error
        self._let_go()
        now = self._exchanges.clock.seconds()
        if now - self.started < self._exchanges.limits.upstream_wait:
            self._try_next(now)
        else:
            # It has waited for its time, wherever that was.
            self._refuse(error)

    def broke(self, failure: Failure) -> None:
        """A bug of ours came up in the middle: it must cost this exchange, not the client's patience."""
        self._exchanges.log.failure("an exchange failed", failure)
        self._end(ProxyError("internal error"))

    def _leave(self) -> Connection | None:
        """Part from the connection, if there is one."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._let_go()
        if self._continue_call is not None:
            self._stop_asking()
        return connection

    def _let_go(self) -> None:
        """Have nothing in flight any more at the endpoint, if the answer comes from one."""
        endpoint = self.endpoint
        if endpoint is None:
            return
        endpoint.in_flight -= 1
        if endpoint.trial is self.request:
            endpoint.trial = None

    def _stop_asking(self) -> None:
        """The client has had its answer to an expectation, or will not get one."""
        if self._continue_call is not None:
            self._continue_call.cancel()
            self._continue_call = None

    # What the upstream connection tells.

    def interim_received(self, head: ResponseHead) -> None:
        """The upstream sent a 1xx answer: pass it on (RFC 9110, 15.2)."""
        self._progress = True
        if head.status == 100:
            self._stop_asking()
        self._downstream.inform(head)

    def _continue_unasked(self) -> None:
        self._continue_call = None
        self._downstream.inform(ResponseHead(100, b"Continue", []))

    def head_received(self, head: ResponseHead) -> None:
        """The final answer's head came; or a 101, and from here on bytes go both ways."""
        self._progress = True
        self._go(_RELAYING)
        if self._continue_call is not None:
            self._stop_asking()
        self.status = head.status
        self.answered = self._exchanges.clock.seconds()
        endpoint = self.endpoint
        assert endpoint is not None
        if endpoint.failures or endpoint.health is not Health.HEALTHY:
            endpoint.worked()
        upstream = self.upstream
        if upstream.balance is Balance.COOKIE:
            cookie = affinity_cookie(upstream, endpoint, self.request)
            if cookie is not None:
                head = head.with_field(cookie)
        if head.status == 101:
            self._begin_tunnel(head)
        else:
            self._downstream.respond(head)

    def _begin_tunnel(self, head: ResponseHead) -> None:
        connection = self._connection
        assert connection is not None
        tunnel = Tunnel(self, connection, self._downstream)
        self._exchanges.replaced(self, tunnel)
        connection.switch(tunnel)
        self._downstream.switch(head, tunnel)
        if self._exchanges.stopping and self.state is not _DONE:
            tunnel.end(STOPPING)

    def tunnel_ended(self, tunnel: Tunnel, reason: str) -> None:
        """The tunnel that this exchange became is closed."""
        self.reason = reason
        self._leave()
        self._exchanges.replaced(tunnel, None)
        self._done()

    def body_received(self, data: bytes) -> None:
        """A piece of the answer's body came."""
        self._progress = True
        self.bytes_out += len(data)
        self._downstream.write(data)

    def read_ended(self) -> None:
        """All that was at hand of the answer has been told; there may be more later."""
        if self.state is _RELAYING:
            self._downstream.flush()

    def answer_ended(self, trailers: Headers) -> None:
        """The answer is complete."""
        self._leave()
        self._done()
        self._downstream.end(safe_trailers(trailers) if trailers else trailers)

    @property
    def _repeatable(self) -> bool:
        """Whether all that was sent of the request's body is still here."""
        return self._kept is not None or self.bytes_in == 0

    def upstream_lost(self, error: ProxyError, retriable: bool) -> None:
        """The connection ended, or broke HTTP, before the answer was complete.

        `retriable` says that it just ended, with no byte of an answer.
        """
        connection = self._leave()
        assert connection is not None and self.endpoint is not None
        if self.state is _RELAYING:
            self._abort(error)
            return
        again = retriable and self.request.method in _IDEMPOTENT and self._repeatable
        if again and connection.reused and not self._stale_retried:
            # It went stale in the pool: that says nothing about the endpoint.
            self._stale_retried = True
            self._go(State.CONNECTING)
            self.endpoint.in_flight += 1
            self._open(self.endpoint)
            return
        self.endpoint.failed(self._exchanges.clock.seconds(), self.upstream.ejection)
        if again and self._retries > 0 and len(self._tried) < len(self.upstream.endpoints):
            self._retries -= 1
            self._error = error
            self._go(State.CONNECTING)
            self._try_next(self._exchanges.clock.seconds())
            return
        self._refuse(error)

    def upstream_full(self) -> None:
        """The upstream does not keep up with the request's body."""
        self._hold_request()

    def upstream_drained(self) -> None:
        """The upstream takes more of the request's body."""
        self._progress = True
        self._let_request()

    def _hold_request(self) -> None:
        if not self._request_done and not self._holding:
            self._holding = True
            self._downstream.pause_request()

    def _let_request(self) -> None:
        # Also when the request is complete by now: only who is read from is seen to go away.
        if self._holding:
            self._holding = False
            self._downstream.resume_request()

    # What the downstream tells.

    def request_body_received(self, data: bytes) -> None:
        """A piece of the request's body came, out of its framing."""
        if self.state is _DONE:
            return
        self._progress = True
        self.bytes_in += len(data)
        if self._body_limit and self._too_large(self.bytes_in):
            return
        kept = self._kept
        if kept is not None:
            kept += data
        if self._connection is None:
            if kept is not None and len(kept) > MAX_HELD:
                self._hold_request()
            return
        if kept is not None:
            self._keep_if_small(kept)
        self._connection.write(data)

    def request_ended(self, trailers: Headers) -> None:
        """The request is complete."""
        if self._request_done or self.state is _DONE:
            return
        self._progress = True
        self._request_done = True
        if self._continue_call is not None:
            # It did not wait to be asked.
            self._stop_asking()
        self._trailers = safe_trailers(trailers) if trailers else trailers
        if self._connection is not None:
            self._connection.end_request(self._trailers)

    def client_full(self) -> None:
        """The client does not keep up with the answer."""
        self._paused_by_client = True
        if self._connection is not None:
            self._connection.pause()

    def client_drained(self) -> None:
        """The client takes more of the answer."""
        self._progress = True
        self._paused_by_client = False
        if self._connection is not None:
            self._connection.resume()

    def client_progressed(self) -> None:
        """The client, which does not keep up, has taken something."""
        self._progress = True

    def client_gone(self, reason: str = "the client went away") -> None:
        """The client closed the connection: nobody waits for the answer, so stop asking for it."""
        if self.state is State.DONE:
            return
        self.reason = reason
        self.status = self.status or 499
        self._stop_upstream()
        self._done()

    # Ends.

    def _stop_upstream(self) -> None:
        if self._cancel_open is not None:
            cancel, self._cancel_open = self._cancel_open, None
            cancel()
            self._let_go()
        connection = self._leave()
        if connection is not None:
            connection.abort()

    def _refuse(self, error: ProxyError) -> None:
        self._report(error)
        self.refuse(error)

    def refuse(self, error: ProxyError) -> None:
        """Answer with an error in the place of an upstream, with no line in the program's log."""
        self.reason = str(error)
        self._stop_upstream()
        self.status, message = answer_for(error)
        self._done()
        self._downstream.refuse(self.status, message)

    def _abort(self, error: ProxyError) -> None:
        self._report(error)
        self._stop_upstream()
        self._done()
        self._downstream.abort()

    def _end(self, error: ProxyError) -> None:
        """End it now, in the way that is left: with an error as its answer, or by breaking the answer off."""
        if self.state is State.RELAYING:
            self._abort(error)
        elif self.state is not State.DONE:
            self._refuse(error)

    def cut(self) -> None:
        """The proxy stops: end the exchange now, whole or not."""
        self._end(Unavailable("the proxy is stopping"))

    def _report(self, error: ProxyError) -> None:
        self.reason = str(error)
        endpoint = self.endpoint
        self._exchanges.log.warn(
            "{service}: {method} {target} at {address}: {reason} [request {id}]",
            service=self.upstream.name,
            method=shown(self.request.method),
            target=shown_url(self.request.target),
            address=endpoint.address.authority if endpoint is not None else "no instance",
            reason=self.reason,
            id=shown(self.request.request_id),
        )

    def _done(self) -> None:
        self._go(_DONE)
        self._kept = None
        self._exchanges.ended(self)

    def check(self, now: float) -> None:
        """Called about once a second: end the exchange if nothing has moved for too long."""
        if self.state is State.CONNECTING or self.state is State.DONE:
            return
        if self._progress:
            self._progress = False
            timeouts = self.upstream.timeouts
            waiting = self.state is State.WAITING and self._request_done
            self._deadline = now + (timeouts.first_byte if waiting else timeouts.idle)
        elif now >= self._deadline:
            self._time_out()

    def _time_out(self) -> None:
        if self.state is State.RELAYING:
            if self._paused_by_client:
                who = "the client stopped reading"
            elif self._request_done or self._holding:
                who = "the service stopped sending"
            else:
                who = "neither the client nor the service sent anything"
            self._abort(UpstreamTimeout("time-out", detail=who))
        elif self._request_done or self._holding:
            assert self.endpoint is not None
            self.endpoint.failed(self._exchanges.clock.seconds(), self.upstream.ejection)
            self._refuse(UpstreamTimeout("the service took too long to answer"))
        else:
            self._refuse(RequestTimeout("the request's body took too long to arrive"))


@attrs.define(eq=False)
class Exchanges:
    """All exchanges under way, and what they share.

    `clock` and `random` are constructor arguments so that tests own them.
    """

    clock: IReactorTime
    client: UpstreamClient
    random: Callable[[], float] = random
    limits: Limits = DEFAULTS
    log: Logger = attrs.field(factory=Logger)
    _active: set[Exchange | Tunnel] = attrs.field(factory=set, init=False)
    _tick: IDelayedCall | None = attrs.field(default=None, init=False)
    _waiters: list[Deferred[None]] = attrs.field(factory=list, init=False)
    stopping: bool = attrs.field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._active)

    def begin(self, downstream: Downstream, request: OutgoingRequest, to: Upstream | Destination) -> Exchange:
        """A new exchange; the caller keeps it, then calls `start`."""
        if isinstance(to, Upstream):
            exchange = Exchange(self, downstream, request, to)
        else:
            exchange = to.exchange(self, downstream, request)
        self._active.add(exchange)
        if self._tick is None:
            self._tick = self.clock.callLater(1.0, self._check)
        return exchange

    def _check(self) -> None:
        self._tick = None
        now = self.clock.seconds()
        for exchange in list(self._active):
            exchange.check(now)
        if self._active:
            self._tick = self.clock.callLater(1.0, self._check)

    def replaced(self, one: Exchange | Tunnel, other: Tunnel | None) -> None:
        """An exchange became a tunnel, which is what is looked at and cut from now on; or that ended."""
        self._active.discard(one)
        if other is not None:
            self._active.add(other)

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over."""
        self._active.discard(exchange)
        if self._waiters and not self._active:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def drain(self, seconds: float) -> Deferred[int]:
        """Fires when no exchange is left, after `seconds` at the latest, with how many were cut short."""
        done: Deferred[None] = Deferred()
        self.stopping = True
        for tunnel in [each for each in self._active if isinstance(each, Tunnel)]:
            tunnel.end(STOPPING)
        if not self._active:
            done.callback(None)
        else:
            self._waiters.append(done)
            late = self.clock.callLater(seconds, done.cancel)
            done.addBoth(lambda result: late.cancel() if late.active() else None)
        return done.addBoth(lambda _: self.cut())

    def cut(self) -> int:
        """End all that is left now, whole or not; returns how many that were."""
        left = list(self._active)
        for exchange in left:
            exchange.cut()
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        return len(left)
