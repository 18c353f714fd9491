"""Accounts at directories: keys and URLs are kept in the store, for all processes that share it.

An account is registered once. Two processes that begin at the same time use one key, and for one key a
directory has one account (RFC 8555, 7.3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...interfaces import IStore
from ..pem import key_pem
from .client import TIMEOUT, AcmeClient, Eab
from .objects import Directory
from .problems import AcmeError
from .signing import key_from_pem, new_key


@attrs.frozen
class _Kept:
    """What is known of an account: its URL, and whom the directory was last told to write to."""

    account: str
    contact: tuple[str, ...]

    def to_bytes(self) -> bytes:
        return json.dumps(attrs.asdict(self)).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> _Kept:
        found = json.loads(data)
        return cls(found["account"], tuple(found["contact"]))


def _names(url: str) -> tuple[str, str]:
    """What the store calls the key and the account for this directory; its names are not encrypted."""
    short = hashlib.sha256(url.encode()).hexdigest()[:32]
    return f"acme-key-{short}", f"acme-account-{short}"


class _Opening:
    """A client that is being made ready, and who waits for it; it is given up with the last of them."""

    def __init__(self, made: Deferred[AcmeClient]) -> None:
        self.made = made
        self._waiting: list[Deferred[AcmeClient]] = []

    def wait(self) -> Deferred[AcmeClient]:
        waiter: Deferred[AcmeClient] = Deferred(self._leave)
        self._waiting.append(waiter)
        return waiter

    def _leave(self, waiter: Deferred[AcmeClient]) -> None:
        self._waiting.remove(waiter)
        if not self._waiting:
            self.made.cancel()

    def tell(self, result: AcmeClient | Failure) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(result)


class Accounts:
    """Clients that are ready to order, one for each directory.

    `contact` are URLs such as ``mailto:ada@x.com``. What is in `eab_kid` and `eab_hmac_key` (base64url)
    goes to directories that demand a binding, and to no others.
    """

    def __init__(
        self,
        store: IStore,
        reactor: Any,
        *,
        contact: Sequence[str] = (),
        eab_kid: str = "",
        eab_hmac_key: str = "",
        trust: Any = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._store = store
        self._reactor = reactor
        self._contact = tuple(contact)
        self._eab = Eab(eab_kid, eab_hmac_key) if eab_kid and eab_hmac_key else None
        self._trust = trust
        self._timeout = timeout
        self._ready: dict[str, AcmeClient] = {}
        self._opening: dict[str, _Opening] = {}
        self._log = Logger()

    def __repr__(self) -> str:
        return f"<Accounts: {len(self._ready)} ready, {len(self._opening)} under way>"

    def client(self, url: str) -> Deferred[AcmeClient]:
        """The client of the directory at `url`, with an account; fails with `problems.AcmeError`.

        Who waits may cancel, and holds up nobody else.
        """
        if url in self._ready:
            return succeed(self._ready[url])
        opening = self._opening.get(url)
        if opening is None:
            opening = self._opening[url] = _Opening(Deferred.fromCoroutine(self._open(url)))
            waiter = opening.wait()
            opening.made.addBoth(self._opened, url, opening)
            return waiter
        return opening.wait()

    def _opened(self, result: AcmeClient | Failure, url: str, opening: _Opening) -> None:
        # The one that was given up may end after another was begun.
        if self._opening.get(url) is opening:
            del self._opening[url]
        if isinstance(result, AcmeClient):
            self._ready[url] = result
        opening.tell(result)

    async def directory(self, url: str) -> Directory:
        """What the directory at `url` says of itself; no account is made for that."""
        ready = self._ready.get(url)
        if ready is not None:
            return await ready.directory()
        asking = AcmeClient(self._reactor, url, new_key(), trust=self._trust, timeout=self._timeout)
        try:
            return await asking.directory()
        finally:
            asking.close()

    async def _open(self, url: str) -> AcmeClient:
        key_name, account_name = _names(url)
        pem = await self._store.secret(key_name)
        if pem is None:
            # Another process may have been faster.
            pem = await self._store.create_secret(key_name, key_pem(new_key()).encode("ascii"))
        client = AcmeClient(self._reactor, url, key_from_pem(pem), trust=self._trust, timeout=self._timeout)
        client.on_forgotten = lambda: self._register(client)
        try:
            kept = await self._store.secret(account_name)
            await self._make_ready(client, None if kept is None else _Kept.from_bytes(kept))
        except BaseException:
            client.close()
            raise
        return client

    async def _make_ready(self, client: AcmeClient, kept: _Kept | None) -> None:
        if kept is None:
            await self._register(client)
            return
        client.account = kept.account
        if kept.contact == self._contact:
            return
        try:
            await client.update_contact(self._contact)
        except AcmeError as error:
            # No reason to order nothing; the next process tries again.
            self._log.warn("an ACME account keeps the contact that it had: {error}", error=error)
        else:
            await self._keep(client)

    async def _register(self, client: AcmeClient) -> None:
        directory = await client.directory()
        client.account = await client.register(self._contact, self._eab if directory.eab_required else None)
        self._log.info(
            "the ACME account is {account}, with the terms of service at {terms} agreed to",
            account=client.account,
            terms=directory.terms or "no address",
        )
        await self._keep(client)

    async def _keep(self, client: AcmeClient) -> None:
        _key_name, name = _names(client.url)
        await self._store.replace_secret(name, _Kept(client.account, self._contact).to_bytes())

    def close(self) -> Deferred[Any]:
        """Give up what is under way and let go of all connections."""
        for opening in list(self._opening.values()):
            opening.made.cancel()
        return DeferredList([client.close() for client in self._ready.values()], consumeErrors=True)
