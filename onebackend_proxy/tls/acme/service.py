"""What orders certificates for the hosts of Routes, renews them in time, and tries again what failed."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from txacme.service import AcmeIssuingService

from ...errors import Conflict, NotFound, ProxyError, StoreUnavailable, TooManyRequests, Unavailable
from ...interfaces import IStore, Published
from ...records import Certificate, Issuance
from ...units import shown_moment
from . import renewal
from .accounts import Accounts
from .asking import Asking
from .budget import Budget
from .cleaning import Cleaning
from .jobs import Job, Jobs
from .leases import Leases
from .orders import NoCertificate, Orders
from .problems import AcmeError
from .schedule import Schedule
from .stored import StoredCertificates

CHECK_INTERVAL = datetime.timedelta(seconds=5)
"""Between two looks at what is due: a certificate of a minute leaves no more time."""
MAX_DEMANDED = 100
"""Names below wildcards that clients wait for, at most: strangers can make up any number of them."""
UNREADABLE_SECONDS = 30.0
"""After which a name is looked at again whose order was broken off by something of our own."""
PUBLISHED_SECONDS = 2.0
"""In which what another process has stored is published here, or never."""
SAVE_AGAIN = 5.0
"""Seconds until a certificate that the store could not take is offered again."""


_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]+")


class _Failed(Exception):
    """An order failed: what is known now, and why."""

    def __init__(self, issuance: Issuance, error: AcmeError) -> None:
        super().__init__(str(error))
        self.issuance = issuance
        self.error = error


class IssuingService(AcmeIssuingService):  # type: ignore[misc]
    """Keeps a certificate for every host of a Route: txacme's service, with judgement of its own.

    It follows what the store publishes (`publish`), is asked by handshakes (`demand`) and people (`order`).
    `certificate_for` is the certificate that would be shown for a host, `in_use` whether the one of this id
    has been shown lately. All processes on one store share the work, and what is known.
    """

    def __init__(
        self,
        store: IStore,
        reactor: Any,
        orders: Orders,
        accounts: Accounts,
        certificate_for: Callable[[str], Certificate | None],
        in_use: Callable[[str], bool],
        budget: Budget,
    ) -> None:
        super().__init__(
            cert_store=StoredCertificates(store, reactor),
            client_creator=lambda: succeed(orders),
            clock=reactor,
            responders=orders.responders,
            check_interval=CHECK_INTERVAL,
        )
        self._store = store
        self._reactor = reactor
        self._accounts = accounts
        self._in_use = in_use
        self._budget = budget
        self._log = Logger()
        self._leases = Leases(store, reactor)
        self.schedule = Schedule(certificate_for, orders.can_prove, orders.directories, self._moment)
        self._asking = Asking(reactor, accounts, self.schedule, self._leases, lambda: self._look_in(0.0))
        self._cleaning = Cleaning(store, self.schedule)
        self._jobs = Jobs(reactor, self._run, self._ended, self._look_in)
        # Names below wildcards that clients wait for.
        self._demanded: set[str] = set()
        self._next_look: Any = None
        self._stopping = False

    def __repr__(self) -> str:
        return f"<IssuingService: {self._jobs!r}>"

    def _moment(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._reactor.seconds(), datetime.UTC)

    # What is to be done.

    def publish(self, published: Published) -> None:
        """From now on these are the Routes and certificates."""
        new = self.schedule.publish(published)
        if self.running:
            for name in new:
                self._saved(name)
        self._look_in(0.0)

    def _saved(self, name: str) -> None:
        """A Route is for this host from now on. If it has failed before, somebody may have mended that."""
        schedule = self.schedule
        known = schedule.known.get(name)
        if known is None or not known.failures or schedule.certificate_for(name) is not None:
            return
        if schedule.is_routed(name) and schedule.can_prove(name):
            self._jobs.add(name, forced=True)

    def start(self) -> Deferred[None]:
        """Read what is known of earlier orders, and begin. It never fails, and waits for no authority."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            for issuance in await self._store.issuances():
                self.schedule.know(issuance)
        except ProxyError as error:
            self._log.error("what is known of earlier orders cannot be read: {error}", error=error)
        if not self._stopping:
            self.schedule.plan(list(self.schedule.known))
            self.startService()

    def _look_in(self, seconds: float) -> None:
        if not self.running or self._stopping:
            return
        if self._next_look is None:
            self._next_look = self._reactor.callLater(seconds, self._look)
        elif self._next_look.getTime() > self._reactor.seconds() + seconds:
            self._next_look.reset(seconds)

    def _look(self) -> None:
        self._next_look = None
        self._check_certs()

    def _check_certs(self) -> Deferred[None]:
        """Begin what is due: txacme's timer calls this. It waits for nothing that takes long."""
        if not self._stopping:
            for name in self.schedule.due():
                if self._jobs.full:
                    break
                self._see_to(name)
            self._jobs.begin()
            self._cleaning.clean_sometimes(self._moment(), self._jobs)
        return succeed(None)

    def _see_to(self, name: str) -> None:
        if name in self._jobs or name in self._asking:
            return
        certificate = self.schedule.certificate_for(name)
        if certificate is not None and self._is_idle(name, certificate):
            # Whoever comes gets it while it is valid, and waits for a new one when it is not.
            return
        if certificate is not None and self.schedule.should_ask(name, certificate):
            if not self._asking.full:
                self._asking.ask(name, certificate)
                return
            issuance, now = self.schedule.known.get(name), self._moment()
            if renewal.renew_at(certificate, issuance, now) > now:
                return
        self._jobs.add(name)

    def _is_idle(self, name: str, certificate: Certificate) -> bool:
        return not self.schedule.is_listed(name) and not self._in_use(certificate.id)

    def order(self, names: Sequence[str]) -> None:
        """See `interfaces.Issuing`."""
        for name in names:
            if not self.schedule.is_routed(name):
                raise NotFound(f"no route for {name}, or it is a local name")
            if not self.schedule.can_prove(name):
                raise NotFound(f"{name} can only be proved by DNS, and no provider is set (--acme-dns)")
            certificate = self.schedule.certificate_for(name)
            if (
                certificate is not None
                and not certificate.directory
                and certificate.not_after > self._moment()
            ):
                raise Conflict(f"the certificate for {name} was saved by hand: delete it first")
            known = self.schedule.known.get(name)
            until = renewal.forbidden_until(known, self._moment())
            if known is not None and until is not None:
                wait = int((until - self._moment()).total_seconds()) + 1
                raise TooManyRequests(f"{name}: not before {shown_moment(until)}: {known.problem}", wait)
        for name in names:
            self.issue_cert(name).addErrback(_told_already)

    def demand(self, name: str) -> Deferred[None] | None:
        """Order for a client that waits: fires when that is over, well or not. None if there is no use."""
        if not (self.running and self.schedule.is_routed(name)) or self._stopping:
            return None
        name = self.schedule.order_for(name)
        if name not in self._jobs and not self._may_demand(name):
            return None
        made_up = not self.schedule.is_listed(name)
        if made_up:
            self._demanded.add(name)
        return self._begun(self._jobs.add(name, made_up=made_up, demanded=True))

    def _may_demand(self, name: str) -> bool:
        now = self._moment()
        if not renewal.may_demand(self.schedule.known.get(name), now):
            return False
        if self.schedule.is_listed(name):
            return True
        if len(self._demanded) >= MAX_DEMANDED:
            return False
        if self.schedule.is_ours(name, self.schedule.certificate_for(name)):
            # It has expired: that is a renewal.
            return True
        if self._budget.is_spent(name, now):
            return False
        # No authority signs others; what is a name to DNS need not be one of a host.
        return _HOST.fullmatch(name) is not None

    def issue_cert(self, server_name: str) -> Deferred[None]:
        """See `txacme.service.AcmeIssuingService`: fires when there is a new one, or fails.

        However many wait, it is ordered once; one of them that gives up disturbs nobody.
        """
        return self._begun(self._jobs.add(server_name, forced=True))

    def _begun(self, job: Job) -> Deferred[None]:
        waiter = job.wait()
        self._jobs.begin()
        return waiter

    # One order.

    def _ended(self, job: Job, failure: Failure | None) -> None:
        """What was ordered is published already, unless another process did it."""
        self._demanded.discard(job.name)
        after = 1.0
        if failure is not None and not failure.check(AcmeError, TooManyRequests):
            # Nothing that the authority said: a store that is locked, or our own mistake.
            after = UNREADABLE_SECONDS
            if not failure.check(ProxyError, CancelledError):
                self._log.failure("the order for {name} failed", failure, name=job.name)
                self._note_mistake(job.name, failure)
            elif not self._stopping:
                self._log.error(
                    "the order for {name} was broken off, next try in {seconds:.0f} s: {error}",
                    name=job.name,
                    seconds=after,
                    error=failure.getErrorMessage(),
                )
        self.schedule.plan([job.name], after=after)

    def _note_mistake(self, name: str, failure: Failure) -> None:
        """Whatever it was, it must not be tried again by each handshake."""
        known = self.schedule.known.get(name, Issuance(name))
        words = f"the order failed here: {type(failure.value).__name__}"
        self.schedule.know(renewal.failed(known, words, "", self._moment()))

    async def _run(self, job: Job) -> None:
        """One name: alone among all processes, and only if it is (still) needed."""
        while job.name in self._asking:
            await deferLater(self._reactor, 0.1)
        issuance = await self._leases.claim(job.name)
        keeping = self._leases.keep(job.name, job.cancel)
        try:
            previous = await self._store.certificate(job.name)
            if self._is_needed(job, previous, issuance):
                issuance = await self._order(job, issuance, previous)
            elif previous is not None:
                await self._until_published(previous)
        except _Failed as failed:
            issuance = failed.issuance
            raise failed.error from None
        finally:
            keeping.stop()
            self.schedule.know(issuance)
            await self._leases.release(issuance)

    def _is_needed(self, job: Job, previous: Certificate | None, issuance: Issuance) -> bool:
        """Whether to order; raises the error of the last try where it is too early for another."""
        now = self._moment()
        if not self.schedule.is_routed(job.name):
            return False
        shown = self.schedule.certificate_for(job.name)
        if shown is not None and not self.schedule.is_ours(job.name, shown) and shown.not_after > now:
            # Somebody has saved it meanwhile, or it is a wildcard's.
            return False
        if previous is not None and previous.not_after > now:
            # Another process may have been faster.
            if job.since < previous.updated_at.timestamp() <= now.timestamp():
                return False
            due = previous.directory and renewal.renew_at(previous, issuance, now) <= now
            if not (due or job.forced):
                return False
        tried_at = issuance.tried_at
        if tried_at is not None and job.since < tried_at.timestamp() <= now.timestamp():
            # Another process has tried it since, and failed.
            allowed = False
        elif job.forced:
            allowed = renewal.forbidden_until(issuance, now) is None
        elif job.demanded:
            allowed = renewal.may_demand(issuance, now)
        else:
            allowed = renewal.may_try(issuance, now)
        if not allowed:
            raise TooManyRequests(issuance.problem or f"too early for another order for {job.name}", 60)
        return True

    async def _until_published(self, certificate: Certificate) -> None:
        """Wait until what another process has stored is shown here too."""
        late = self._reactor.seconds() + PUBLISHED_SECONDS
        while self._reactor.seconds() < late:
            shown = self.schedule.certificate_for(certificate.id)
            if shown is not None and shown.serial == certificate.serial:
                return
            await deferLater(self._reactor, 0.05)

    async def _order(self, job: Job, issuance: Issuance, previous: Certificate | None) -> Issuance:
        """What is known after the order; raises `_Failed`."""
        if previous is None:
            await self._spend(job, issuance)
        job.ordered = True
        self._log.info("ordering a certificate for {name}", name=job.name)
        try:
            challenge = await self._with_client(self._issue_cert, job.name, issuance, previous)
        except NoCertificate as error:
            raise self._failed(issuance, previous, error) from None
        return renewal.succeeded(issuance, challenge)

    def _issue_cert(
        self, client: Orders, server_name: str, issuance: Issuance, previous: Certificate | None
    ) -> Deferred[str]:
        """See `txacme.service.AcmeIssuingService`: order and store; the kind of challenge that worked."""
        return Deferred.fromCoroutine(self._obtain(client, server_name, issuance, previous))

    async def _obtain(
        self, orders: Orders, name: str, issuance: Issuance, previous: Certificate | None
    ) -> str:
        obtained = await orders.obtain(name, issuance, previous)
        while True:
            try:
                if await self._was_saved_by_hand(name):
                    return obtained.challenge
                await self.cert_store.store(name, obtained.pem_objects(), obtained.directory)
                self._log.info("there is a new certificate for {name}", name=name)
                return obtained.challenge
            except ValueError as error:
                raise NoCertificate(f"what came {error}", obtained.directory) from None
            except StoreUnavailable as error:
                # A full disk must not cost an order: what we have is kept until there is room for it.
                self._log.error(
                    "the new certificate for {name} cannot be stored, next try in {seconds:.0f} s: {error}",
                    name=name,
                    seconds=SAVE_AGAIN,
                    error=error,
                )
                await deferLater(self._reactor, SAVE_AGAIN)

    async def _was_saved_by_hand(self, name: str) -> bool:
        """Whether somebody has saved a certificate for this name meanwhile: theirs counts."""
        current = await self._store.certificate(name)
        if current is None or current.directory or current.not_after <= self._moment():
            return False
        self._log.warn("the new certificate for {name} is dropped: one was saved by hand", name=name)
        return True

    def _failed(self, issuance: Issuance, previous: Certificate | None, error: NoCertificate) -> _Failed:
        now = self._moment()
        known = renewal.failed(
            issuance,
            str(error),
            error.directory,
            now,
            retry_after=error.retry_after,
            certificate=previous if previous is not None and previous.not_after > now else None,
        )
        self._log.error(
            "no certificate for {name} (failure {number} in a row, next try at {at}): {problem}",
            name=issuance.name,
            number=known.failures,
            at=shown_moment(known.retry_at or now),
            problem=str(error),
        )
        return _Failed(known, error)

    async def _spend(self, job: Job, issuance: Issuance) -> None:
        """Put an order for a new name on its domain's budget."""
        now = self._moment()
        made_up = not self.schedule.is_listed(job.name)
        spent = await self._budget.spend(job.name, made_up, now)
        if spent is None:
            return
        until, words = spent
        if not made_up:
            # Of names that strangers have made up nothing is kept.
            issuance = attrs.evolve(issuance, problem=words, retry_at=until, not_before=until)
            self._log.warn("no order for {name}: {words}", name=job.name, words=words)
        raise _Failed(issuance, AcmeError(words, retry_after=(until - now).total_seconds()))

    def stopService(self) -> Deferred[None]:
        """Break off what is under way: challenges and leases are given back if that takes no time."""
        self._stopping = True
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        stopped = [super().stopService()] if self.running else []
        self._asking.stop()
        broken_off = self._jobs.stop(Failure(Unavailable("the proxy is stopping")))
        return gatherResults([*stopped, broken_off]).addCallback(lambda _: self._accounts.close())


def _told_already(_: Failure) -> None:
    """It was logged where it happened, and is kept for whoever lists what fails."""
