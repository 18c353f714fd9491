"""The issuing service over a store in memory, a clock, and an authority that does what a test says."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from onebackend_proxy.interfaces import Published
from onebackend_proxy.records import Certificate, Issuance, Route
from onebackend_proxy.testing import MemoryStore
from onebackend_proxy.tls.acme.budget import Budget
from onebackend_proxy.tls.acme.objects import RenewalInfo
from onebackend_proxy.tls.acme.orders import NoCertificate, Obtained
from onebackend_proxy.tls.acme.problems import AcmeError
from onebackend_proxy.tls.acme.service import IssuingService
from onebackend_proxy.tls.certificates import CertificateTable

from ..making import made, now

DIRECTORY = "https://ca.test/dir"
START = now()


@attrs.define(eq=False)
class Asked:
    """One order that the authority was asked for."""

    name: str
    issuance: Issuance
    previous: Certificate | None
    at: datetime.datetime
    answer: Deferred[Obtained]

    def grant(self, lifetime: float = 90 * 86400.0, begins: datetime.datetime | None = None) -> None:
        """Give a certificate that begins now."""
        begins = begins or self.at
        leaf = made(self.name, begins=begins, ends=begins + datetime.timedelta(seconds=lifetime))
        self.answer.callback(Obtained(leaf.key_pem, leaf.chain, DIRECTORY, "http-01"))

    def refuse(self, words: str = "no", retry_after: float | None = None) -> None:
        """Give none."""
        self.answer.errback(NoCertificate(words, DIRECTORY, retry_after=retry_after))


class Authority:
    """Stands in the place of `Orders` and `Accounts`; `asked` are the orders, the oldest first.

    `info` is what it says on when to renew, or the error that says so.
    """

    directories = (DIRECTORY,)
    responders: tuple[object, ...] = ()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.asked: list[Asked] = []
        self.open: list[Asked] = []
        self.info: RenewalInfo | AcmeError | None = None
        self.infos = 0
        # While this is a list, what it is asked waits there.
        self.thinking: list[Deferred[None]] | None = None
        self.closed = False

    by_dns = False

    def can_prove(self, name: str) -> bool:
        return self.by_dns or not name.startswith("*.")

    async def obtain(self, name: str, issuance: Issuance, previous: Certificate | None) -> Obtained:
        at = datetime.datetime.fromtimestamp(self._clock.seconds(), datetime.UTC)
        asked = Asked(name, issuance, previous, at, Deferred())
        self.asked.append(asked)
        self.open.append(asked)
        try:
            return await asked.answer
        finally:
            self.open.remove(asked)

    @property
    def names(self) -> list[str]:
        return [asked.name for asked in self.asked]

    async def client(self, url: str) -> Authority:
        assert url == DIRECTORY
        self.infos += 1
        if self.thinking is not None:
            self.thinking.append(Deferred())
            await self.thinking[-1]
        return self

    async def directory(self) -> SimpleNamespace:
        return SimpleNamespace(renewal_info="" if self.info is None else f"{DIRECTORY}/renewal")

    async def renewal_info(self, chain: str) -> RenewalInfo | None:
        if isinstance(self.info, AcmeError):
            raise self.info
        return self.info

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)


class Process:
    """One process: a service, and the certificates that it would show."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.clock = clock
        self.authority = Authority(clock)
        self.used: set[str] = set()
        self._table = CertificateTable(())
        self.service = IssuingService(
            store,
            clock,
            self.authority,  # type: ignore[arg-type]
            self.authority,  # type: ignore[arg-type]
            lambda host: self._table.find(host, self.now()),
            lambda id: id in self.used,
            Budget(store, 20, 20),
        )
        store.follow(self._publish)
        self.service.start()

    def now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.clock.seconds(), datetime.UTC)

    def _publish(self, published: Published) -> None:
        self._table = CertificateTable(published.certificates)
        self.service.publish(published)

    def shown(self, host: str) -> Certificate | None:
        return self._table.find(host, self.now())


class World:
    """A store, a clock, and processes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(START.timestamp())
        self.store = MemoryStore()

    def process(self, clock: Clock | None = None) -> Process:
        """One more; with a clock of its own it dies when that stops."""
        process = Process(self.store, clock or self.clock)
        self.turn()
        return process

    def route(self, *ids: str) -> None:
        self.store.save_routes([Route(id, "http://127.0.0.1:1") for id in ids])
        self.turn()

    def save(self, *names: str, days: float = 90, directory: str = "", begins: float = 0) -> Certificate:
        """A certificate in the store; `begins` is in days from now."""
        start = datetime.datetime.fromtimestamp(self.clock.seconds() + begins * 86400, datetime.UTC)
        leaf = made(*names, begins=start, ends=start + datetime.timedelta(days=days))
        from onebackend_proxy.tls.certificates import read_bundle

        certificate = attrs.evolve(
            read_bundle(leaf.bundle, start + datetime.timedelta(seconds=1)), directory=directory
        )
        self.store.save_certificates([certificate])
        return certificate

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, a second at a time where that matters."""
        self.clock.advance(0)
        while seconds > 0:
            step = min(seconds, 1.0)
            self.clock.advance(step)
            seconds -= step
        self.clock.advance(0)

    def leap(self, **duration: float) -> None:
        """Let much time pass at once, as for a machine that was asleep."""
        self.clock.advance(datetime.timedelta(**duration).total_seconds())
        self.turn(6)

    def issuance(self, name: str) -> Issuance | None:
        found: list[tuple[Issuance, ...]] = []
        self.store.issuances().addCallback(found.append)
        return next((each for each in found[0] if each.name == name), None)


def watch(waiting: Deferred[Any] | None) -> list[str]:
    """How a Deferred ends: "done" or the words of its error."""
    assert waiting is not None
    ends: list[str] = []
    waiting.addCallbacks(lambda _: ends.append("done"), lambda failure: ends.append(str(failure.value)))
    return ends
