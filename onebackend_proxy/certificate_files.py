"""Keeps the files of certificates, for other programs, in step with the store."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from .errors import ProxyError
from .interfaces import IStore
from .records import Certificate
from .tls.files import remove, sync, synced

T = TypeVar("T")
RETRY_SECONDS = 60.0
"""After which files that could not be written are tried again."""


class CertificateFiles:
    """Writes the certificates of a store below `folder`, one at a time, away from the reactor's thread.

    Files of certificates that are not in the store any more go, also those deleted while nobody looked.
    """

    def __init__(self, store: IStore, folder: pathlib.Path, reactor: Any) -> None:
        self._store = store
        self._folder = folder
        self._reactor = reactor
        self._log = Logger()
        self._wanted: Sequence[Certificate] = ()
        # By id: the certificate whose files stand there; None where they are from an earlier run.
        self._written: dict[str, Certificate | None] | None = None
        self._working = False
        self._again: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<CertificateFiles in {self._folder}: {len(self._written or ())}>"

    def publish(self, certificates: Sequence[Certificate]) -> None:
        """Write what is new or changed, and remove what is gone."""
        self._wanted = certificates
        self._begin()

    def stop(self) -> None:
        """Try nothing again."""
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _begin(self) -> None:
        self.stop()
        if not self._working:
            self._working = True
            done = Deferred.fromCoroutine(self._catch_up())
            done.addErrback(lambda failure: self._log.failure("certificates were not written", failure))

    def _try_again(self) -> None:
        self._again = None
        self._begin()

    async def _catch_up(self) -> None:
        failed = False
        try:
            doing: Sequence[Certificate] | None = None
            while doing is not self._wanted:
                doing = self._wanted
                failed = not await self._write_all(doing)
        finally:
            self._working = False
        if failed:
            self._again = self._reactor.callLater(RETRY_SECONDS, self._try_again)

    async def _write_all(self, certificates: Sequence[Certificate]) -> bool:
        """Whether all that is wanted stands there now."""
        written = self._written
        if written is None:
            there = await self._in_thread("certificates", synced, self._folder)
            if not isinstance(there, set):
                return False
            written = self._written = dict.fromkeys(there)
        whole = True
        for certificate in certificates:
            if written.get(certificate.id) != certificate:
                whole = await self._write(certificate, written) and whole
        for gone in set(written) - {certificate.id for certificate in certificates}:
            if await self._in_thread(gone, remove, self._folder, gone) is None:
                whole = False
            else:
                del written[gone]
        return whole

    async def _write(self, certificate: Certificate, written: dict[str, Certificate | None]) -> bool:
        try:
            with_key = await self._store.certificate(certificate.id)
        except ProxyError as error:
            self._cannot(certificate.id, error)
            return False
        if with_key is None:
            # Deleted a moment ago: that is published too.
            return True
        if await self._in_thread(certificate.id, sync, self._folder, with_key) is None:
            return False
        written[certificate.id] = certificate
        return True

    async def _in_thread(self, name: str, work: Callable[..., T], *arguments: Any) -> T | bool | None:
        """What the work returns (True where that is None), or None where it failed."""
        try:
            result: T | None = await deferToThreadPool(
                self._reactor, self._reactor.getThreadPool(), work, *arguments
            )
        except (OSError, ValueError) as error:
            self._cannot(name, error)
            return None
        return True if result is None else result

    def _cannot(self, name: str, error: Exception) -> None:
        self._log.error(
            "the files of {name} cannot be written, next try in {seconds:.0f} s: {error}",
            name=name,
            seconds=RETRY_SECONDS,
            error=error,
        )
