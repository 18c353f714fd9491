"""From a name to its certificate: one order after another, until a directory and a challenge work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from txacme.interfaces import IResponder

from ...acme_settings import LETS_ENCRYPT
from ...errors import ProxyError
from ...records import Certificate, Issuance
from ..pem import key_pem
from .accounts import Accounts
from .client import AcmeClient
from .objects import Authorization, Order, certificate_id
from .problems import MAX_WORDS, AcmeError, Problem, Unreachable, printable
from .renewal import LONGEST_WAIT
from .responders import DNS_01
from .signing import key_authorization
from .stored import ordered_certificate, pem_objects

REHEARSALS = {LETS_ENCRYPT: "https://acme-staging-v02.api.letsencrypt.org/directory"}
"""Where a name that has failed is proved first, so as not to spend what failures the real one allows."""
FIRST_LOOKS = (0.1, 0.4)
"""Seconds before we first look whether an authority is done, and look again: a visitor may be waiting."""
LOOKS = (0.5, 1.0, 2.0, 3.0)
"""Seconds between later looks, where it does not say itself when to look; the last again and again."""
ORDER_SECONDS = 180.0
"""In which each step of an order must be complete: DNS may need two minutes of it."""
DIRECTORY_SECONDS = 600.0
"""In which all that is tried at one directory must be."""
LONGEST_PAUSE = 24 * 3600.0
"""Seconds for which a directory is left alone with all names, at most."""
_log = Logger()


@attrs.frozen
class Offered:
    """A challenge, as txacme's responders are told of it; the token is as the authority spelled it."""

    typ: str
    token: str


@attrs.frozen
class Response:
    """What answers it (RFC 8555, 8.1)."""

    key_authorization: str


@attrs.frozen
class Obtained:
    """A new key and the chain for it in PEM, where they are from, and the kind of challenge that worked.

    That is "" where none was needed: the name had been proved before.
    """

    key: str = attrs.field(repr=False)
    chain: str
    directory: str
    challenge: str

    def pem_objects(self) -> list[Any]:
        """The key and the certificates, as `txacme.interfaces.ICertificateStore` takes them."""
        return pem_objects(self.key + self.chain)


class NotProved(AcmeError):
    """The authority does not believe that a name is ours, by one kind of challenge."""


class NoCertificate(AcmeError):
    """All that were asked have refused; `directory` is the last of them."""

    def __init__(self, message: str, directory: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.directory = directory


class Orders:
    """What txacme calls a client: it orders at the first of `directories` that gives a certificate.

    `responders` are asked in turn, those of the kind that worked last time first. `profile` is asked for
    where a directory offers it. `rehearsals` are directories to try first for names that have failed.
    """

    def __init__(
        self,
        reactor: Any,
        accounts: Accounts,
        directories: Sequence[str],
        responders: Sequence[IResponder],
        *,
        profile: str = "",
        rehearsals: Mapping[str, str] = REHEARSALS,
    ) -> None:
        self._reactor = reactor
        self._accounts = accounts
        self.directories = tuple(directories)
        self.responders = tuple(responders)
        self._profile = profile
        self._rehearsals = rehearsals
        # By directory and name ("" for all): until when, in Unix seconds, it wants no orders, and its words.
        self._paused: dict[tuple[str, str], tuple[float, AcmeError]] = {}

    def __repr__(self) -> str:
        return f"<Orders: {', '.join(self.directories)}>"

    def can_prove(self, name: str) -> bool:
        """Whether any responder may prove this name: only DNS proves wildcards."""
        return bool(self._responders_for(name, ""))

    def _responders_for(self, name: str, last: str) -> list[IResponder]:
        found = [
            each for each in self.responders if each.challenge_type == DNS_01 or not name.startswith("*.")
        ]
        return sorted(found, key=lambda each: each.challenge_type != last)

    async def obtain(self, name: str, issuance: Issuance, previous: Certificate | None) -> Obtained:
        """A certificate for this name, in the place of the `previous` one.

        Raises `NoCertificate` with the words of all that were asked; its `retry_after`, if it has one, says
        in how many seconds the first of them may be asked again.
        """
        failed: list[tuple[str, AcmeError]] = []
        for url in self.directories:
            error = self._pause_of(url, "") or self._pause_of(url, name)
            if error is None:
                try:
                    return await self._within(self._at(url, name, issuance, previous))
                except AcmeError as caught:
                    error = caught
                    self._may_pause(url, name, error)
                except (ProxyError, CancelledError):
                    raise
                except Exception as caught:
                    # A mistake of ours, or an answer of a kind that nobody has thought of: the next may do.
                    _log.failure("the order for {name} at {url} failed", name=name, url=url)
                    error = AcmeError(f"the order failed here: {type(caught).__name__}")
                _log.warn("{name} gets no certificate from {url}: {error}", name=name, url=url, error=error)
            failed.append((url, error))
        raise _all_failed(failed)

    def _within(self, ordering: Coroutine[Any, Any, Obtained]) -> Deferred[Obtained]:
        """All of it in `DIRECTORY_SECONDS`: an authority that has no end must not hold up other names."""

        def late(result: Any, seconds: float) -> Any:
            if isinstance(result, Failure):
                result.trap(CancelledError)
            raise Unreachable(f"the order was not complete after {seconds:.0f} s")

        done: Deferred[Obtained] = Deferred.fromCoroutine(ordering)
        return done.addTimeout(DIRECTORY_SECONDS, self._reactor, late)

    def _pause_of(self, url: str, name: str) -> AcmeError | None:
        until, error = self._paused.get((url, name), (0.0, None))
        left = until - self._reactor.seconds()
        # Longer than it wanted: the clock was ahead. By a second at least, for numbers are rounded.
        if error is None or not 0 < left <= (error.retry_after or 0.0) + 1:
            self._paused.pop((url, name), None)
            return None
        return AcmeError(str(error), retry_after=left)

    def _may_pause(self, url: str, name: str, error: AcmeError) -> None:
        """Leave an authority alone that is busy or has had enough of us; limits of one name are its own."""
        if error.retry_after is None:
            return
        # A page that says so for a month is no reason to let certificates end.
        paused, most = (name, LONGEST_WAIT.total_seconds()) if _is_about(error, name) else ("", LONGEST_PAUSE)
        error.retry_after = min(error.retry_after, most)
        now = self._reactor.seconds()
        self._paused = {key: kept for key, kept in self._paused.items() if kept[0] > now}
        self._paused[url, paused] = (now + error.retry_after, error)

    async def _at(self, url: str, name: str, issuance: Issuance, previous: Certificate | None) -> Obtained:
        """By the first kind of challenge that works at this directory."""
        client = await self._accounts.client(url)
        failed: list[AcmeError] = []
        for responder in self._responders_for(name, issuance.challenge):
            try:
                if issuance.failures:
                    await self._rehearse(url, name, responder)
                return await self._by(client, url, name, responder, previous)
            except NotProved as error:
                failed.append(error)
            except AcmeError as error:
                if not failed:
                    raise
                # That was one failure too many, say: the words before tell more.
                self._may_pause(url, name, error)
                failed.append(error)
                break
        if not failed:
            raise AcmeError("a wildcard can only be proved by DNS, and no provider is set (--acme-dns)")
        if len(failed) == 1:
            raise failed[0]
        raise NotProved("; ".join(str(error) for error in failed), retry_after=failed[-1].retry_after)

    async def _rehearse(self, url: str, name: str, responder: IResponder) -> None:
        rehearsal = self._rehearsals.get(url)
        if rehearsal is None:
            return
        try:
            client = await self._accounts.client(rehearsal)
            order = await client.order((name,))
            await self._prove(client, order, name, responder)
        except NotProved:
            raise
        except AcmeError as error:
            # It is no more than a rehearsal.
            _log.info("no rehearsal for {name} at {url}: {error}", name=name, url=rehearsal, error=error)

    async def _by(
        self, client: AcmeClient, url: str, name: str, responder: IResponder, previous: Certificate | None
    ) -> Obtained:
        order = await self._order(client, url, name, previous)
        proved = await self._prove(client, order, name, responder)
        key = ec.generate_private_key(ec.SECP256R1())
        order = await self._complete(client, order, "ready", "valid")
        order = await client.finalize(order, request_for(name, key))
        order = await self._complete(client, order, "valid")
        chain = await client.certificate(order.certificate)
        obtained = Obtained(key_pem(key), chain, url, responder.challenge_type if proved else "")
        try:
            ordered_certificate(obtained.key + chain, name, self._reactor.seconds())
        except ValueError as error:
            raise AcmeError(f"what came {error}") from None
        return obtained

    async def _order(self, client: AcmeClient, url: str, name: str, previous: Certificate | None) -> Order:
        directory = await client.directory()
        profile = self._profile if self._profile in directory.profiles else ""
        if self._profile and not profile:
            _log.info("{url} has no profile {profile}: ordering without one", url=url, profile=self._profile)
        if previous is not None and previous.directory == url and directory.renewal_info:
            try:
                return await client.order((name,), profile, certificate_id(previous.chain))
            except Problem as problem:
                # It is replaced already, or not known (any more): no reason to have none (RFC 9773, 5).
                if problem.retry_after is not None or problem.type == "rateLimited":
                    raise
        return await client.order((name,), profile)

    async def _prove(self, client: AcmeClient, order: Order, name: str, responder: IResponder) -> bool:
        """Prove to the authority that the name is ours; False where it knows that; raises `NotProved`."""
        number = len(order.authorizations)
        if number > 1:
            raise Unreachable(f"an order for one name came with {number} authorizations")
        if not number:
            return False
        [url] = order.authorizations
        authorization = await client.authorization(url)
        if authorization.status == "valid":
            # From an order a moment ago, say.
            return False
        kind = responder.challenge_type
        offers = [offer for offer in authorization.challenges if offer.kind == kind]
        if not offers:
            raise NotProved(f"{kind}: the authority does not offer it")
        async with _responding(client, responder, name, offers[0].token):
            await client.answer(offers[0].url)
            try:
                await self._done(partial(client.authorization, url), "valid")
            except _Ended as ended:
                words = f"{kind}: {ended.problem}"
                raise NotProved(words, retry_after=ended.problem.retry_after) from ended
        return True

    async def _complete(self, client: AcmeClient, order: Order, *wanted: str) -> Order:
        if order.status in wanted:
            return order
        try:
            done: Order = await self._done(partial(client.read_order, order.url), *wanted)
        except _Ended as ended:
            raise ended.problem from None
        return done

    async def _done(self, look: Callable[[], Awaitable[Any]], *wanted: str) -> Any:
        """Look until its status is one of those; raises `_Ended` when it will not be."""
        late = self._reactor.seconds() + ORDER_SECONDS
        told: float | None = None
        for number, wait in enumerate(chain(FIRST_LOOKS, LOOKS, repeat(LOOKS[-1]))):
            if told is not None and number >= len(FIRST_LOOKS):
                wait = max(told, LOOKS[0])
            left = late - self._reactor.seconds()
            if left <= 0:
                raise Unreachable(f"the authority was not done after {ORDER_SECONDS:.0f} s")
            await deferLater(self._reactor, min(wait, left))
            found: Order | Authorization = await look()
            if found.status in wanted:
                return found
            if found.status not in ("pending", "processing", "ready"):
                raise _Ended(_why_not(found))
            told = found.retry_after
        raise AssertionError("not reached")


class _Ended(Exception):
    """What was waited for will not come: not what became of a question, but the answer to it."""

    def __init__(self, problem: AcmeError) -> None:
        super().__init__(str(problem))
        self.problem = problem


@asynccontextmanager
async def _responding(
    client: AcmeClient, responder: IResponder, name: str, token: str
) -> AsyncIterator[None]:
    """While a challenge is answered."""
    challenge = Offered(responder.challenge_type, token)
    response = Response(key_authorization(token, client.key))
    try:
        try:
            await responder.start_responding(name, challenge, response)
        except AcmeError as error:
            # Another kind of challenge may work.
            raise NotProved(f"{responder.challenge_type}: {error}", retry_after=error.retry_after) from error
        yield
    finally:
        try:
            await responder.stop_responding(name, challenge, response)
        except ProxyError as error:
            # It is forgotten by itself, and the authority has seen it or never will.
            _log.warn("the proof for {name} cannot be taken back: {error}", name=name, error=error)
        except CancelledError:
            raise
        except Exception:
            # A mistake must not hide that all this was cancelled, nor cost a certificate.
            _log.failure("the proof for {name} cannot be taken back", name=name)


def request_for(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The certificate signing request (PKCS 10, DER) for one name; a long one would not fit the subject."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    return request.add_extension(names, False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _is_about(error: AcmeError, name: str) -> bool:
    """Whether what an authority says is about one name, and not about all that we order."""
    if not isinstance(error, Problem):
        # In nobody's words: who stands before the authority knows no names.
        return isinstance(error, NotProved)
    if error.type != "rateLimited":
        return error.status_code != 503
    labels = name.removeprefix("*.").split(".")
    above = [".".join(labels[index:]) for index in range(max(1, len(labels) - 1))]
    return any(each in str(error) for each in above)


def _why_not(found: Order | Authorization) -> AcmeError:
    problems = [found.problem] if isinstance(found, Order) else [each.problem for each in found.challenges]
    for problem in problems:
        if problem is not None:
            return problem
    return Problem("", f"it is {found.status}, and nobody says why")


def _first(failed: Sequence[AcmeError]) -> float | None:
    """When the first of them may be asked again, in seconds; None if one of them says nothing of that."""
    waits = [error.retry_after for error in failed]
    known = [wait for wait in waits if wait is not None]
    return min(known) if len(known) == len(waits) else None


def _all_failed(failed: Sequence[tuple[str, AcmeError]]) -> NoCertificate:
    words = str(failed[0][1])
    if len(failed) > 1:
        words = "; ".join(f"{url}: {error}" for url, error in failed)
    return NoCertificate(
        printable(words, MAX_WORDS), failed[-1][0], retry_after=_first([error for _url, error in failed])
    )
