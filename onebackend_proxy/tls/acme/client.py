"""The RFC 8555 client: one directory under one account key. It asks once; who polls is `orders`.

All calls are coroutines that end in time with an answer or a `problems.AcmeError`. A coroutine's Deferred
that is cancelled ends its request.
"""

from __future__ import annotations

import collections
import datetime
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred

from . import objects
from .fetching import Fetching, Reply, host_of, joined, trust_roots
from .objects import (
    Authorization,
    ChallengeOffer,
    Directory,
    Order,
    RenewalInfo,
    certificate_id,
)
from .problems import AcmeError, Problem, Unreachable, printable, read_problem, read_retry_after
from .signing import JSON, Eab, Signer, base64url, is_token, key_authorization

__all__ = [
    "AcmeClient",
    "Authorization",
    "ChallengeOffer",
    "Directory",
    "Eab",
    "Order",
    "RenewalInfo",
    "certificate_id",
    "key_authorization",
    "trust_roots",
]

TIMEOUT = 20.0
DIRECTORY_SECONDS = 60 * 60.0
"""How long a directory is taken for what it was."""
MAX_TRIES = 60
"""How often one request is made while the server takes no nonce, within its timeout."""
_MAX_NONCES = 16
_CHAIN = "application/pem-certificate-chain"


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _identifier(name: str) -> JSON:
    """A name as an order has it (RFC 8555, 7.1.3, and RFC 8738)."""
    try:
        return {"type": "ip", "value": str(ipaddress.ip_address(name))}
    except ValueError:
        return {"type": "dns", "value": name}


class AcmeClient:
    """Asks the directory at `url`; `account` is the account's URL, "" until it is known or registered.

    `trust` is from `trust_roots`, the system's if None. Each call may take `timeout` seconds for each thing
    that it asks for. When the server does not know the account any more, `on_forgotten` is awaited, which
    may set another one, and then it is asked again.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        trust: Any = None,
        timeout: float = TIMEOUT,
        now: Callable[[], datetime.datetime] = _utc_now,
    ) -> None:
        self.url = url
        self.key = key
        self.account = ""
        self.on_forgotten: Callable[[], Awaitable[object]] | None = None
        self._reactor = reactor
        self._signer = Signer(key)
        self._timeout = timeout
        self._now = now
        self._fetching = Fetching(reactor, trust)
        self._nonces: collections.deque[str] = collections.deque(maxlen=_MAX_NONCES)
        self._directory: Directory | None = None
        self._directory_read = 0.0

    def __repr__(self) -> str:
        return f"<AcmeClient: {self.account or 'no account'}>"

    # -- what it is asked

    async def directory(self) -> Directory:
        """The directory, asked for once an hour."""
        seconds = self._reactor.seconds()
        if self._directory is None or seconds - self._directory_read > DIRECTORY_SECONDS:
            self._directory = objects.read_directory(await self._get(self.url))
            self._directory_read = seconds
        return self._directory

    async def register(self, contact: Sequence[str], eab: Eab | None = None) -> str:
        """The URL of the key's account, made now if there is none; the terms are agreed to.

        Where an account needs a binding, it is looked for first: it has been bound, and a key for that may
        serve only once.
        """
        directory = await self.directory()
        known = None
        if eab is not None or directory.eab_required:
            known = await self._known_account(directory)
        if known is None:
            payload: dict[str, Any] = {"termsOfServiceAgreed": True}
            if contact:
                payload["contact"] = [*contact]
            if eab is not None:
                payload["externalAccountBinding"] = self._signer.bind(eab, directory.new_account)
            known = await self._post(directory.new_account, payload)
        return self._account_of(known)

    async def update_contact(self, contact: Sequence[str]) -> None:
        """Replace whom the directory may write to."""
        await self._ask(self.account, {"contact": [*contact]})

    async def order(self, names: Sequence[str], profile: str = "", replaces: str = "") -> Order:
        """Order a certificate for these names; `replaces` is the `certificate_id` of the one before."""
        payload: dict[str, Any] = {"identifiers": [_identifier(name) for name in names]}
        if profile:
            payload["profile"] = profile
        if replaces:
            payload["replaces"] = replaces
        reply = await self._ask((await self.directory()).new_order, payload)
        return self._order(reply, joined(reply.url, reply.header("location")))

    async def read_order(self, url: str) -> Order:
        """The order as it is now."""
        return self._order(await self._ask(url), url)

    async def authorization(self, url: str) -> Authorization:
        """The authorization as it is now."""
        reply = await self._ask(url)
        return objects.read_authorization(reply, self._retry_after(reply))

    async def answer(self, url: str) -> None:
        """Say that the challenge may be looked at (RFC 8555, 7.5.1)."""
        await self._ask(url, {})

    async def finalize(self, order: Order, csr_der: bytes) -> Order:
        """Send the request for an order that is ready; it may have been issued when this is answered."""
        return self._order(await self._ask(order.finalize, {"csr": base64url(csr_der)}), order.url)

    async def certificate(self, url: str) -> str:
        """The chain, in PEM, the leaf first."""
        return objects.read_chain(await self._ask(url, accept=_CHAIN))

    async def renewal_info(self, chain_pem: str) -> RenewalInfo:
        """When to renew this certificate (RFC 9773), of a directory that has `Directory.renewal_info`."""
        base = (await self.directory()).renewal_info
        name = certificate_id(chain_pem)
        if not (base and name):
            raise AcmeError("the directory does not say when to renew this certificate")
        reply = await self._get(f"{base}/{name}")
        return objects.read_renewal_info(reply, self._retry_after(reply))

    def close(self) -> Deferred[None]:
        """Let go of the connections that are kept."""
        return self._fetching.close()

    # -- how it asks

    async def _known_account(self, directory: Directory) -> Reply | None:
        try:
            return await self._post(directory.new_account, {"onlyReturnExisting": True})
        except Problem as problem:
            if problem.type != "accountDoesNotExist":
                raise
            return None

    def _account_of(self, reply: Reply) -> str:
        status = objects.document(reply, "application/json").get("status", "valid")
        if status != "valid":
            raise Problem("unauthorized", f"the account is {printable(str(status), 100)}", reply.status)
        return joined(reply.url, reply.header("location"))

    def _order(self, reply: Reply, url: str) -> Order:
        return objects.read_order(reply, url, self._retry_after(reply))

    async def _ask(self, url: str, payload: JSON | None = None, accept: str = "") -> Reply:
        """Ask as the account."""
        account = self.account
        if not account:
            raise Problem("accountDoesNotExist", "no account has been registered")
        try:
            return await self._post(url, payload, account, accept)
        except Problem as problem:
            if problem.type != "accountDoesNotExist" or self.on_forgotten is None:
                raise
        if self.account == account:
            await self.on_forgotten()
        return await self._post(url, payload, self.account, accept)

    async def _post(self, url: str, payload: JSON | None, account: str = "", accept: str = "") -> Reply:
        """Post what is signed, again while only the nonce is refused (RFC 8555, 6.5)."""
        end = self._reactor.seconds() + self._timeout
        for attempt in range(1, MAX_TRIES + 1):
            # The newest is the least likely to have been forgotten.
            nonce = self._nonces.pop() if self._nonces else await self._new_nonce(end)
            body = self._signer.sign(payload, url, nonce, account)
            reply = await self._fetch(b"POST", url, end, body=body, accept=accept)
            try:
                self._check(reply)
            except Problem as problem:
                if problem.type != "badNonce" or attempt == MAX_TRIES:
                    raise
            else:
                return reply
        raise AssertionError("not reached")

    async def _get(self, url: str) -> Reply:
        reply = await self._fetch(b"GET", url, self._reactor.seconds() + self._timeout)
        self._check(reply)
        return reply

    async def _new_nonce(self, end: float) -> str:
        reply = await self._fetch(b"HEAD", (await self.directory()).new_nonce, end)
        if reply.status >= 300 or not self._nonces:
            raise Unreachable(
                f"{host_of(reply.url)} gave no nonce, status {reply.status}",
                retry_after=self._retry_after(reply),
            )
        return self._nonces.pop()

    async def _fetch(self, method: bytes, url: str, end: float, **more: Any) -> Reply:
        seconds = end - self._reactor.seconds()
        if seconds <= 0:
            raise Unreachable(f"{host_of(url)} took no nonce within {self._timeout:.3g} seconds")
        reply = await self._fetching.fetch(method, url, seconds, **more)
        nonce = reply.header("replay-nonce")
        if is_token(nonce):
            self._nonces.append(nonce)
        return reply

    def _check(self, reply: Reply) -> None:
        """Raise `Problem` for one, and `Unreachable` for an error that is in nobody's words."""
        if 200 <= reply.status < 300:
            return
        retry_after = self._retry_after(reply)
        try:
            # Not all say that it is a problem.
            told = objects.document(reply, "application/problem+json", "application/json")
        except Unreachable as error:
            error.retry_after = retry_after
            raise
        raise read_problem(told, reply.status, retry_after)

    def _retry_after(self, reply: Reply) -> float | None:
        return read_retry_after(reply.header("retry-after"), reply.header("date"), self._now())
