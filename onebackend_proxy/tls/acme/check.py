"""What would stop an order for a name, found out before one is made: `oo certs check`."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...errors import Unavailable
from ...interfaces import Finding
from ...records import Certificate, Challenge, Issuance
from ..authority import is_local
from ..certificates import covers
from ..challenges import HTTP_01, TLS_ALPN_01, Challenges
from . import findings
from .findings import Directory
from .probes import Probe, fetch, greet
from .resolving import Addresses, LookupFailed, Resolving

__all__ = ["Checker", "Directory", "Facts"]

T = TypeVar("T")

CHECK_SECONDS = 30.0
"""For a whole check."""
DIRECTORY_SECONDS = 20.0
"""For the directories to say something of themselves."""
MAX_CHECKS = 4
"""Checks under way: each takes two of the reactor's threads, and sockets."""
CHALLENGE_PATH = "/.well-known/acme-challenge/"
# Of two proofs the one that lasts longer is shown: a real order's must outlast ours.
_LIFE = datetime.timedelta(seconds=CHECK_SECONDS)

_PORTS = (findings.PORT_80, findings.PORT_443)
_NO_ROUTE = "not looked at: only hosts of Routes are fetched from"
_NO_ADDRESS = "not looked at: there is no address"


@attrs.frozen(kw_only=True)
class Facts:
    """What the rest of the program knows, for a check to ask.

    `routed` tells whether a Route is for a canonical host, `certificate_for` what would be shown for it,
    `issuance` what is known of its orders, `budget` until when none may be made (None: now), `directories`
    what ACME directories say of themselves, `by_dns` whether DNS-01 is set up.
    """

    routed: Callable[[str], bool]
    certificate_for: Callable[[str], Certificate | None]
    issuance: Callable[[str], Deferred[Issuance | None]]
    budget: Callable[[str], Deferred[datetime.datetime | None]]
    directories: Callable[[], Deferred[Sequence[Directory]]]
    by_dns: bool = False


class Checker:
    """Finds out what would stop an order for a name, a few checks at a time.

    `resolver` is an address and a port, None for the system's; authorities come to `http_port` and
    `https_port`, where `challenges` are answered.
    """

    def __init__(
        self,
        reactor: Any,
        facts: Facts,
        challenges: Challenges,
        *,
        resolver: tuple[str, int] | None = None,
        http_port: int = 80,
        https_port: int = 443,
    ) -> None:
        self._reactor = reactor
        self._facts = facts
        self._challenges = challenges
        self._resolver = resolver
        self._http_port, self._https_port = http_port, https_port
        self._under_way = 0
        self._log = Logger()

    def __repr__(self) -> str:
        return f"<Checker: {self._under_way} under way>"

    def check(self, domain: str) -> Deferred[tuple[Finding, ...]]:
        """What there is to say of this canonical host, or wildcard, in the order in which to read it.

        Fails with `errors.Unavailable` where `MAX_CHECKS` are under way.
        """
        return Deferred.fromCoroutine(self._check(domain))

    async def _check(self, domain: str) -> tuple[Finding, ...]:
        if is_local(domain):
            return (findings.on_local(domain),)
        if self._under_way >= MAX_CHECKS:
            raise Unavailable("as many checks as may be are under way: try again in a moment")
        self._under_way += 1
        try:
            parts = await _together(
                [
                    self._within(self._names(domain), findings.DNS, *_PORTS),
                    self._within(self._authorities(domain), findings.CAA, findings.AUTHORITY),
                    self._within(self._budget(domain), findings.BUDGET),
                    self._within(self._failures(domain), findings.FAILURES),
                ]
            )
        finally:
            self._under_way -= 1
        (ways, (caa, authority), budget, failures) = parts
        first = [findings.on_route(domain, self._facts.routed(domain)), *self._certificate(domain)]
        names, ports = ways[:-2], ways[-2:]
        return (*first, *names, caa, *ports, *budget, *failures, authority)

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._reactor.seconds(), datetime.UTC)

    def _within(self, work: Coroutine[Any, Any, list[Finding]], *subjects: str) -> Deferred[Any]:
        """What `work` finds; in so many words that it could not, where it fails or takes too long."""

        def failed(failure: Failure) -> list[Finding] | Failure:
            if failure.check(CancelledError):
                # By who wanted to know.
                return failure
            self._log.failure("a check of {subjects} failed", failure, subjects=", ".join(subjects))
            return findings.not_looked_at(subjects, "could not be found out: the proxy's log says why")

        def too_late(_result: object, seconds: float) -> list[Finding]:
            return findings.not_looked_at(subjects, f"could not be found out in {seconds:.0f} s")

        done: Deferred[Any] = Deferred.fromCoroutine(work)
        return done.addTimeout(CHECK_SECONDS, self._reactor, too_late).addErrback(failed)

    def _in_thread(self, work: Callable[[Resolving], T]) -> Deferred[T | LookupFailed]:
        """What `work` finds out with a resolver, or why it could not."""

        def look() -> T | LookupFailed:
            try:
                return work(Resolving(self._resolver))
            except LookupFailed as error:
                return error

        found: Deferred[T | LookupFailed] = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), look
        )
        return found

    def _certificate(self, domain: str) -> list[Finding]:
        found = self._facts.certificate_for(domain)
        if found is None or not covers(found, domain):
            return []
        return [findings.on_certificate(found, self._now())]

    async def _names(self, domain: str) -> list[Finding]:
        """The DNS, and what is where it leads; last the two ports."""
        if domain.startswith("*."):
            return [findings.on_wildcard(self._facts.by_dns)]
        found = await self._in_thread(lambda resolving: resolving.addresses(domain))
        told = findings.on_dns(domain, found)
        if not isinstance(found, Addresses) or not found.found:
            return [told, *findings.not_looked_at(_PORTS, _NO_ADDRESS)]
        if not self._facts.routed(domain):
            return [told, *findings.not_looked_at(_PORTS, _NO_ROUTE)]
        addresses = tuple(dict.fromkeys(found.found))[: findings.MAX_ADDRESSES]
        http, https = await _together(
            [
                Deferred.fromCoroutine(self._by_http(domain, addresses)),
                Deferred.fromCoroutine(self._by_tls(domain, addresses)),
            ],
        )
        return [told, *findings.on_ports(http, https, self._facts.by_dns)]

    async def _by_http(self, domain: str, addresses: Sequence[str]) -> list[Probe]:
        challenge = self._made_up(HTTP_01, domain)
        path = CHALLENGE_PATH + challenge.token
        probe = partial(
            fetch, self._reactor, port=self._http_port, host=domain, path=path, proof=challenge.answer
        )
        return await self._while_placed(challenge, probe, addresses)

    async def _by_tls(self, domain: str, addresses: Sequence[str]) -> list[Probe]:
        probe = partial(greet, self._reactor, port=self._https_port, host=domain)
        # Who asks so names no token: an order that is under way must not get our answer, but we may its.
        known = await self._challenges.find(TLS_ALPN_01, domain)
        if known is not None:
            return await _all(partial(probe, proof=known), addresses)
        challenge = self._made_up(TLS_ALPN_01, domain)
        return await self._while_placed(challenge, partial(probe, proof=challenge.answer), addresses)

    def _made_up(self, kind: str, domain: str) -> Challenge:
        token = secrets.token_urlsafe(32)
        return Challenge(kind, domain, token, f"{token}.{secrets.token_urlsafe(32)}", self._now() + _LIFE)

    async def _while_placed(
        self, challenge: Challenge, probe: Callable[..., Coroutine[Any, Any, Probe]], addresses: Sequence[str]
    ) -> list[Probe]:
        try:
            await self._challenges.place(challenge)
            return await _all(probe, addresses)
        finally:
            await self._challenges.remove(challenge)

    async def _authorities(self, domain: str) -> list[Finding]:
        """CAA and the authorities that it may forbid."""
        # Whatever it says when it is cancelled, it is late.
        asked: Deferred[Sequence[Directory] | None] = self._facts.directories().addTimeout(
            DIRECTORY_SECONDS, self._reactor, lambda _result, _seconds: None
        )
        host = domain.removeprefix("*.")
        looked = self._in_thread(lambda resolving: resolving.policies(host))
        told = await asked
        if told is None:
            authority = Finding(findings.AUTHORITY, None, f"no answer in {DIRECTORY_SECONDS:.0f} s")
        else:
            authority = findings.on_authority(told)
        return [findings.on_caa(domain, await looked, told or (), self._facts.by_dns), authority]

    async def _budget(self, domain: str) -> list[Finding]:
        return [findings.on_budget(await self._facts.budget(domain))]

    async def _failures(self, domain: str) -> list[Finding]:
        return [findings.on_failures(await self._facts.issuance(domain), self._now())]


async def _all(probe: Callable[..., Coroutine[Any, Any, Probe]], addresses: Sequence[str]) -> list[Probe]:
    """One look at each address, all at once."""
    return await _together([Deferred.fromCoroutine(probe(address)) for address in addresses])


async def _together(under_way: Sequence[Deferred[T]]) -> list[T]:
    """What all of these come to; fails as the first that fails."""
    try:
        return await gatherResults(under_way, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
