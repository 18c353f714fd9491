"""From a name to the context that shows its certificate: loaded when it is first asked for, few at a time."""

from __future__ import annotations

import datetime
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..addresses import bracketed
from ..errors import NotFound, ProxyError
from ..limits import DEFAULTS
from ..records import Certificate
from .authority import LocalAuthority, is_local
from .certificates import CertificateTable, is_valid
from .challenges import TLS_ALPN_01, Challenges, challenge_certificate
from .client_hello import (
    ACME_TLS_1,
    INTERNAL_ERROR,
    NO_APPLICATION_PROTOCOL,
    UNRECOGNIZED_NAME,
    BadHello,
    ClientHello,
)
from .on_demand import OnDemand, Order
from .transport import Chosen, Ordered

CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
    b":ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""For TLS 1.2: with forward secrecy and authenticated (Mozilla's intermediate list). 1.3 has no others."""
TICKET_SECONDS = 24 * 3600.0
"""The key of session tickets is made anew after this, so that it opens no more than a day's connections."""
MAX_ISSUED = 256
"""Contexts held for certificates of the local authority, at most."""
RETRY_SECONDS = 5.0
"""After which a certificate that could not be loaded is tried again."""
SUMMARY_SECONDS = 60.0
"""Refused handshakes are counted, and told of in one line: anybody can make any number of them."""


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """Ours that the client has too. Both sides' lists were compared before: there is one, or we have none."""
    for protocol in connection.get_app_data():
        if protocol in offered:
            return protocol
    return SSL.NO_OVERLAPPING_PROTOCOLS


def make_base() -> SSL.Context:
    """The context that all connections are made from: what it says of versions, ciphers and tickets holds."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    # A client's renegotiation is refused by default: OP_NO_RENEGOTIATION would add nothing.
    context.set_options(SSL.OP_NO_COMPRESSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # What is needed to go on with a session lies in the client's ticket: nothing is kept here.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context


def make_context(certificate: Certificate) -> SSL.Context:
    """A context that shows the certificate; about 22 KiB, and half a millisecond to make."""
    return _showing(certificate, SSL.Context(SSL.TLS_SERVER_METHOD))


def _showing(certificate: Certificate, context: SSL.Context) -> SSL.Context:
    # Unlike all else of the base, these a connection does not keep when it is given another context.
    context.set_cipher_list(CIPHERS)
    leaf, *chain = x509.load_pem_x509_certificates(certificate.chain.encode("ascii"))
    context.use_certificate(leaf)
    # It was checked when it was saved; for a long RSA key that takes a quarter of a second.
    key = load_pem_private_key(
        certificate.private_key.encode("ascii"), None, unsafe_skip_rsa_key_validation=True
    )
    context.use_privatekey(key)  # type: ignore[arg-type]
    context.check_privatekey()
    for authority in chain:
        context.add_extra_chain_cert(authority)
    context.set_alpn_select_callback(_select_protocol)
    # A session goes on under the certificate that it began with (RFC 6066, 3), a renewed one too.
    context.set_session_id(sha256(certificate.id.encode("ascii")).digest())
    return context


def _make_proof(name: str, answer: str, now: datetime.datetime) -> Chosen:
    """For one connection: no session of it goes on in another one, nor one of another in it."""
    certificate = challenge_certificate(name, answer, now)
    context = _showing(certificate, make_base())
    return Chosen(context, attrs.evolve(certificate, private_key=""), (ACME_TLS_1,))


def _cannot_be_shown() -> BadHello:
    return BadHello(INTERNAL_ERROR, "the certificate cannot be shown")


@attrs.define(eq=False)
class _Kept:
    """A context in use, what it was made from, and until when (in Unix seconds) it may be shown.

    None stands for one that could not be made: it is not tried again before then.
    """

    chosen: Chosen | None
    source: object
    until: float


class Contexts:
    """Chooses the certificate for a name: stored ones first, then the local authority's.

    `with_key` loads a stored certificate with its private key; `owned` says whether a host (as in routes)
    that the local authority may speak for is served here at all; `local` makes that authority, or reads it.
    At most `kept` contexts are held. `now` is in Unix seconds. An authority that wants a proof gets that of
    `challenges`, and nothing else does. Where no valid certificate is stored for a name, `on_demand` may
    order one, and the client waits.
    """

    def __init__(
        self,
        now: Callable[[], float],
        with_key: Callable[[str], Deferred[Certificate | None]],
        local: Callable[[], Deferred[LocalAuthority]],
        owned: Callable[[str], bool] = lambda name: True,
        kept: int = DEFAULTS.tls_contexts,
        challenges: Challenges | None = None,
    ) -> None:
        self._now = now
        self._with_key = with_key
        self._local = local
        self._owned = owned
        self._most = kept
        self._challenges = challenges
        self.on_demand: Order = lambda name: None
        self._waiting = OnDemand(now)
        self._table = CertificateTable(())
        self._stored: OrderedDict[str, _Kept] = OrderedDict()
        # Apart: anybody can make up local names, where a Route has a wildcard.
        self._issued: OrderedDict[str, _Kept] = OrderedDict()
        self._loading: dict[str, tuple[object, list[Deferred[Chosen]]]] = {}
        self._base = make_base()
        self._base_until = now() + TICKET_SECONDS
        self._refused = 0
        self._next_summary = 0.0
        self._log = Logger()

    def __repr__(self) -> str:
        return f"<Contexts: {len(self._stored)} of at most {self._most}, {len(self._issued)} issued here>"

    def publish(self, certificates: Iterable[Certificate]) -> None:
        """From now on these are the stored certificates; connections that are open keep theirs."""
        by_id = {certificate.id: certificate for certificate in certificates}
        self._table = CertificateTable(by_id.values())
        for key, kept in list(self._stored.items()):
            now = by_id.get(key)
            if now == kept.source:
                kept.source = now
            else:
                del self._stored[key]

    def certificate_for(self, name: str) -> Certificate | None:
        """The stored certificate that would be shown for a canonical name, without its key."""
        return self._table.find(name, self._moment(self._now()))

    def in_use(self, id: str) -> bool:
        """Whether the stored certificate with this id has been shown lately."""
        return id in self._stored

    def base(self) -> SSL.Context:
        """The context that connections are made from."""
        now = self._now()
        if now >= self._base_until:
            self._base = make_base()
            self._base_until = now + TICKET_SECONDS
        return self._base

    def choose(
        self, hello: ClientHello, address: str, may_order: bool = True
    ) -> Chosen | Deferred[Chosen] | Ordered:
        """The context for a client that came to this local `address`, which counts where it names nothing.

        Raises `BadHello`, or the Deferred fails with it, where there is no certificate. When an `Ordered` is
        done, ask again, and let nothing be ordered then.
        """
        if hello.wants_proof:
            return self._prove(hello.server_name)
        name = hello.server_name or address.removeprefix("::ffff:").partition("%")[0]
        now = self._now()
        moment = self._moment(now)
        certificate = self._table.find(name, moment)
        if may_order and (certificate is None or not is_valid(certificate, moment)):
            order = self._order(name)
            if order is not None:
                return Ordered(order)
        if certificate is not None:
            return self._context(self._stored, certificate.id, certificate, now, self._load_stored)
        if is_local(name) and self._owned(bracketed(name)):
            return self._context(self._issued, name, name, now, self._issue)
        raise BadHello(UNRECOGNIZED_NAME, "no certificate for the name that the client wants")

    def _order(self, name: str) -> Deferred[None] | None:
        if not name or is_local(name):
            return None
        return self._waiting.wait(name, self.on_demand)

    def _prove(self, name: str) -> Deferred[Chosen]:
        if not name:
            raise BadHello(UNRECOGNIZED_NAME, "a proof is asked for, and not of which name")
        if self._challenges is None:
            raise BadHello(NO_APPLICATION_PROTOCOL, "no proofs are given here")

        def found(answer: str | None) -> Chosen:
            if answer is not None:
                return _make_proof(name, answer, self._moment(self._now()))
            known = self.certificate_for(name) is not None
            alert = NO_APPLICATION_PROTOCOL if known else UNRECOGNIZED_NAME
            raise BadHello(alert, "a proof is asked for that there is not")

        return self._challenges.find(TLS_ALPN_01, name).addCallback(found)

    def refused(self, reason: str) -> None:
        """A connection ended before its handshake was complete: say so, now and then."""
        self._refused += 1
        now = self._now()
        if now >= self._next_summary:
            self._next_summary = now + SUMMARY_SECONDS
            self._log.info(
                "{count} TLS handshakes were refused or broken off since the last line of this kind,"
                " the last one because: {reason}",
                count=self._refused,
                reason=reason,
            )
            self._refused = 0

    def _moment(self, now: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(now, datetime.UTC)

    def _context(
        self,
        contexts: OrderedDict[str, _Kept],
        key: str,
        source: Any,
        now: float,
        load: Callable[[Any], Deferred[tuple[Certificate, float]]],
    ) -> Chosen | Deferred[Chosen]:
        kept = contexts.get(key)
        if kept is not None and (kept.source is source or kept.source == source) and now < kept.until:
            contexts.move_to_end(key)
            if kept.chosen is None:
                raise _cannot_be_shown()
            return kept.chosen
        waiter: Deferred[Chosen] = Deferred()
        loading = self._loading.get(key)
        if loading is not None and loading[0] == source:
            loading[1].append(waiter)
            return waiter
        waiting = [waiter]
        self._loading[key] = (source, waiting)

        def loaded(found: tuple[Certificate, float]) -> None:
            certificate, until = found
            chosen = Chosen(make_context(certificate), attrs.evolve(certificate, private_key=""))
            self._keep(contexts, key, _Kept(chosen, source, until))
            self._loaded(key, waiting)
            for each in waiting:
                each.callback(chosen)

        def failed(failure: Failure) -> None:
            # Once in a while, however many clients ask for it.
            if failure.check(ProxyError):
                self._log.error(
                    "the certificate of {key} cannot be shown: {error}", key=key, error=failure.value
                )
            else:
                self._log.failure("the certificate of {key} cannot be shown", failure, key=key)
            self._keep(contexts, key, _Kept(None, source, now + RETRY_SECONDS))
            self._loaded(key, waiting)
            for each in waiting:
                each.errback(_cannot_be_shown())

        load(source).addCallback(loaded).addErrback(failed)
        return waiter

    def _loaded(self, key: str, waiting: list[Deferred[Chosen]]) -> None:
        # Unless a newer one is being loaded by now.
        if key in self._loading and self._loading[key][1] is waiting:
            del self._loading[key]

    def _keep(self, contexts: OrderedDict[str, _Kept], key: str, kept: _Kept) -> None:
        contexts[key] = kept
        contexts.move_to_end(key)
        most = self._most if contexts is self._stored else min(self._most, MAX_ISSUED)
        while len(contexts) > most:
            contexts.popitem(last=False)

    def _load_stored(self, certificate: Certificate) -> Deferred[tuple[Certificate, float]]:
        def found(loaded: Certificate | None) -> tuple[Certificate, float]:
            if loaded is None:
                raise NotFound("it was deleted a moment ago")
            return loaded, float("inf")

        return self._with_key(certificate.id).addCallback(found)

    def _issue(self, name: str) -> Deferred[tuple[Certificate, float]]:
        def issue(authority: LocalAuthority) -> tuple[Certificate, float]:
            now = self._now()
            issued = authority.issue(name, self._moment(now))
            return issued, now + (issued.not_after.timestamp() - now) * 2 / 3

        return self._local().addCallback(issue)
