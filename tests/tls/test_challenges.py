"""Challenges: who is answered, what it costs the store, and proofs over real TLS."""

from __future__ import annotations

import datetime
import functools
import hashlib
import pathlib
import ssl
import subprocess
from typing import Any, cast

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.records import Certificate, Challenge
from onebackend_proxy.store import Vault, open_sqlite
from onebackend_proxy.testing import MemoryStore
from onebackend_proxy.tls.challenges import (
    HTTP_01,
    SUMMARY_SECONDS,
    TLS_ALPN_01,
    Challenges,
    challenge_certificate,
)
from onebackend_proxy.tls.client_hello import (
    ACME_TLS_1,
    NO_APPLICATION_PROTOCOL,
    UNRECOGNIZED_NAME,
    BadHello,
    ClientHello,
)
from onebackend_proxy.tls.transport import Chosen, SecuredServer

from ..properties import PROPERTY
from .loopback import Certificates, Client, LoopbackTests, versions
from .making import now, record

ANSWER = "token.thumbprint"
OID = "1.3.6.1.5.5.7.1.31"
HOUR = datetime.timedelta(hours=1)
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def a_challenge(kind: str = HTTP_01, **changes: Any) -> Challenge:
    """One for ``x.com`` and ``token``, for an hour."""
    return attrs.evolve(Challenge(kind, "x.com", "token", ANSWER, now() + HOUR), **changes)


class Store:
    """Reads wait until a test lets them end; they see what there is when they begin."""

    def __init__(self, *there: Challenge) -> None:
        self.there = there
        self.reads: list[tuple[tuple[Challenge, ...], Deferred[tuple[Challenge, ...]]]] = []
        self.begun = 0

    def challenges(self, moment: datetime.datetime) -> Deferred[tuple[Challenge, ...]]:
        self.begun += 1
        self.reads.append((self.there, Deferred()))
        return self.reads[-1][1]

    def end_read(self) -> None:
        """The one that has waited longest."""
        there, reading = self.reads.pop(0)
        reading.callback(there)


class WithLog(SynchronousTestCase):
    """A clock that tells the real time, and what is logged."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(now().timestamp())
        self.logged: list[str] = []
        observer = cast(ILogObserver, lambda event: self.logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def challenges(self, store: Any) -> Challenges:
        return Challenges(store, self.clock.seconds)


class TestFinding(WithLog):
    """By kind, name and token, from memory or the store."""

    def found(self, challenges: Challenges, *what: str) -> str | None:
        return self.successResultOf(challenges.find(*what))

    def test_what_another_process_has_placed(self) -> None:
        store = MemoryStore()
        one, other = self.challenges(store), self.challenges(store)
        placed = a_challenge()
        self.successResultOf(one.place(placed))
        for each in (one, other):
            assert self.found(each, HTTP_01, "x.com", "token") == ANSWER
            for kind, name, token in (
                (TLS_ALPN_01, "x.com", "token"),
                (TLS_ALPN_01, "x.com", ""),
                (HTTP_01, "y.com", "token"),
                (HTTP_01, "x.com", "toke"),
                (HTTP_01, "x.com", ""),
            ):
                assert self.found(each, kind, name, token) is None
        self.successResultOf(one.remove(placed))
        for each in (one, other):
            assert self.found(each, HTTP_01, "x.com", "token") is None
        assert repr(one) == "<Challenges: 0 placed here, 0 wait to ask the store>"

    def test_without_a_token_it_is_the_one_that_expires_last(self) -> None:
        several = [
            a_challenge(TLS_ALPN_01, token=f"t{hours}", answer=f"t{hours}.x", expires_at=now() + hours * HOUR)
            for hours in (2, 3, 1)
        ]
        store = MemoryStore()
        one, other = self.challenges(store), self.challenges(store)
        for each in several:
            self.successResultOf(one.place(each))
        for challenges in (one, other):
            assert self.found(challenges, TLS_ALPN_01, "x.com") == "t3.x"
            assert self.found(challenges, TLS_ALPN_01, "x.com", "t1") == "t1.x"

    def test_those_that_have_expired_are_not_answered(self) -> None:
        store = Store(a_challenge())
        challenges = self.challenges(store)
        store_wide = challenges.find(HTTP_01, "x.com", "token")
        # Meanwhile.
        self.clock.advance(3600)
        store.end_read()
        assert self.successResultOf(store_wide) is None
        memory = MemoryStore()
        placing = self.challenges(memory)
        self.successResultOf(placing.place(a_challenge()))
        assert self.found(placing, HTTP_01, "x.com", "token") is None
        # And are forgotten, in time.
        self.successResultOf(placing.place(a_challenge(name="y.com", expires_at=now() + 2 * HOUR)))
        assert repr(placing) == "<Challenges: 1 placed here, 0 wait to ask the store>"

    def test_what_is_no_token_costs_nothing(self) -> None:
        store = Store()
        challenges = self.challenges(store)
        for token in ("", ".", "a/b", "a.b", "t" * 513, "tök", "a\n", "a=", "a?b", "../x", "%41"):
            assert self.found(challenges, HTTP_01, "x.com", token) is None
        assert store.begun == 0
        for token in ("t" * 512, "-_09azAZ"):
            self.assertNoResult(challenges.find(HTTP_01, "x.com", token))

    def test_what_is_placed_here_is_answered_without_the_store(self) -> None:
        store = MemoryStore()
        challenges = self.challenges(store)
        self.successResultOf(challenges.place(a_challenge()))
        store.failure = StoreUnavailable("locked")
        assert self.found(challenges, HTTP_01, "x.com", "token") == ANSWER
        assert self.logged == []

    def test_what_cannot_be_placed_is_not(self) -> None:
        store = MemoryStore()
        challenges = self.challenges(store)
        store.failure = StoreUnavailable("disk full")
        self.failureResultOf(challenges.place(a_challenge()), StoreUnavailable)
        assert repr(challenges) == "<Challenges: 0 placed here, 0 wait to ask the store>"
        self.failureResultOf(challenges.remove(a_challenge()), StoreUnavailable)

    def test_a_store_that_fails_is_told_of_once_in_a_while(self) -> None:
        store = MemoryStore()
        challenges = self.challenges(store)
        store.failure = StoreUnavailable("locked", detail="proxy.sqlite")
        for _ in range(100):
            assert self.found(challenges, HTTP_01, "x.com", "token") is None
        assert len(self.logged) == 1 and self.logged[0].startswith("challenges cannot be read: locked")
        self.clock.advance(SUMMARY_SECONDS)
        assert self.found(challenges, HTTP_01, "x.com", "token") is None
        assert len(self.logged) == 2
        store.failure = None
        self.successResultOf(challenges.place(a_challenge(expires_at=now() + 2 * HOUR)))
        assert self.found(self.challenges(store), HTTP_01, "x.com", "token") == ANSWER

    def test_what_is_not_expected_has_a_traceback(self) -> None:
        store = Store()
        found = self.challenges(store).find(HTTP_01, "x.com", "token")
        store.reads[0][1].errback(ZeroDivisionError())
        assert self.successResultOf(found) is None
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1


class TestReads(WithLog):
    """One at a time, and one more that waits."""

    def test_who_asks_gets_what_a_later_read_found(self) -> None:
        store = Store()
        challenges = self.challenges(store)
        early = challenges.find(HTTP_01, "x.com", "token")
        # Placed by another process, while the read is under way that cannot see it.
        store.there = (a_challenge(),)
        late = [challenges.find(HTTP_01, "x.com", "token") for _ in range(3)]
        assert store.begun == 1
        store.end_read()
        assert self.successResultOf(early) is None
        for each in late:
            self.assertNoResult(each)
        assert store.begun == 2
        store.end_read()
        assert [self.successResultOf(each) for each in late] == [ANSWER] * 3
        assert (store.begun, store.reads) == (2, [])

    def test_a_flood_is_two_reads(self) -> None:
        store = Store(a_challenge())
        challenges = self.challenges(store)
        found = [challenges.find(HTTP_01, "x.com", f"made-up-{number}") for number in range(10_000)]
        real = challenges.find(HTTP_01, "x.com", "token")
        assert (store.begun, len(store.reads)) == (1, 1)
        store.end_read()
        assert (store.begun, len(store.reads)) == (2, 1)
        store.end_read()
        assert {self.successResultOf(each) for each in found} == {None}
        assert self.successResultOf(real) == ANSWER
        assert repr(challenges) == "<Challenges: 0 placed here, 0 wait to ask the store>"
        assert store.reads == []

    def test_one_who_left_is_no_trouble(self) -> None:
        store = Store(a_challenge())
        challenges = self.challenges(store)
        left, stays = (challenges.find(HTTP_01, "x.com", "token") for _ in range(2))
        left.addErrback(lambda _: None)
        left.cancel()
        store.end_read()
        store.end_read()
        assert self.successResultOf(stays) == ANSWER

    def test_one_who_asks_again_from_its_answer(self) -> None:
        store = Store()
        challenges = self.challenges(store)
        again: list[Deferred[str | None]] = []
        first = challenges.find(HTTP_01, "x.com", "token")
        first.addCallback(lambda _: again.append(challenges.find(HTTP_01, "x.com", "token")))
        store.end_read()
        store.there = (a_challenge(),)
        self.assertNoResult(again[0])
        store.end_read()
        assert self.successResultOf(again[0]) is None and store.begun == 2


class TestWithSqlite(TestCase):
    """The real store, whose calls wait in one queue."""

    def setUp(self) -> None:
        path = pathlib.Path(self.mktemp())
        path.mkdir(mode=0o700)
        self.store = open_sqlite(path / "proxy.sqlite", Vault("a key"), reactor, max_waiting=8)
        self.addCleanup(self.store.close)

    def test_a_flood_of_made_up_tokens_leaves_the_queue_to_others(self) -> None:
        return Deferred.fromCoroutine(self._flood())  # type: ignore[return-value]

    async def _flood(self) -> None:
        clock = Clock()
        clock.advance(now().timestamp())
        one, other = (Challenges(self.store, clock.seconds) for _ in range(2))
        await one.place(a_challenge())
        ended: list[str] = []
        flood = []
        for number in range(20):
            flood += [other.find(HTTP_01, "x.com", f"t{number}-{each}") for each in range(200)]
            # Refused if the queue had more than eight, and in its turn: behind one read of the flood's.
            routes = self.store.routes()
            routes.addCallback(lambda _: ended.append("routes"))
            assert self.store._waiting <= 2
            await routes
        assert await other.find(HTTP_01, "x.com", "token") == ANSWER
        assert set(await gatherResults(flood)) == {None}
        assert ended == ["routes"] * 20
        await one.remove(a_challenge())
        assert await other.find(HTTP_01, "x.com", "token") is None


def digest_in(certificate: x509.Certificate) -> bytes | None:
    """What its acmeIdentifier holds; None if it has none."""
    try:
        found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(OID))
    except x509.ExtensionNotFound:
        return None
    assert found.critical and isinstance(found.value, x509.UnrecognizedExtension)
    # DER: OCTET STRING, 32 bytes.
    assert found.value.value[:2] == b"\x04\x20" and len(found.value.value) == 34
    return found.value.value[2:]


def is_proof(certificate: x509.Certificate, name: str = "x.com", answer: str = ANSWER) -> bool:
    """As the authority sees it (RFC 8737, 3)."""
    if digest_in(certificate) != hashlib.sha256(answer.encode()).digest():
        return False
    certificate.verify_directly_issued_by(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(names) == [x509.DNSName(name)]


class TestTheCertificate(SynchronousTestCase):
    """RFC 8737, 3."""

    def test_it_proves_one_answer_for_one_name(self) -> None:
        moment = now()
        made = challenge_certificate("x.com", ANSWER, moment)
        certificate = x509.load_pem_x509_certificate(made.chain.encode())
        assert is_proof(certificate)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
        assert made.not_before < moment < made.not_after and made.names == ("x.com",)
        assert certificate.version is x509.Version.v3
        assert challenge_certificate("x.com", ANSWER, moment).serial != made.serial

    def test_the_longest_name(self) -> None:
        name = ".".join(("n" * 60, "m" * 60, "l" * 60, "k" * 60, "x.com"))
        made = challenge_certificate(name, ANSWER, now())
        assert is_proof(x509.load_pem_x509_certificate(made.chain.encode()), name)


class ProofTests(LoopbackTests):
    """An endpoint for ``x.com`` that answers challenges from a store."""

    def setUp(self) -> None:
        super().setUp()
        self.store = MemoryStore()
        clock = Clock()
        clock.advance(now().timestamp())
        self.challenges = Challenges(self.store, clock.seconds)
        self.certificates = Certificates(record("x.com", "*.x.com"), challenges=self.challenges)

    def place(self, name: str = "x.com") -> None:
        """Another process on the store does it."""
        self.successResultOf(self.store.save_challenge(a_challenge(TLS_ALPN_01, name=name), now()))

    def authority(self, version: ssl.TLSVersion, *protocols: str) -> ssl.SSLContext:
        """A client that believes anything, and offers acme-tls/1 or these."""
        context = versions(version)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(list(protocols) or ["acme-tls/1"])
        return context

    def shown_to(self, client: Client) -> x509.Certificate:
        der = client.tls.getpeercert(True)
        assert der is not None
        return x509.load_der_x509_certificate(der)

    def alerts(self, name: str | None, version: ssl.TLSVersion, *protocols: str) -> list[bytes]:
        """What a handshake is refused with."""
        client = self.client(name, self.authority(version, *protocols))
        with self.assertRaises(ssl.SSLError):
            client.handshake()
        self.settle(client)
        assert client.eof and not client.reset
        return client.alerts


class TestProofs(ProofTests):
    """What an authority sees by TLS-ALPN-01."""

    def test_each_version_on_each_port(self) -> None:
        self.place()
        self.place("y.com")
        for ours in ((), (b"http/1.1",), (b"h2", b"http/1.1")):
            self.listen(*ours)
            for version in VERSIONS:
                # Of a name with a certificate, and of one without.
                for name in ("x.com", "y.com"):
                    client = self.client(name, self.authority(version)).handshake()
                    assert client.tls.selected_alpn_protocol() == "acme-tls/1"
                    assert is_proof(self.shown_to(client), name)
                    # Nothing is said on it, and it is closed in order.
                    assert client.read() == b""
                    self.settle(client)
                    assert self.factory.built == [] and self.clock.getDelayedCalls() == []
        assert self.certificates.loads == []

    def test_what_it_says_is_read_by_nobody(self) -> None:
        self.place()
        self.listen(b"http/1.1")
        for version in VERSIONS:
            client = self.client("x.com", self.authority(version)).handshake()
            client.send(b"GET / HTTP/1.1\r\nHost: x.com\r\n\r\n")
            self.until(lambda client=client: client.eof, client)  # type: ignore[misc]
            assert self.factory.built == []

    def test_one_that_never_ends_is_ended(self) -> None:
        self.place()
        self.patch(SecuredServer, "_said_goodbye", lambda transport: False)
        client = self.client("x.com", self.authority(VERSIONS[1])).handshake()
        self.settle(client)
        assert not client.eof
        self.clock.advance(11)
        self.until(lambda: client.eof, client)

    def test_names_without_one(self) -> None:
        self.place("z.com")
        for ours in ((), (b"h2", b"http/1.1")):
            self.listen(*ours)
            for version in VERSIONS:
                # no_application_protocol where we serve other protocols, unrecognized_name where we do not.
                assert self.alerts("x.com", version) == [b"\x02\x78"]
                assert self.alerts("a.x.com", version) == [b"\x02\x78"]
                assert self.alerts("y.com", version) == [b"\x02\x70"]
                assert self.alerts(None, version) == [b"\x02\x70"]
        assert self.factory.built == []

    def test_visitors_never_see_it(self) -> None:
        self.place()
        self.listen(b"http/1.1")
        for version in VERSIONS:
            for protocols in (["http/1.1"], ["acme-tls/1", "http/1.1"], ["http/1.1", "acme-tls/1"]):
                client, _served = self.open("x.com", self.authority(version, *protocols))
                assert client.tls.selected_alpn_protocol() == "http/1.1"
                assert digest_in(self.shown_to(client)) is None
            assert self.alerts("x.com", version, "acme-tls/1", "spdy/3") == [b"\x02\x78"]
            assert self.alerts("x.com", version, "acme-tls/2") == [b"\x02\x78"]
            assert self.alerts("x.com", version, "acme-tls/1", "acme-tls/1") == [b"\x02\x78"]

    def test_it_is_gone_with_the_challenge(self) -> None:
        self.place()
        for version in VERSIONS:
            self.client("x.com", self.authority(version)).handshake()
        self.successResultOf(self.store.delete_challenge(a_challenge(TLS_ALPN_01)))
        for version in VERSIONS:
            assert self.alerts("x.com", version) == [b"\x02\x78"]
        assert repr(self.certificates.contexts) == "<Contexts: 0 of at most 2048, 0 issued here>"

    def test_its_sessions_go_on_nowhere(self) -> None:
        self.place()
        self.listen(b"http/1.1")
        for version in VERSIONS:
            context = self.authority(version)
            first = self.client("x.com", context).handshake()
            assert first.read() == b""
            session = first.tls.session
            for protocols in (["acme-tls/1"], ["http/1.1"]):
                context.set_alpn_protocols(protocols)
                again = self.client("x.com", context, session).handshake()
                assert not again.tls.session_reused
                assert is_proof(self.shown_to(again)) == (protocols == ["acme-tls/1"])

    def test_no_others_go_on_in_it(self) -> None:
        self.place()
        self.listen(b"http/1.1")
        for version in VERSIONS:
            context = self.authority(version, "http/1.1")
            client, served = self.open("x.com", context)
            served.transport.write(b"x")
            assert client.read() == b"x"
            session = client.tls.session
            assert session is not None and session.has_ticket
            context.set_alpn_protocols(["acme-tls/1"])
            again = self.client("x.com", context, session).handshake()
            assert not again.tls.session_reused and is_proof(self.shown_to(again))

    def test_a_store_that_fails(self) -> None:
        self.store.failure = StoreUnavailable("locked")
        assert self.alerts("x.com", VERSIONS[1]) == [b"\x02\x78"]

    def test_it_waits_for_the_store_no_longer_than_any_other(self) -> None:
        slow = Store()
        self.certificates = Certificates(record("x.com"), challenges=Challenges(cast(Any, slow), lambda: 0.0))
        client = self.client("x.com", self.authority(VERSIONS[1]))
        client.sock.send(client.begin())
        self.until(lambda: slow.reads)
        self.clock.advance(11)
        self.settle(client)
        assert client.eof
        slow.end_read()

    def test_where_there_are_none(self) -> None:
        self.certificates = Certificates(record("x.com"))
        self.certificates.contexts.on_demand = lambda name: Deferred()
        for ours in ((), (b"http/1.1",)):
            self.listen(*ours)
            for name in ("x.com", "y.com"):
                assert self.alerts(name, VERSIONS[1]) == [b"\x02\x78"]

    def test_an_authority_is_no_reason_to_order(self) -> None:
        asked: list[str] = []
        self.certificates.contexts.on_demand = asked.append
        assert self.alerts("y.com", VERSIONS[1]) == [b"\x02\x70"]
        self.place("y.com")
        self.client("y.com", self.authority(VERSIONS[1])).handshake()
        assert asked == []

    def test_openssl_itself(self) -> None:
        self.place()
        self.listen(b"h2", b"http/1.1")
        port = self.port.getHost().port
        for version in ("-tls1_2", "-tls1_3"):
            shown = self.s_client(f"127.0.0.1:{port}", version, "-servername", "x.com", "-alpn", "acme-tls/1")
            assert "ALPN protocol: acme-tls/1" in shown
            _, begin, rest = shown.partition("-----BEGIN CERTIFICATE-----")
            pem = begin + rest.partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
            assert is_proof(x509.load_pem_x509_certificate(pem.encode()))
            shown = self.s_client(
                f"127.0.0.1:{port}", version, "-servername", "x.com", "-alpn", "http/1.1,acme-tls/1"
            )
            assert "ALPN protocol: http/1.1" in shown and "proof of control" not in shown

    def s_client(self, where: str, *words: str) -> str:
        """What it prints of a handshake."""
        command = ["openssl", "s_client", "-connect", where, *words]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as running:
            self.until(lambda: running.poll() is not None)
            assert running.stdout is not None
            return running.stdout.read().decode("latin-1")


_PROTOCOLS = st.lists(
    st.sampled_from(
        [ACME_TLS_1, b"h2", b"http/1.1", b"acme-tls/2", b"acme-tls/", b"ACME-TLS/1", b"acme-tls/1x"]
    ),
    max_size=3,
)
_NAMES = st.sampled_from(["x.com", "a.x.com", "y.com", "", "localhost", "127.0.0.1"])


@functools.cache
def stored() -> Certificate:
    """One for all examples."""
    return record("x.com", "*.x.com")


@PROPERTY
@given(st.lists(_PROTOCOLS | st.just([ACME_TLS_1]), min_size=1, max_size=4), _NAMES, _NAMES, st.booleans())
def test_a_proof_is_for_who_offers_nothing_else(offers, wanted, proved, expired):
    """And of the name with a challenge; certificates are for all others, whatever else is offered."""
    store = MemoryStore()
    ends = now() + (-HOUR if expired else HOUR)
    if proved:
        store.save_challenge(a_challenge(TLS_ALPN_01, name=proved, expires_at=ends), now() - 2 * HOUR)
    certificates = Certificates(stored(), challenges=Challenges(store, now().timestamp))
    for protocols in offers:
        chosen = _outcome(certificates, ClientHello(wanted, tuple(protocols)))
        if protocols != [ACME_TLS_1]:
            # As without any challenge.
            assert chosen == UNRECOGNIZED_NAME or chosen.protocols == ()
            assert (chosen == UNRECOGNIZED_NAME) == (wanted in ("y.com", ""))
        elif wanted and wanted == proved and not expired:
            assert chosen.protocols == (ACME_TLS_1,) and chosen.certificate.names == (wanted,)
        else:
            known = wanted in ("x.com", "a.x.com")
            assert chosen == (NO_APPLICATION_PROTOCOL if known else UNRECOGNIZED_NAME)


def _outcome(certificates: Certificates, hello: ClientHello) -> Any:
    """What is chosen, or the alert."""
    try:
        chosen = certificates.contexts.choose(hello, "")
    except BadHello as error:
        return error.alert
    if isinstance(chosen, Deferred):
        told: list[Any] = []
        chosen.addCallbacks(told.append, lambda failure: told.append(failure.value.alert))
        [chosen] = told
    assert isinstance(chosen, (Chosen, int))
    return chosen
