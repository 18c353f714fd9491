"""What a store, a registry, an upstream and a downstream must do.

Everything below `exchange` programs against these; the implementations never import each other.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Interface

from .balancing import EndpointState, Upstream
from .headers import OutgoingRequest
from .messages import Headers, ResponseHead
from .records import (
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

if TYPE_CHECKING:
    from .exchange import Exchange
    from .tunnel import Tunnel

# zope's Interface methods take no `self` and have no body.
# ruff: noqa: N805
# mypy: disable-error-code="empty-body"


@attrs.frozen(eq=False)
class Published:
    """What a store holds of that which requests are served by, at one moment.

    What did not change is the same object in the next one. The certificates come without their keys.
    """

    routes: RouteTable[Route]
    redirects: RouteTable[Redirect]
    instances: tuple[Instance, ...]
    certificates: tuple[Certificate, ...]


class IStore(Interface):
    """Where routes, redirects, instances, accounts, apps, tokens and secrets persist.

    Every call returns a Deferred and leaves the reactor free. Every write is one transaction:
    it happens whole or not at all, and has reached the disk when its Deferred fires. What cannot
    be done now (locked, disk full, connection lost) fails with `errors.StoreUnavailable`, and
    the store stays usable for the next call. Lists come sorted by id.
    """

    def routes() -> Deferred[tuple[Route, ...]]:
        """All routes."""

    def save_routes(routes: Sequence[Route]) -> Deferred[None]:
        """Insert or replace each route by its id."""

    def delete_routes(ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these; `errors.NotFound` names the first unknown id, and deletes none."""

    def change_routes(
        ids: Sequence[str], change: Callable[[Sequence[Route]], tuple[Sequence[Route], Sequence[str]]]
    ) -> Deferred[None]:
        """Save and delete (by id) what `change` says, which is told those of these routes that there are.

        Nobody else changes them meanwhile. What it raises is what this fails with, and then nothing is done.
        It may run in another thread.
        """

    def redirects() -> Deferred[tuple[Redirect, ...]]:
        """All redirects."""

    def save_redirects(redirects: Sequence[Redirect]) -> Deferred[None]:
        """Insert or replace each redirect by its id."""

    def delete_redirects(ids: Sequence[str]) -> Deferred[None]:
        """As `delete_routes`."""

    def instances() -> Deferred[tuple[Instance, ...]]:
        """All registered instances."""

    def save_instance(instance: Instance) -> Deferred[None]:
        """Insert or replace by id; `errors.Conflict` if its url is held under another id."""

    def delete_instance(instance_id: str) -> Deferred[None]:
        """Delete it; `errors.NotFound` if there is none."""

    def certificates() -> Deferred[tuple[Certificate, ...]]:
        """All certificates, without their private keys."""

    def certificate(certificate_id: str) -> Deferred[Certificate | None]:
        """The certificate with this id, with its private key."""

    def save_certificates(certificates: Sequence[Certificate]) -> Deferred[None]:
        """Insert or replace each by its id; what is there already keeps its `created_at`."""

    def delete_certificates(ids: Sequence[str]) -> Deferred[None]:
        """As `delete_routes`."""

    def follow(listener: Callable[[Published], None]) -> Deferred[None]:
        """Call `listener` with what there is, before the Deferred fires, and again after each change.

        That is in the reactor's thread, and within a second for changes that another process makes.
        """

    def account(slug: str) -> Deferred[Account | None]:
        """The account with this slug."""

    def account_by_id(account_id: str) -> Deferred[Account | None]:
        """The account with this id."""

    def create_account(account: Account) -> Deferred[None]:
        """Insert it; `errors.Conflict` if the slug is taken."""

    def set_password(account_id: str, password_hash: str) -> Deferred[None]:
        """Replace the account's password hash, and forget its tokens, so that none is refreshed.

        `errors.NotFound` if there is no such account.
        """

    def app(host: str) -> Deferred[App]:
        """The app with this host, made now if there is none.

        At most `records.MAX_APPS` are kept: before there would be more, those that no token refers to are
        forgotten. `errors.Unavailable` if that makes no room.
        """

    def app_by_id(app_id: str) -> Deferred[App | None]:
        """The app with this id."""

    def save_token(
        token: Token, keep: int, expired_before: datetime.datetime | None = None
    ) -> Deferred[None]:
        """Insert it, and forget all but the account's `keep` newest tokens.

        Those that had expired before `expired_before` are forgotten too. `errors.NotFound` if there is no
        such account or app.
        """

    def token(token_id: str) -> Deferred[Token | None]:
        """The token with this id, expired or not; None once forgotten."""

    def count_tokens(account_id: str) -> Deferred[int]:
        """How many tokens of this account are kept."""

    def secret(name: str) -> Deferred[bytes | None]:
        """The secret of this name, decrypted."""

    def create_secret(name: str, value: bytes) -> Deferred[bytes]:
        """Keep it, encrypted, unless there is one of this name already; return the one kept."""

    def replace_secret(name: str, value: bytes) -> Deferred[None]:
        """Keep it, encrypted, in the place of one of this name."""

    def issuances() -> Deferred[tuple[Issuance, ...]]:
        """All that is known of orders, sorted by name."""

    def claim_issuance(
        name: str, holder: str, now: datetime.datetime, until: datetime.datetime
    ) -> Deferred[Issuance | None]:
        """Let `holder` alone order for this name until then: what is known of it, or None if another does.

        Who holds it already holds it longer. After `until` anybody may have it: a process may have died. So
        they may if that is more than five minutes away: then a clock was wrong.
        """

    def release_issuance(issuance: Issuance, holder: str) -> Deferred[bool]:
        """Keep what is known now and let go; False, and nothing is kept, if another has it by now."""

    def delete_issuances(names: Sequence[str]) -> Deferred[None]:
        """Forget what is known of these, and overlook those of which nothing is."""

    def spend_order(
        domain: str, name: str, now: datetime.datetime, since: datetime.datetime, most: int
    ) -> Deferred[datetime.datetime | None]:
        """Note an order now for `name`, which is of the registered `domain`: None, and it may be made.

        Where orders for `most` other names of this domain were noted after `since`, nothing is noted, and
        the moment of the oldest of them is the answer. What was noted for it before `since` is forgotten.
        """

    def ordered(domain: str, since: datetime.datetime) -> Deferred[tuple[tuple[str, datetime.datetime], ...]]:
        """The names of this domain for which an order was noted after `since`, and when, the oldest first."""

    def challenges(now: datetime.datetime) -> Deferred[tuple[Challenge, ...]]:
        """All proofs that may be asked for, those not expired by `now`."""

    def save_challenge(challenge: Challenge, now: datetime.datetime) -> Deferred[None]:
        """Insert or replace it by kind, name and token; forget those that have expired by `now`."""

    def delete_challenge(challenge: Challenge) -> Deferred[None]:
        """Forget it, if it is there."""

    def connect() -> None:
        """Open files and connections now, and block meanwhile; else the first call does.

        For a program that forks and drops privileges: after the one and before the other.
        """

    def close() -> Deferred[None]:
        """Finish what is under way and let go of files and connections."""


@attrs.frozen
class Finding:
    """One thing that was looked at before an order, as `oo certs check` tells it.

    `ok` is None where it could not be found out. `message` says in plain words how it is, and what helps.
    """

    subject: str
    ok: bool | None
    message: str


class Issuing(Protocol):
    """What orders certificates, as the API sees it."""

    def order(self, names: Sequence[str]) -> None:
        """Order for these hosts of Routes now, whatever has failed before, if no authority forbids it.

        `errors.NotFound` names one that no Route is for.
        """

    def check(self, domain: str) -> Deferred[tuple[Finding, ...]]:
        """What would stop an order for this canonical host; its name may be a wildcard's."""


@attrs.frozen
class InstanceView:
    """An instance and what the last look at it found.

    `status` is one of Unknown, Healthy, Degraded, Unreachable, Error; `last_heartbeat` is when it last
    answered.
    """

    instance: Instance
    status: str
    last_heartbeat: datetime.datetime | None
    details: str = ""


class IRegistry(Interface):
    """Which instances serve a slug, and how they are."""

    def lookup(slug: str) -> Upstream | None:
        """The upstream for a service; None if no instance is registered. Synchronous, from memory."""

    def instances() -> tuple[InstanceView, ...]:
        """All instances, sorted by id."""

    def instance(instance_id: str) -> Instance | None:
        """The instance with this id."""

    def holder(url: str) -> Instance | None:
        """The instance that has this canonical url; there is one at most."""

    def register(instance: Instance) -> Deferred[None]:
        """Keep it in the store (insert or replace by id), then route to it and look at it."""

    def remove(instance_id: str) -> Deferred[None]:
        """Forget it; `errors.NotFound` if there is none."""


class Connection(Protocol):
    """One upstream connection, lent to one exchange at a time."""

    reused: bool
    """Whether it has carried an exchange before: then it may have gone stale unnoticed."""
    full: bool
    """Whether it takes no more of a request's body for now; it tells the exchange when that changes."""

    def send(
        self, exchange: Exchange, request: OutgoingRequest, head: bytes, body: bytes, trailers: Headers | None
    ) -> None:
        """Send a request's head and what is at hand of its body; the answer's events go to `exchange`.

        With `trailers` (which may be empty) the request is complete; else `write` and `end_request` follow.
        """

    def write(self, data: bytes) -> None:
        """Send a piece of the request's body, or of what goes through a tunnel."""

    def end_request(self, trailers: Headers) -> None:
        """The request is complete; in a tunnel, the client sends nothing more."""

    def switch(self, tunnel: Tunnel) -> None:
        """After a 101: from here on the connection's events go to `tunnel`."""

    def pause(self) -> None:
        """Stop reading the answer: the client does not keep up."""

    def resume(self) -> None:
        """Read on."""

    def let_end(self) -> None:
        """Nobody wants what is left of the answer; no event follows.

        If all of it is at hand, as it is behind the head of a 304, the connection can be used again.
        """

    def abort(self) -> None:
        """Close at once; no event follows."""

    def close(self) -> None:
        """Close when all is sent; no event follows."""


class UpstreamClient(Protocol):
    """Keeps and opens upstream connections."""

    def checkout(self, endpoint: EndpointState) -> Connection | None:
        """An idle connection to this endpoint, if one is kept."""

    def open(self, endpoint: EndpointState, timeout: float, exchange: Exchange) -> Callable[[], None]:
        """Connect, then call `exchange.connected` or `exchange.connect_failed`; returns how to cancel.

        Where the endpoint has all the connections it may have, wait for one, or call `exchange.no_room`.
        """


class Downstream(Protocol):
    """The client's side of one exchange, on whichever plane.

    `respond` comes once, before `write`; `end`, `abort` or `refuse` comes last.
    """

    def inform(self, head: ResponseHead) -> None:
        """Send a 1xx answer, where the client's protocol has them."""

    def respond(self, head: ResponseHead) -> None:
        """Send the answer's head; it may be held until `flush` or `end`."""

    def write(self, data: bytes) -> None:
        """Send a piece of the answer's body, not empty; it may be held until `flush` or `end`."""

    def flush(self) -> None:
        """Nothing more is at hand for now: let go of what was held."""

    def end(self, trailers: Headers) -> None:
        """The answer is complete."""

    def abort(self) -> None:
        """The answer cannot be completed: close so that the client sees an error, not an end."""

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error instead; nothing was sent yet."""

    def pause_request(self) -> None:
        """Stop reading the request's body: the upstream does not keep up."""

    def resume_request(self) -> None:
        """Read on."""

    def switch(self, head: ResponseHead, tunnel: Tunnel) -> None:
        """Send a 101 in the place of `respond`; from here on bytes go to and from `tunnel` as they are."""

    def half_close(self) -> None:
        """In a tunnel: the service sends nothing more, what the client sends still goes on."""
