"""Certificates by themselves: the parts of `tls.acme` put together, by the settings."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed

from .edge_certificates import EdgeCertificates
from .errors import SettingError
from .interfaces import Finding, IStore, Published
from .options import Settings
from .records import Issuance
from .tls.acme.accounts import Accounts
from .tls.acme.budget import Budget
from .tls.acme.check import Checker, Directory, Facts
from .tls.acme.daemons import DaemonThreads
from .tls.acme.dns import Dns01Responder, dns01_responder
from .tls.acme.fetching import trust_roots
from .tls.acme.orders import Orders
from .tls.acme.problems import AcmeError
from .tls.acme.responders import DnsResponder, StoredResponder
from .tls.acme.service import IssuingService
from .tls.challenges import HTTP_01, TLS_ALPN_01


class EdgeIssuing:
    """What orders certificates for the hosts of Routes, and finds out why it cannot: an `Issuing`.

    Making it reads files that settings name, and raises `errors.SettingError`.
    """

    def __init__(
        self,
        settings: Settings,
        store: IStore,
        certificates: EdgeCertificates,
        reactor: Any,
    ) -> None:
        self._store = store
        self._reactor = reactor
        self._directories = settings.acme_directories
        self._certificates = certificates
        limits = settings.limits
        self._budget = Budget(store, limits.acme_names_per_hour, limits.acme_wildcard_names_per_week)
        threads = DaemonThreads(reactor)
        self._accounts = _accounts(settings, store, threads)
        self._dns = _dns(settings, threads)
        responders: list[Any] = [
            StoredResponder(kind, certificates.challenges, reactor.seconds) for kind in (HTTP_01, TLS_ALPN_01)
        ]
        if self._dns is not None:
            responders.append(DnsResponder(self._dns))
        orders = Orders(
            reactor, self._accounts, settings.acme_directories, responders, profile=settings.acme_profile
        )
        shown = certificates.contexts
        self._service = IssuingService(
            store, reactor, orders, self._accounts, shown.certificate_for, shown.in_use, self._budget
        )
        shown.on_demand = self._service.demand
        self._checker = Checker(
            threads, self._facts(), certificates.challenges, resolver=settings.acme_resolver
        )

    def _facts(self) -> Facts:
        return Facts(
            routed=self._service.schedule.is_routed,
            certificate_for=self._certificates.contexts.certificate_for,
            issuance=self._issuance,
            budget=self._spent_until,
            directories=self._directories_say,
            by_dns=self._dns is not None,
        )

    def __repr__(self) -> str:
        return f"<EdgeIssuing: {self._service!r}>"

    def start(self) -> Deferred[None]:
        """Begin, once the store's first word was published; it waits for no authority."""
        return self._service.start()

    def publish(self, published: Published) -> None:
        """From now on these are the Routes and certificates."""
        self._service.publish(published)

    def stop(self) -> Deferred[Any]:
        """Break off what is under way; fires soon."""
        stopped = self._service.stopService()
        if self._dns is None:
            return stopped
        dns = self._dns
        return stopped.addCallback(lambda _: dns.close().addTimeout(2.0, self._reactor, lambda *_: None))

    def order(self, names: Sequence[str]) -> None:
        """See `interfaces.Issuing`."""
        self._service.order(names)

    def check(self, domain: str) -> Deferred[tuple[Finding, ...]]:
        """See `interfaces.Issuing`."""
        return self._checker.check(domain)

    def _issuance(self, name: str) -> Deferred[Issuance | None]:
        def found(known: tuple[Issuance, ...]) -> Issuance | None:
            return next((each for each in known if each.name == name), None)

        return self._store.issuances().addCallback(found)

    def _spent_until(self, name: str) -> Deferred[datetime.datetime | None]:
        """A renewal is on no budget."""
        certificate = self._certificates.contexts.certificate_for(name)
        if certificate is not None and certificate.id == name:
            return succeed(None)
        made_up = not self._service.schedule.is_listed(name)
        now = datetime.datetime.fromtimestamp(self._reactor.seconds(), datetime.UTC)
        return Deferred.fromCoroutine(self._budget.spent_until(name, made_up, now))

    def _directories_say(self) -> Deferred[Any]:
        asked = [self._directory_says(url) for url in self._directories]
        return gatherResults(asked, consumeErrors=True)

    def _directory_says(self, url: str) -> Deferred[Directory]:
        async def ask() -> Directory:
            try:
                return url, (await self._accounts.directory(url)).caa_identities, ""
            except AcmeError as error:
                return url, (), str(error)

        return Deferred.fromCoroutine(ask())


def _accounts(settings: Settings, store: IStore, reactor: Any) -> Accounts:
    try:
        trust = trust_roots(settings.acme_ca_file)
    except (OSError, ValueError) as error:
        raise SettingError(f"--acme-ca-file: {error}") from None
    return Accounts(
        store,
        reactor,
        contact=(f"mailto:{settings.contact_email}",) if settings.contact_email else (),
        eab_kid=settings.acme_eab_kid,
        eab_hmac_key=settings.acme_eab_hmac_key,
        trust=trust,
    )


def _dns(settings: Settings, reactor: Any) -> Dns01Responder | None:
    if not settings.acme_dns:
        return None
    try:
        return dns01_responder(settings.acme_dns, reactor, settings.acme_resolver)
    except ValueError as error:
        raise SettingError(f"--acme-dns: {error}") from None
