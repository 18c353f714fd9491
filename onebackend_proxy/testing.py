"""Public fakes, for tests of this program and of programs that embed it."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet import defer
from twisted.internet.defer import Deferred
from zope.interface import implementer

from .balancing import EndpointState
from .errors import Conflict, NotFound, ProxyError, StoreUnavailable, Unavailable, UpstreamFailed
from .headers import OutgoingRequest, prepare_response
from .interfaces import IStore, Published
from .messages import CHUNKED, Headers, ResponseHead
from .records import (
    MAX_APPS,
    Account,
    App,
    Certificate,
    Challenge,
    Instance,
    Issuance,
    Redirect,
    Route,
    Token,
)
from .routing import RouteTable
from .store.issuing import LONGEST_LEASE, LONGEST_WINDOW
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .exchange import Exchange

T = TypeVar("T")
R = TypeVar("R", Route, Redirect, Instance, Certificate)


def _sorted(records: MutableMapping[str, R]) -> tuple[R, ...]:
    return tuple(records[key] for key in sorted(records))


def _delete(records: MutableMapping[str, R], what: str, ids: Iterable[str]) -> None:
    wanted = tuple(dict.fromkeys(ids))
    for key in wanted:
        if key not in records:
            raise NotFound(f"no such {what}: {key}")
    for key in wanted:
        del records[key]


@implementer(IStore)
class MemoryStore:
    """An `IStore` that forgets all with the process, and answers at once.

    While `failure` is set, every call fails with it: a store that is locked, say.
    """

    max_apps = MAX_APPS

    def __init__(self) -> None:
        self.failure: ProxyError | None = None
        self._routes: dict[str, Route] = {}
        self._redirects: dict[str, Redirect] = {}
        self._instances: dict[str, Instance] = {}
        self._certificates: dict[str, Certificate] = {}
        self._published = Published(RouteTable(), RouteTable(), (), ())
        self._listeners: list[Callable[[Published], None]] = []
        self._accounts: dict[str, Account] = {}
        self._apps: dict[str, App] = {}
        self._tokens: dict[str, Token] = {}
        self._secrets: dict[str, bytes] = {}
        self._issuances: dict[str, Issuance] = {}
        self._leases: dict[str, tuple[str, datetime.datetime]] = {}
        self._orders: dict[tuple[str, str], datetime.datetime] = {}
        self._challenges: dict[tuple[str, str, str], Challenge] = {}

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._routes)} routes, {len(self._instances)} instances>"

    def _do(self, work: Callable[[], T]) -> Deferred[T]:
        if self.failure is not None:
            return defer.fail(self.failure)
        return defer.execute(work)

    def _change(self, work: Callable[[], object], part: str, made: Callable[[], Any]) -> Deferred[None]:
        """Do the work, and publish this part as it is made then."""

        def change() -> None:
            work()
            self._published = attrs.evolve(self._published, **{part: made()})
            for listener in self._listeners:
                listener(self._published)

        return self._do(change)

    def _change_routes(self, work: Callable[[], object]) -> Deferred[None]:
        return self._change(work, "routes", lambda: RouteTable(self._routes.values()))

    def _change_redirects(self, work: Callable[[], object]) -> Deferred[None]:
        return self._change(work, "redirects", lambda: RouteTable(self._redirects.values()))

    def _change_instances(self, work: Callable[[], object]) -> Deferred[None]:
        return self._change(work, "instances", lambda: _sorted(self._instances))

    def _change_certificates(self, work: Callable[[], object]) -> Deferred[None]:
        return self._change(work, "certificates", self._listed_certificates)

    def follow(self, listener: Callable[[Published], None]) -> Deferred[None]:
        """See `interfaces.IStore`."""

        def work() -> None:
            listener(self._published)
            self._listeners.append(listener)

        return self._do(work)

    def routes(self) -> Deferred[tuple[Route, ...]]:
        """All routes."""
        return self._do(lambda: _sorted(self._routes))

    def save_routes(self, routes: Sequence[Route]) -> Deferred[None]:
        """Insert or replace each route by its id."""
        return self._change_routes(lambda: self._routes.update((route.id, route) for route in routes))

    def delete_routes(self, ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these, or none and `errors.NotFound`."""
        return self._change_routes(lambda: _delete(self._routes, "route", ids))

    def change_routes(
        self,
        ids: Sequence[str],
        change: Callable[[Sequence[Route]], tuple[Sequence[Route], Sequence[str]]],
    ) -> Deferred[None]:
        """Save and delete what `change` makes of those of these routes that there are."""

        def work() -> None:
            saved, deleted = change([self._routes[key] for key in ids if key in self._routes])
            _delete(self._routes, "route", deleted)
            self._routes.update((route.id, route) for route in saved)

        return self._change_routes(work)

    def redirects(self) -> Deferred[tuple[Redirect, ...]]:
        """All redirects."""
        return self._do(lambda: _sorted(self._redirects))

    def save_redirects(self, redirects: Sequence[Redirect]) -> Deferred[None]:
        """Insert or replace each redirect by its id."""
        return self._change_redirects(
            lambda: self._redirects.update((redirect.id, redirect) for redirect in redirects)
        )

    def delete_redirects(self, ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these, or none and `errors.NotFound`."""
        return self._change_redirects(lambda: _delete(self._redirects, "redirect", ids))

    def instances(self) -> Deferred[tuple[Instance, ...]]:
        """All registered instances."""
        return self._do(lambda: _sorted(self._instances))

    def save_instance(self, instance: Instance) -> Deferred[None]:
        """Insert or replace by id; `errors.Conflict` if its url is held under another id."""

        def work() -> None:
            for other in self._instances.values():
                if other.url == instance.url and other.id != instance.id:
                    raise Conflict(f"an instance with the url {other.url} is registered under another id")
            self._instances[instance.id] = instance

        return self._change_instances(work)

    def delete_instance(self, instance_id: str) -> Deferred[None]:
        """Delete it; `errors.NotFound` if there is none."""
        return self._change_instances(lambda: _delete(self._instances, "instance", [instance_id]))

    def _listed_certificates(self) -> tuple[Certificate, ...]:
        return tuple(attrs.evolve(each, private_key="") for each in _sorted(self._certificates))

    def certificates(self) -> Deferred[tuple[Certificate, ...]]:
        """All certificates, without their private keys."""
        return self._do(self._listed_certificates)

    def certificate(self, certificate_id: str) -> Deferred[Certificate | None]:
        """The certificate with this id, with its private key."""
        return self._do(lambda: self._certificates.get(certificate_id))

    def save_certificates(self, certificates: Sequence[Certificate]) -> Deferred[None]:
        """Insert or replace each by its id; what is there already keeps its `created_at`.

        ValueError, and none is saved, if one of them has no private key.
        """

        def work() -> None:
            for certificate in certificates:
                if not certificate.private_key:
                    raise ValueError(f"the certificate {certificate.id} is without its private key")
            for certificate in certificates:
                created = self._certificates.get(certificate.id, certificate).created_at
                self._certificates[certificate.id] = attrs.evolve(certificate, created_at=created)

        return self._change_certificates(work)

    def delete_certificates(self, ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these, or none and `errors.NotFound`."""
        return self._change_certificates(lambda: _delete(self._certificates, "certificate", ids))

    def account(self, slug: str) -> Deferred[Account | None]:
        """The account with this slug."""
        return self._do(lambda: next((a for a in self._accounts.values() if a.slug == slug), None))

    def account_by_id(self, account_id: str) -> Deferred[Account | None]:
        """The account with this id."""
        return self._do(lambda: self._accounts.get(account_id))

    def create_account(self, account: Account) -> Deferred[None]:
        """Insert it; `errors.Conflict` if the slug (or the id) is taken."""

        def work() -> None:
            if any(account.slug == a.slug or account.id == a.id for a in self._accounts.values()):
                raise Conflict(f"the slug {account.slug} is taken")
            self._accounts[account.id] = account

        return self._do(work)

    def set_password(self, account_id: str, password_hash: str) -> Deferred[None]:
        """Replace the account's password hash and forget its tokens; `errors.NotFound` if it is not there."""

        def work() -> None:
            if account_id not in self._accounts:
                raise NotFound("no such account")
            account = self._accounts[account_id]
            self._accounts[account_id] = attrs.evolve(account, password_hash=password_hash)
            for token in [token for token in self._tokens.values() if token.account_id == account_id]:
                del self._tokens[token.id]

        return self._do(work)

    def app(self, host: str) -> Deferred[App]:
        """The app with this host, made now if there is none."""

        def work() -> App:
            for app in self._apps.values():
                if app.host == host:
                    return app
            self._make_room_for_app()
            app = App(f"app-{uuid.uuid4().hex}", host)
            self._apps[app.id] = app
            return app

        return self._do(work)

    def _make_room_for_app(self) -> None:
        if len(self._apps) >= self.max_apps:
            used = {token.app_id for token in self._tokens.values()}
            self._apps = {key: app for key, app in self._apps.items() if key in used}
        if len(self._apps) >= self.max_apps:
            raise Unavailable(f"there are {self.max_apps} apps already, with logins to each")

    def app_by_id(self, app_id: str) -> Deferred[App | None]:
        """The app with this id."""
        return self._do(lambda: self._apps.get(app_id))

    def save_token(
        self, token: Token, keep: int, expired_before: datetime.datetime | None = None
    ) -> Deferred[None]:
        """Insert it, and forget all but the account's `keep` newest, and what expired too long ago.

        `errors.NotFound` if there is no such account or app.
        """

        def work() -> None:
            if token.account_id not in self._accounts:
                raise NotFound("no such account")
            if token.app_id not in self._apps:
                raise NotFound("no such app")
            self._tokens[token.id] = token
            tokens = self._tokens_of(token.account_id)
            for number, old in enumerate(reversed(tokens)):
                if number >= keep or (expired_before is not None and old.expires_at < expired_before):
                    del self._tokens[old.id]

        return self._do(work)

    def _tokens_of(self, account_id: str) -> list[Token]:
        return [token for token in self._tokens.values() if token.account_id == account_id]

    def token(self, token_id: str) -> Deferred[Token | None]:
        """The token with this id, expired or not; None once forgotten."""
        return self._do(lambda: self._tokens.get(token_id))

    def count_tokens(self, account_id: str) -> Deferred[int]:
        """How many tokens of this account are kept."""
        return self._do(lambda: len(self._tokens_of(account_id)))

    def secret(self, name: str) -> Deferred[bytes | None]:
        """The secret of this name."""
        return self._do(lambda: self._secrets.get(name))

    def create_secret(self, name: str, value: bytes) -> Deferred[bytes]:
        """Keep it unless there is one of this name already; return the one kept."""
        return self._do(lambda: self._secrets.setdefault(name, value))

    def replace_secret(self, name: str, value: bytes) -> Deferred[None]:
        """Keep it in the place of one of this name."""
        return self._do(lambda: self._secrets.update({name: value}))

    def issuances(self) -> Deferred[tuple[Issuance, ...]]:
        """All that is known of orders, sorted by name; a mere lease is nothing known."""
        return self._do(lambda: tuple(self._issuances[name] for name in sorted(self._issuances)))

    def claim_issuance(
        self, name: str, holder: str, now: datetime.datetime, until: datetime.datetime
    ) -> Deferred[Issuance | None]:
        """Lease this name to `holder`: what is known of it, or None while another's lease has not run out.

        It has run out at its `until`.
        """

        def work() -> Issuance | None:
            other, end = self._leases.get(name, (holder, now))
            if other != holder and now < end <= now + LONGEST_LEASE:
                return None
            self._leases[name] = holder, until
            return self._issuances.get(name, Issuance(name))

        return self._do(work)

    def release_issuance(self, issuance: Issuance, holder: str) -> Deferred[bool]:
        """Keep what is known now and end the lease; False, and nothing is kept, if it is not `holder`'s.

        A lease that has run out is still the holder's until another has claimed the name.
        """

        def work() -> bool:
            name = issuance.name
            if name not in self._leases or self._leases[name][0] != holder:
                return False
            del self._leases[name]
            self._issuances.pop(name, None)
            if issuance != Issuance(name):
                self._issuances[name] = issuance
            return True

        return self._do(work)

    def delete_issuances(self, names: Sequence[str]) -> Deferred[None]:
        """Forget what is known of these; a lease goes on."""

        def work() -> None:
            for name in names:
                self._issuances.pop(name, None)

        return self._do(work)

    def spend_order(
        self, domain: str, name: str, now: datetime.datetime, since: datetime.datetime, most: int
    ) -> Deferred[datetime.datetime | None]:
        """Note an order, unless `most` other names of this domain were ordered after `since`.

        Then the moment of the oldest of those is the answer (`now`, where `most` is 0 and there is none).
        """

        def work() -> datetime.datetime | None:
            def is_kept(of: str, moment: datetime.datetime) -> bool:
                earliest = since if of == domain else now - LONGEST_WINDOW
                return earliest < moment <= now + (now - earliest)

            self._orders = {key: moment for key, moment in self._orders.items() if is_kept(key[0], moment)}
            others = [moment for key, moment in self._orders.items() if key[0] == domain and key[1] != name]
            if len(others) >= most:
                return min(others, default=now)
            self._orders[domain, name] = now
            return None

        return self._do(work)

    def ordered(
        self, domain: str, since: datetime.datetime
    ) -> Deferred[tuple[tuple[str, datetime.datetime], ...]]:
        """The names of this domain for which an order was noted after `since`, and when, the oldest first."""

        def work() -> tuple[tuple[str, datetime.datetime], ...]:
            found = [(key[1], at) for key, at in self._orders.items() if key[0] == domain and at > since]
            return tuple(sorted(found, key=lambda each: (each[1], each[0])))

        return self._do(work)

    def challenges(self, now: datetime.datetime) -> Deferred[tuple[Challenge, ...]]:
        """All that have not expired by `now`, sorted by kind, name and token."""
        return self._do(lambda: tuple(each for _, each in sorted(self._asked_for(now).items())))

    def _asked_for(self, now: datetime.datetime) -> dict[tuple[str, str, str], Challenge]:
        return {key: each for key, each in self._challenges.items() if each.expires_at > now}

    def save_challenge(self, challenge: Challenge, now: datetime.datetime) -> Deferred[None]:
        """Insert or replace it by kind, name and token; forget those that have expired by `now`."""

        def work() -> None:
            key = challenge.kind, challenge.name, challenge.token
            self._challenges = {**self._asked_for(now), key: challenge}

        return self._do(work)

    def delete_challenge(self, challenge: Challenge) -> Deferred[None]:
        """Forget it, if it is there."""

        def work() -> None:
            self._challenges.pop((challenge.kind, challenge.name, challenge.token), None)

        return self._do(work)

    def connect(self) -> None:
        """Nothing to open."""

    def close(self) -> Deferred[None]:
        """After this every call fails with `errors.StoreUnavailable`; closing again does nothing."""
        self.failure = StoreUnavailable("the store is closed")
        return defer.succeed(None)


class _Deaf:
    """Hears the end of an answer that nobody wants."""

    def read_ended(self) -> None:
        pass

    def body_received(self, data: bytes) -> None:
        pass

    def answer_ended(self, trailers: Headers) -> None:
        pass

    def upstream_lost(self, error: ProxyError, retriable: bool) -> None:
        pass


class ScriptedConnection:
    """An upstream connection whose other end is a test; it keeps what was sent, out of its framing.

    Any call of the other end fails with `AssertionError` while no exchange waits for it. With a `capacity`
    it is full whenever it has so many bytes of body, until `drain` makes room for as many again.
    """

    def __init__(self, endpoint: EndpointState, reused: bool = False, capacity: int | None = None) -> None:
        self.endpoint = endpoint
        self.reused = reused
        self.capacity = capacity
        self.method = b""
        self.head = b""
        """The bytes of the request's head, as they would go out."""
        self.chunked = False
        self.body = b""
        """What came of the request's body."""
        self.trailers: Headers | None = None
        """The request's trailers; None as long as the request is not complete."""
        self.paused = False
        """Whether the exchange asked to read no more of the answer."""
        self.unwanted = False
        self.aborted = False
        self.closed = False
        self.full = False
        self._exchange: Exchange | Tunnel | _Deaf | None = None
        self._room = capacity or 0

    def __repr__(self) -> str:
        return f"<ScriptedConnection {self.endpoint.address.authority}: {self._exchange!r}>"

    # What the exchange says: see `interfaces.Connection`.

    def send(
        self, exchange: Exchange, request: OutgoingRequest, head: bytes, body: bytes, trailers: Headers | None
    ) -> None:
        """Keep a request, as far as it is at hand."""
        self._exchange, self.method, self.head = exchange, request.method, head
        self.chunked = request.body == CHUNKED
        self.body, self.trailers = b"", None
        if body:
            self.write(body)
        if trailers is not None:
            self.end_request(trailers)

    def write(self, data: bytes) -> None:
        """Keep a piece of its body."""
        if self.trailers is not None or self.aborted:
            raise AssertionError(f"{self!r} got a body after the end of the request")
        self.body += data
        self._room -= len(data)
        if self.capacity is not None and self._room <= 0 and self._exchange is not None:
            self.fill()

    def end_request(self, trailers: Headers) -> None:
        """Keep its trailers."""
        if self.trailers is not None:
            raise AssertionError(f"{self!r} was told twice that the request is complete")
        self.trailers = list(trailers)

    def pause(self) -> None:
        """Set `paused`."""
        self.paused = True

    def resume(self) -> None:
        """Clear `paused`."""
        self.paused = False

    def let_end(self) -> None:
        """Set `unwanted`; the exchange hears no more, and the test may go on."""
        self.unwanted = True
        self._exchange = _Deaf()

    def abort(self) -> None:
        """Set `aborted`; the exchange hears no more."""
        self.aborted = True
        self._exchange = None

    def close(self) -> None:
        """Set `closed`; the exchange hears no more."""
        self.closed = True
        self._exchange = None

    def switch(self, tunnel: Tunnel) -> None:
        """The tunnel hears what `send_body`, `finish`, `lose`, `fill` and `drain` do from here on."""
        self._exchange = tunnel
        self.body, self.trailers = b"", None

    # What a test makes the service do.

    @property
    def exchange(self) -> Any:
        """The exchange that has the connection, or the tunnel that it became."""
        if self._exchange is None:
            raise AssertionError(f"no exchange waits for {self!r}")
        return self._exchange

    @property
    def request_line(self) -> bytes:
        """The first line of the head that was sent."""
        return self.head.partition(b"\r\n")[0]

    def field(self, name: bytes) -> list[bytes]:
        """The values of a field of the request that was sent; names in any case."""
        lines = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:-2]]
        return [value for key, _colon, value in lines if key.lower() == name.lower()]

    def inform(self, status: int, *fields: tuple[bytes, bytes], reason: bytes = b"") -> None:
        """Send a 1xx answer."""
        self.exchange.interim_received(prepare_response(self.method, True, status, reason, [*fields]))

    def respond(self, status: int = 200, *fields: tuple[bytes, bytes], reason: bytes = b"OK") -> None:
        """Send the head of an answer; its fields say how its body is framed, as they do on the wire."""
        self.exchange.head_received(prepare_response(self.method, True, status, reason, [*fields]))
        self.exchange.read_ended()

    def send_body(self, data: bytes) -> None:
        """Send a piece of the answer's body."""
        self.exchange.body_received(data)
        self.exchange.read_ended()

    def switch_protocols(self, protocol: bytes = b"websocket") -> None:
        """Answer with a 101: bytes go both ways from here on."""
        fields = [(b"Connection", b"Upgrade"), (b"Upgrade", protocol)]
        self.exchange.head_received(prepare_response(self.method, True, 101, b"Switching Protocols", fields))

    def finish(self, *trailers: tuple[bytes, bytes]) -> None:
        """Complete the answer; of a tunnel, the service's half."""
        exchange = self.exchange
        if not isinstance(exchange, Tunnel):
            self._exchange = None
        exchange.answer_ended([*trailers])

    def answer(self, body: bytes = b"", status: int = 200, *fields: tuple[bytes, bytes]) -> None:
        """Send a whole answer with a length."""
        self.respond(status, *fields, (b"Content-Length", b"%d" % len(body)))
        if body and self.method != b"HEAD":
            self.send_body(body)
        self.finish()

    def lose(self, retriable: bool = False, detail: str = "") -> None:
        """Close the connection; `retriable` if no byte of an answer was sent."""
        exchange, self._exchange = self.exchange, None
        exchange.upstream_lost(UpstreamFailed("the service closed the connection", detail=detail), retriable)

    def fill(self) -> None:
        """Take no more of the request's body."""
        self.full = True
        self.exchange.upstream_full()

    def drain(self) -> None:
        """Take more of the request's body."""
        self._room = self.capacity or 0
        self.full = False
        self.exchange.upstream_drained()


@attrs.define(eq=False)
class Connecting:
    """A connection that an exchange asked a `ScriptedUpstream` to open."""

    endpoint: EndpointState
    timeout: float
    exchange: Exchange
    cancelled: bool = False


class ScriptedUpstream:
    """An `interfaces.UpstreamClient` that connects to a test: which says what comes of each attempt.

    `connections` are all that ever carried a request, in order; `capacity` is what new ones get.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.connecting: list[Connecting] = []
        """What waits for `accept` or `refuse`, the longest first."""
        self.connections: list[ScriptedConnection] = []
        self._idle: list[ScriptedConnection] = []

    def __repr__(self) -> str:
        return f"<ScriptedUpstream: {len(self.connecting)} connecting, {len(self._idle)} idle>"

    def checkout(self, endpoint: EndpointState) -> ScriptedConnection | None:
        """An idle connection that `keep` put here."""
        for connection in self._idle:
            if connection.endpoint is endpoint:
                self._idle.remove(connection)
                self.connections.append(connection)
                return connection
        return None

    def open(self, endpoint: EndpointState, timeout: float, exchange: Exchange) -> Callable[[], None]:
        """Wait for `accept` or `refuse`."""
        attempt = Connecting(endpoint, timeout, exchange)
        self.connecting.append(attempt)

        def cancel() -> None:
            attempt.cancelled = True
            if attempt in self.connecting:
                self.connecting.remove(attempt)

        return cancel

    def accept(self) -> ScriptedConnection:
        """Let the longest waiting attempt connect; returns the connection, which has the request."""
        attempt = self._next()
        connection = ScriptedConnection(attempt.endpoint, capacity=self.capacity)
        self.connections.append(connection)
        attempt.exchange.connected(connection)
        return connection

    def refuse(self, error: ProxyError | None = None) -> EndpointState:
        """Let the longest waiting attempt fail; returns where it wanted to go."""
        attempt = self._next()
        attempt.exchange.connect_failed(
            error or UpstreamFailed("no instance of the service could be reached", detail="refused")
        )
        return attempt.endpoint

    def _next(self) -> Connecting:
        if not self.connecting:
            raise AssertionError("nobody wants to connect")
        return self.connecting.pop(0)

    def keep(self, endpoint: EndpointState) -> ScriptedConnection:
        """Put an idle connection where the next exchange with this endpoint finds it."""
        connection = ScriptedConnection(endpoint, reused=True)
        self._idle.append(connection)
        return connection


class RecordingDownstream:
    """An `interfaces.Downstream` that keeps what the exchange told it, and insists on the order.

    `refused` is the status and message of a refusal; `request_paused` that its body is to wait.
    """

    def __init__(self) -> None:
        self.interims: list[ResponseHead] = []
        self.head: ResponseHead | None = None
        self.body = b""
        self.trailers: Headers | None = None
        """The trailers of an answer that is complete, else None."""
        self.refused: tuple[int, str] | None = None
        self.aborted = False
        self.request_paused = False
        self.tunnel: Tunnel | None = None
        self.half_closed = False

    def __repr__(self) -> str:
        status = self.head.status if self.head else "no head"
        return f"<RecordingDownstream: {status}, {len(self.body)} bytes, over: {self.over}>"

    @property
    def over(self) -> bool:
        """Whether the last call has come."""
        return self.aborted or self.refused is not None or self.trailers is not None

    def _check(self, head_came: bool) -> None:
        if self.over or (self.head is not None) is not head_came:
            raise AssertionError(f"out of order: {self!r}")

    def inform(self, head: ResponseHead) -> None:
        """Keep a 1xx answer."""
        self._check(False)
        self.interims.append(head)

    def respond(self, head: ResponseHead) -> None:
        """Keep the head."""
        self._check(False)
        self.head = head

    def write(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self._check(True)
        self.body += data

    def flush(self) -> None:
        """Nothing is held back here."""

    def end(self, trailers: Headers) -> None:
        """Keep the trailers."""
        self._check(True)
        self.trailers = list(trailers)

    def abort(self) -> None:
        """Set `aborted`."""
        self._check(True)
        self.aborted = True

    def refuse(self, status: int, message: str) -> None:
        """Keep the refusal."""
        self._check(False)
        self.refused = status, message

    def pause_request(self) -> None:
        """Set `request_paused`."""
        self.request_paused = True

    def resume_request(self) -> None:
        """Clear `request_paused`."""
        self.request_paused = False

    def switch(self, head: ResponseHead, tunnel: Tunnel) -> None:
        """Keep the 101 as `head`, and the tunnel."""
        self._check(False)
        self.head = head
        self.tunnel = tunnel

    def half_close(self) -> None:
        """Set `half_closed`."""
        self._check(True)
        self.half_closed = True
