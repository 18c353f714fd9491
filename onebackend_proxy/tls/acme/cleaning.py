"""What expired long ago and serves nobody is forgotten, so that nothing grows for ever."""

from __future__ import annotations

import datetime
from collections.abc import Container
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ...interfaces import IStore
from .schedule import Schedule

if TYPE_CHECKING:
    from twisted.python.failure import Failure

INTERVAL = datetime.timedelta(days=1)
KEEP = datetime.timedelta(days=14)
"""After which a certificate that nobody uses, and what is known of its orders, is forgotten."""


class Cleaning:
    """Forgets what was ordered, and what is known, of names that no Route has."""

    def __init__(self, store: IStore, schedule: Schedule) -> None:
        self._store = store
        self._schedule = schedule
        self._next: datetime.datetime | None = None
        self._log = Logger()

    def clean_sometimes(self, now: datetime.datetime, busy: Container[str]) -> None:
        """Begin, once a day, and leave alone the names in `busy`."""
        if self._next is not None and now < self._next:
            return
        self._next = now + INTERVAL
        Deferred.fromCoroutine(self._clean(now - KEEP, busy)).addErrback(self._cannot)

    def _cannot(self, failure: Failure) -> None:
        self._log.error("what expired cannot be forgotten: {error}", error=failure.getErrorMessage())

    async def _clean(self, before: datetime.datetime, busy: Container[str]) -> None:
        schedule = self._schedule
        for certificate in schedule.certificates:
            expired = certificate.directory and certificate.not_after < before
            if expired and not schedule.is_listed(certificate.id):
                await self._store.delete_certificates([certificate.id])
        names = [
            name
            for name, known in schedule.known.items()
            if not (schedule.is_listed(name) or name in busy or schedule.certificate_for(name))
            and (known.tried_at is None or known.tried_at < before)
        ]
        if names:
            await self._store.delete_issuances(names)
            for name in names:
                schedule.known.pop(name, None)
