"""When to renew, in the authority's own opinion (RFC 9773)."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...errors import ProxyError
from ...records import Certificate, Issuance
from . import renewal
from .accounts import Accounts
from .leases import Leases
from .problems import AcmeError
from .schedule import Schedule

AT_ONCE = 2
"""Questions under way."""
NO_OPINION_SECONDS = 24 * 3600.0
"""After which an authority that has none is asked again."""


class Asking:
    """Asks authorities when to renew, a few at a time, and keeps what they say."""

    def __init__(
        self,
        reactor: Any,
        accounts: Accounts,
        schedule: Schedule,
        leases: Leases,
        answered: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._accounts = accounts
        self._schedule = schedule
        self._leases = leases
        self._answered = answered
        self._under_way: dict[str, Deferred[None]] = {}
        self._log = Logger()

    def __repr__(self) -> str:
        return f"<Asking: {len(self._under_way)} under way>"

    def __contains__(self, name: object) -> bool:
        return name in self._under_way

    @property
    def full(self) -> bool:
        """Whether there are enough questions under way."""
        return len(self._under_way) >= AT_ONCE

    def ask(self, name: str, certificate: Certificate) -> None:
        """Ask about the certificate for this name; `answered` is called in the end, whatever comes of it."""
        asked = Deferred.fromCoroutine(self._ask(name, certificate))
        self._under_way[name] = asked
        asked.addCallbacks(lambda _: 0.0, self._cannot, errbackArgs=(name,)).addCallback(self._asked, name)

    def stop(self) -> None:
        """Ask no more."""
        for asked in list(self._under_way.values()):
            asked.cancel()

    def _asked(self, after: float, name: str) -> None:
        self._under_way.pop(name, None)
        self._schedule.plan([name], after=after)
        self._answered()

    def _cannot(self, failure: Failure, name: str) -> float:
        if failure.check(CancelledError):
            return 1.0
        if failure.check(ProxyError):
            self._log.error(
                "what was said on when to renew {name} cannot be kept: {error}",
                name=name,
                error=failure.value,
            )
        else:
            self._log.failure("nobody could be asked when to renew {name}", failure, name=name)
        return 60.0

    async def _ask(self, name: str, certificate: Certificate) -> None:
        told = await self._told(self._schedule.known.get(name, Issuance(name)), certificate)
        self._schedule.know(told)
        if told.window_start is None:
            # Not worth a line in the store.
            return
        held = await self._leases.try_claim(name)
        if held is not None:
            fields = ("serial", "window_start", "window_end", "ask_at", "explanation_url")
            told = attrs.evolve(held, **{field: getattr(told, field) for field in fields})
            self._schedule.know(told)
            await self._leases.release(told)

    async def _told(self, issuance: Issuance, certificate: Certificate) -> Issuance:
        """What is known once the authority was asked."""
        now = datetime.datetime.fromtimestamp(self._reactor.seconds(), datetime.UTC)
        ask_at = renewal.ask_again(NO_OPINION_SECONDS, certificate, now)
        start = end = None
        url = ""
        if issuance.serial == certificate.serial:
            # What it said holds until it says something else.
            start, end, url = issuance.window_start, issuance.window_end, issuance.explanation_url
        try:
            client = await self._accounts.client(certificate.directory)
            if (await client.directory()).renewal_info:
                info = await client.renewal_info(certificate.chain)
                ask_at = renewal.ask_again(info.retry_after, certificate, now)
                start, end, url = info.start, info.end, info.explanation_url
        except (AcmeError, ValueError) as error:
            ask_at = renewal.ask_again(getattr(error, "retry_after", None), certificate, now)
            self._log.info(
                "{directory} does not say when to renew {name}: {error}",
                directory=certificate.directory,
                name=issuance.name,
                error=error,
            )
        if url and url != issuance.explanation_url:
            self._log.warn("{name} is to be renewed early, because: {url}", name=issuance.name, url=url)
        return attrs.evolve(
            issuance,
            serial=certificate.serial,
            window_start=start,
            window_end=end,
            ask_at=ask_at,
            explanation_url=url,
        )
