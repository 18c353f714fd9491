"""Which names are to have a certificate, and when each is to be looked at next."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Container, Iterable, Sequence

from ...interfaces import Published
from ...records import Certificate, Issuance, Route
from ...routing import RouteTable, wildcard_over
from ..authority import is_local
from . import renewal


class Schedule:
    """The hosts of all Routes, and what was ordered for hosts below a wildcard.

    `certificate_for` is the certificate that would be shown for a host, `can_prove` whether a name can be
    ordered at all, `directories` those that may be asked when to renew, `now` the time.
    """

    def __init__(
        self,
        certificate_for: Callable[[str], Certificate | None],
        can_prove: Callable[[str], bool],
        directories: Container[str],
        now: Callable[[], datetime.datetime],
    ) -> None:
        self.certificate_for = certificate_for
        self.can_prove = can_prove
        self._directories = directories
        self._now = now
        self.known: dict[str, Issuance] = {}
        """What is known of earlier orders, of names of which something is."""
        self.certificates: tuple[Certificate, ...] = ()
        """All that are stored."""
        self._routes: RouteTable[Route] = RouteTable()
        self._due: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Schedule: {len(self._due)} names>"

    def publish(self, published: Published) -> Sequence[str]:
        """From now on these are the Routes and certificates; returns the hosts that are new."""
        # In order: what is saved first is ordered first.
        touched: dict[str, None] = {}
        new: list[str] = []
        if self._routes is not published.routes:
            hosts, old = published.routes.hosts(), self._routes.hosts()
            new = [host for host in hosts if host not in old]
            touched |= dict.fromkeys(new)
            touched |= dict.fromkeys(host for host in old if host not in hosts)
            self._routes = published.routes
        if self.certificates is not published.certificates:
            before = {id(each): each for each in self.certificates}
            after = {id(each): each for each in published.certificates}
            self.certificates = published.certificates
            for key in before.keys() ^ after.keys():
                touched |= dict.fromkeys((before.get(key) or after[key]).names)
        self.plan(touched | self._below(touched))
        return new

    def _below(self, names: Iterable[str]) -> dict[str, None]:
        """What there is below those of these names that are wildcards."""
        wildcards = {name for name in names if name.startswith("*.")}
        if not wildcards:
            return {}
        there = [*self._routes.hosts(), *(each.id for each in self.certificates)]
        return dict.fromkeys(name for name in there if wildcard_over(name) in wildcards)

    def know(self, issuance: Issuance) -> None:
        """That is known of a name now."""
        if issuance == Issuance(issuance.name):
            self.known.pop(issuance.name, None)
        else:
            self.known[issuance.name] = issuance

    def plan(self, names: Iterable[str], after: float = 0.0) -> None:
        """Find out anew when to look at each of these, in `after` seconds at the earliest."""
        now = self._now()
        for name in names:
            at = self._due_at(name, now)
            if at is None:
                self._due.pop(name, None)
            else:
                self._due[name] = max(at.timestamp(), now.timestamp() + after)

    def due(self) -> list[str]:
        """The names to look at now, the one first that has been due for longest."""
        now = self._now().timestamp()
        return sorted((name for name, at in self._due.items() if at <= now), key=self._due.__getitem__)

    def is_routed(self, name: str) -> bool:
        """Whether a Route is for this host, and it is not the local authority's."""
        return self._routes.has_host(name) and not is_local(name.removeprefix("*."))

    def is_listed(self, name: str) -> bool:
        """Whether a Route names it, and not just a wildcard above it."""
        return name in self._routes.hosts()

    def order_for(self, host: str) -> str:
        """The name to order for a host: its own, or the wildcard's of a Route, if that can be proved."""
        above = wildcard_over(host)
        if not self.is_listed(host) and self.is_listed(above) and self.can_prove(above):
            return above
        return host

    def is_ours(self, name: str, certificate: Certificate | None) -> bool:
        """Whether this certificate was ordered for this name: what somebody has saved is theirs to renew."""
        return certificate is not None and certificate.id == name and bool(certificate.directory)

    def should_ask(self, name: str, certificate: Certificate | None) -> bool:
        """Whether the authority is to be asked now when to renew it."""
        return (
            certificate is not None
            and self.is_ours(name, certificate)
            and certificate.directory in self._directories
            and renewal.should_ask(certificate, self.known.get(name), self._now())
        )

    def _due_at(self, name: str, now: datetime.datetime) -> datetime.datetime | None:
        """When to look at it next; None if it is none of our business (any more)."""
        certificate = self.certificate_for(name)
        # Below a wildcard: not before somebody comes for it.
        if not (self.is_listed(name) or self.is_ours(name, certificate)):
            return None
        if not (self.is_routed(name) and self.can_prove(name)):
            return None
        issuance = self.known.get(name)
        at = self._needed_at(name, certificate, issuance, now)
        wait = renewal.waits_until(issuance, now)
        return at if wait is None else max(at, wait)

    def _needed_at(
        self, name: str, certificate: Certificate | None, issuance: Issuance | None, now: datetime.datetime
    ) -> datetime.datetime:
        if certificate is None:
            return now
        if not self.is_ours(name, certificate):
            # Somebody has saved it, or it is a wildcard's, which is renewed in time.
            return certificate.not_after
        at = renewal.renew_at(certificate, issuance, now)
        if certificate.directory in self._directories:
            told = issuance is not None and issuance.serial == certificate.serial
            ask_at = issuance.ask_at if issuance is not None and told else None
            at = min(at, ask_at or now)
        return at
