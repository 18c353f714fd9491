"""The life of a request that a policy stands before: who may come in, what changes, and who answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ..balancing import Upstream
from ..errors import ContentTooLarge, NotPermitted, ProxyError, TooManyRequests, Unauthenticated, Unavailable
from ..exchange import Exchange, Exchanges, State
from ..headers import OutgoingRequest
from ..interfaces import Connection, Downstream
from ..messages import NO_BODY, Headers, ResponseHead, field_lines
from ..policies.access import without_authorization
from ..policies.editing import without_lines
from .filters import Filter
from .outlet import Outlet
from .shaped import PolicyExchange
from .sources import PIECE, Memory, Source

if TYPE_CHECKING:
    from .guard import Guard


class GuardedExchange(PolicyExchange):
    """An exchange of a Route with a policy, or of such a service.

    Others may keep it waiting (`wait`), answer in the place of an upstream (`answer`, `answer_from`), or let
    it go there (`go_upstream`).
    """

    covers: Callable[[ProxyError], bool] | None = None
    """Asked before a refusal: it answers in the place of that, or says that it does not."""
    _cancel_wait: Callable[[], None] | None = None

    def __init__(
        self, exchanges: Exchanges, downstream: Downstream, request: OutgoingRequest, guard: Guard
    ) -> None:
        super().__init__(exchanges, downstream, request, guard.nowhere)
        self.guard = guard
        self.fields = []
        self._body_limit = 0
        self.asked_target = request.target
        """The target as the client sent it; the request's own is what the service gets."""
        outlet: Downstream = Outlet(downstream, self)
        if guard.compress:
            # Only who compresses loads what that takes.
            from .compressing import Compressing

            outlet = Compressing(outlet, request)
        self._downstream = outlet

    # Coming in.

    def start(self) -> None:
        """Let the request in, or refuse it; then it goes where the policy says."""
        try:
            self._admit()
        except ProxyError as error:
            self.refuse(error)
        except Exception:
            self.broke(Failure())

    def _admit(self) -> None:
        guard = self.guard
        request = self.request
        if guard.paused is not None:
            raise Paused(guard.paused.message, guard.paused.retry_after)
        if guard.addresses is not None and not guard.addresses.admits(request.client_ip):
            self.denied = "addresses"
            raise NotPermitted("access denied")
        if guard.limiter is not None:
            verdict = guard.limiter.take(request, self.started)
            self.fields += verdict.told[0]
            if not verdict.admitted:
                self.denied = "rateLimit"
                wait = max(1, -int(-verdict.retry_after // 1))
                raise TooManyRequests("too many requests: slow down", wait)
        self._limit_body()
        if guard.basic is None:
            self._authenticated()
            return
        user = guard.basic.check(request.headers)
        if isinstance(user, Deferred):
            self._wait_for(user, self._identified)
        else:
            self._identified(user)

    def _limit_body(self) -> None:
        """From now on: who may not come in at all is told that first, however much is at hand by then."""
        limit = self.guard.body_limit
        if limit is None:
            limit = self._exchanges.limits.body_limit
        self.limit_body(limit)
        # Also where all of it was at hand with the head.
        if limit and max(self.request.body, self.bytes_in) > limit:
            raise ContentTooLarge(f"the body is over {limit} bytes")

    def _wait_for(self, result: Deferred[str | None], go_on: Callable[[str | None], None]) -> None:
        def came(value: str | None) -> None:
            self.waited()
            self.proceed(lambda: go_on(value))

        def failed(failure: Failure) -> None:
            self.waited()
            if isinstance(failure.value, ProxyError):
                self.refuse(failure.value)
            elif not failure.check(CancelledError):
                self.broke(failure)

        self.wait(result.cancel)
        result.addCallbacks(came, failed)

    def proceed(self, step: Callable[[], None]) -> None:
        """Go on after something was waited for: what is raised costs this exchange only."""
        if self.state is State.DONE:
            return
        try:
            step()
        except ProxyError as error:
            self.refuse(error)
        except Exception:
            self.broke(Failure())

    def _identified(self, user: str | None) -> None:
        guard = self.guard
        if user is None:
            self.denied = "basicAuth"
            error = Unauthenticated("user name and password, please")
            error.fields = guard.challenge
            raise error
        self.user = user
        hide_credentials(self.request)
        self._authenticated()

    def _authenticated(self) -> None:
        forward = self.guard.forward
        if forward is None:
            self.admitted()
        else:
            forward.ask(self)

    def admitted(self) -> None:
        """It may come in: make of the request what the service is to get, and go on."""
        guard = self.guard
        guard.edit(self)
        if guard.cache is not None:
            guard.cache.serve(self)
        else:
            self.go_upstream()

    def change_request(self, without: frozenset[bytes], added: Headers) -> None:
        """Take fields (names in lower case) out of what goes upstream, and put others in."""
        request = self.request
        request.headers = [field for field in request.headers if field[0].lower() not in without] + added
        request.lines = without_lines(request.lines, without) + field_lines(added)

    # What it may wait for.

    def wait(self, cancel: Callable[[], None]) -> None:
        """Something is waited for; `cancel` is called if the exchange ends before `waited`."""
        self._cancel_wait = cancel

    def waited(self) -> None:
        """Nothing is waited for any more."""
        self._cancel_wait = None

    def _stop_upstream(self) -> None:
        cancel, self._cancel_wait = self._cancel_wait, None
        if cancel is not None:
            cancel()
        super()._stop_upstream()

    # Who answers.

    def filter_through(self, make: Callable[[Downstream], Filter]) -> None:
        """Let the answer pass one more filter, before those that there are."""
        self._downstream = make(self._downstream)

    def go_upstream(self) -> None:
        """Send the request to the upstream, and relay what it answers."""
        try:
            self.upstream = self.guard.upstream()
        except ProxyError as error:
            self._refuse(error)
            return
        self._retries = self.upstream.retries
        self._try_next(self._exchanges.clock.seconds())

    def inner(self, downstream: Downstream, request: OutgoingRequest, upstream: Upstream) -> Exchange:
        """An exchange that this one makes for its own ends."""
        return self._exchanges.begin(downstream, request, upstream)

    def answer(self, head: ResponseHead, body: bytes) -> None:
        """Answer from memory; to HEAD without the body."""
        if self.request.method == b"HEAD":
            body = b""
            if head.body != NO_BODY:
                head = attrs.evolve(head, body=NO_BODY)
        if len(body) > PIECE:
            self.answer_from(Memory(self, body), head)
            return
        self.status = head.status
        self._done()
        downstream = self._downstream
        downstream.respond(head)
        if body:
            downstream.write(body)
        downstream.end([])

    def answer_from(self, source: Source, head: ResponseHead) -> None:
        """Answer with this head; the body comes by `body_received`, `read_ended` and `answer_ended`.

        `source` is told when the client does not keep up, and when it goes away.
        """
        self._begin_answer(source, head, self._downstream)

    def answer_instead(self, source: Source, head: ResponseHead, to: Downstream) -> None:
        """As `answer_from`, by way of a filter's `to`, in the place of what the upstream answers.

        Its head has come, or it is what `covers` is asked about.
        """
        connection = self._connection
        if connection is not None:
            self._let_go()
            connection.let_end()
        self._begin_answer(source, head, to)

    def _begin_answer(self, source: Source, head: ResponseHead, to: Downstream) -> None:
        self._connection = source
        # Of the rest of the request nothing is wanted, however much it is.
        self._body_limit = 0
        if self.state is State.CONNECTING:
            self._go(State.WAITING)
        if self.state is State.WAITING:
            self._go(State.RELAYING)
        self._progress = True
        self.status = head.status
        to.respond(head)
        if not self._paused_by_client:
            source.resume()

    def _leave(self) -> Connection | None:
        connection = self._connection
        if not isinstance(connection, Source):
            return super()._leave()
        # Nothing was in flight at an endpoint.
        self._connection = None
        self._stop_asking()
        return connection

    def refuse(self, error: ProxyError) -> None:
        """See `Exchange`; unless something that may be given in the place of an error is there."""
        covers, self.covers = self.covers, None
        if covers is not None:
            self._stop_upstream()
            if covers(error):
                return
        super().refuse(error)

    @property
    def stopping(self) -> bool:
        """Whether the proxy stops."""
        return self._exchanges.stopping

    def source_lost(self, error: ProxyError) -> None:
        """What `answer_from` was given broke off."""
        self._end(error)

    def body_received(self, data: bytes) -> None:
        """See `Exchange`; what the client gets of it is counted by the outlet."""
        self._progress = True
        self._downstream.write(data)


def hide_credentials(request: OutgoingRequest) -> None:
    """Take the credentials that somebody came in with out of what goes upstream.

    They are for us; the service has no use for them, and might log them.
    """
    request.headers, request.lines = without_authorization(request.headers, request.lines)


class Paused(Unavailable):
    """A Route is paused for maintenance."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message or "come back soon")
        self.fields = ((b"Retry-After", b"%d" % max(1, -int(-retry_after // 1))),)
