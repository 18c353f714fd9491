"""One order at a time for each name, among all processes that share a store."""

from __future__ import annotations

import datetime
import os
import socket
import uuid
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from ...errors import ProxyError
from ...interfaces import IStore
from ...records import Issuance

LEASE = datetime.timedelta(seconds=20)
"""For which a name is one process's own, unless it says again that it is at it: then it may have died."""
LOOK_AGAIN = 1.0
"""Seconds between two tries to have what another process has."""


class Leases:
    """Leases of names in `store`, held by this process under a name of its own."""

    def __init__(self, store: IStore, reactor: Any) -> None:
        self._store = store
        self._reactor = reactor
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex}"
        self._log = Logger()

    def __repr__(self) -> str:
        return f"<Leases of {self._holder}>"

    async def try_claim(self, name: str) -> Issuance | None:
        """What is known of the name, which is ours now for `LEASE`; None if it is another's."""
        now = datetime.datetime.fromtimestamp(self._reactor.seconds(), datetime.UTC)
        return await self._store.claim_issuance(name, self._holder, now, now + LEASE)

    async def claim(self, name: str) -> Issuance:
        """The same, as soon as it can be had."""
        while True:
            issuance = await self.try_claim(name)
            if issuance is not None:
                return issuance
            await deferLater(self._reactor, LOOK_AGAIN)

    def keep(self, name: str, lost: Callable[[], object]) -> LoopingCall:
        """Say again and again that we are at it, until that is stopped.

        Calls `lost`, once, if it is another's; after that nothing is said any more.
        """
        is_lost = False

        async def say() -> None:
            nonlocal is_lost
            if is_lost:
                # Who was told may need a while to end, and must not take it back meanwhile.
                return
            try:
                held = await self.try_claim(name)
            except ProxyError as error:
                self._log.warn("the lease on {name} cannot be renewed: {error}", name=name, error=error)
                return
            if held is None:
                is_lost = True
                self._log.warn("another process has taken over the order for {name}", name=name)
                lost()

        saying = LoopingCall(lambda: Deferred.fromCoroutine(say()))
        saying.clock = self._reactor
        saying.start(LEASE.total_seconds() / 4, now=False)
        return saying

    async def release(self, issuance: Issuance) -> None:
        """Let go of the name, and keep what is known of it now; never fails."""
        try:
            await self._store.release_issuance(issuance, self._holder)
        except ProxyError as error:
            # It runs out by itself.
            self._log.warn("the lease on {name} cannot be given up: {error}", name=issuance.name, error=error)
