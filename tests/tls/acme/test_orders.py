"""From a name to its certificate at real pebbles. Limits, which those have not, are in test_order_limits."""

from __future__ import annotations

import contextlib
import datetime
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.records import Issuance, Route
from onebackend_proxy.tls.acme.orders import NoCertificate, Orders, request_for
from onebackend_proxy.tls.acme.problems import AcmeError
from onebackend_proxy.tls.challenges import HTTP_01, TLS_ALPN_01
from tests.e2e.waiting import free_port
from tests.pebble import Pebble

from .ordering import OrdersCase, kept
from .pebbles import reactor
from .scripted import Scripted

pytestmark = pytest.mark.once

DAY = datetime.timedelta(days=1)
# Debian's pebble cannot look up much longer ones.
LONG = ".".join(["a" * 30] * 3) + ".test"


if TYPE_CHECKING:
    _Case = OrdersCase
else:
    # Its tests run in the classes of each pebble only.
    _Case = object


class Contract(_Case):
    """What works at every pebble."""

    async def test_by_http(self):
        obtained = await self.obtain("a.test")
        self.assertEqual((obtained.directory, obtained.challenge), (self.pebble.directory, HTTP_01))
        self.assertEqual(self.answered, [HTTP_01])
        leaf, above = x509.load_pem_x509_certificates(obtained.chain.encode())
        leaf.verify_directly_issued_by(above)
        key = load_pem_private_key(obtained.key.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.assertEqual(key.public_key(), leaf.public_key())
        self.assertEqual(kept(obtained, "a.test").names, ("a.test",))
        self.assertNotIn("PRIVATE", repr(obtained))
        self.assertEqual(
            b"".join(each.as_bytes() for each in obtained.pem_objects()).decode(),
            obtained.key + obtained.chain,
        )

    async def test_each_has_a_key_of_its_own(self):
        orders = self.orders()
        first, second = await self.obtain("b.test", orders), await self.obtain("b.test", orders)
        self.assertNotEqual(first.key, second.key)

    async def test_by_tls(self):
        obtained = await self.obtain("c.test", self.orders(kinds=[TLS_ALPN_01]))
        self.assertEqual(obtained.challenge, TLS_ALPN_01)
        self.assertEqual(self.answered, [TLS_ALPN_01])

    async def test_the_kind_that_worked_last_goes_first(self):
        obtained = await self.obtain("d.test", issuance=Issuance("d.test", challenge=TLS_ALPN_01))
        self.assertEqual((obtained.challenge, self.answered), (TLS_ALPN_01, [TLS_ALPN_01]))
        await self.obtain("dd.test", issuance=Issuance("dd.test", challenge="dns-01"))
        self.assertEqual(self.answered, [TLS_ALPN_01, HTTP_01])

    async def test_a_name_of_more_than_64_characters_and_one_in_another_script(self):
        for name in (LONG, "xn--bcher-kva.test", "xn--fiqs8s.xn--55qx5d.test"):
            self.assertEqual(kept(await self.obtain(name), name).names, (name,))

    async def test_a_name_that_it_refuses_in_its_own_words(self):
        error = await self.refused(self.obtain("refused.test"), NoCertificate)
        self.assertEqual(error.directory, self.pebble.directory)
        self.assertTrue(str(error).startswith("rejectedIdentifier: "), str(error))
        self.assertIn("refused.test", str(error))
        self.assertIsNone(error.retry_after)
        # No other kind of proof would help.
        self.assertEqual(len(self.asked), 1)

    async def test_a_profile_where_there_is_none_such(self):
        await self.obtain("e.test", self.orders(profile="eternal"))
        self.assertEqual([each.profile for each in self.asked], [""])
        self.assertIn(
            f"{self.pebble.directory} has no profile eternal: ordering without one", "\n".join(self.logged)
        )

    async def test_two_at_once(self):
        orders = self.orders()
        names = ["f.test", "g.test", "h.test"]
        waiting = [Deferred.fromCoroutine(self.without_looking(orders, name)) for name in names]
        for name, each in zip(names, waiting, strict=True):
            self.assertEqual(kept(await each, name).names, (name,))
        self.assertEqual(await self.challenges(), ())

    async def without_looking(self, orders, name):
        await self.store.save_routes([Route(name, "http://127.0.0.1:1")])
        return await orders.obtain(name, Issuance(name), None)

    async def test_what_is_replaced_is_told_where_that_is_known(self):
        orders = self.orders()
        first = kept(await self.obtain("i.test", orders), "i.test")
        second = await self.obtain("i.test", orders, previous=first)
        self.assertNotEqual(kept(second, "i.test").serial, first.serial)
        return first


class DebianTests(Contract, OrdersCase):
    options = {**OrdersCase.options, "version": "debian", "blocked": ["refused.test"]}

    async def test_what_is_replaced_is_told_where_that_is_known(self):
        await super().test_what_is_replaced_is_told_where_that_is_known()
        self.assertEqual([each.replaces for each in self.asked], ["", ""])


class NewestTests(Contract, OrdersCase):
    options = {
        **OrdersCase.options,
        "version": "newest",
        "blocked": ["refused.test"],
        "validity": {"default": 90 * 86400, "shortlived": 6 * 86400},
    }

    async def test_a_profile(self):
        obtained = await self.obtain("j.test", self.orders(profile="shortlived"))
        certificate = kept(obtained, "j.test")
        self.assertEqual(round((certificate.not_after - certificate.not_before) / DAY, 2), 6.0)

    async def test_what_is_replaced_is_told_where_that_is_known(self):
        first = await super().test_what_is_replaced_is_told_where_that_is_known()
        self.assertEqual(self.asked[0].replaces, "")
        self.assertRegex(self.asked[1].replaces, r"^[\w-]+\.[\w-]+$")
        self.assertRegex(self.pebble.log(), r"ARI: order .* is a replacement of")
        # Somebody has replaced it meanwhile: that is no reason to have none.
        await self.obtain("i.test", previous=first)
        self.assertEqual([bool(each.replaces) for each in self.asked], [False, True, True, False])

    async def test_nothing_is_told_of_one_that_another_directory_has_given(self):
        first = kept(await self.obtain("k.test"), "k.test")
        await self.obtain("k.test", previous=attrs.evolve(first, directory="https://other.test/dir"))
        await self.obtain("k.test", previous=attrs.evolve(first, directory=""))
        self.assertEqual([each.replaces for each in self.asked], ["", "", ""])


class NobodyAtPort80Tests(OrdersCase):
    http = False

    async def test_the_other_kind_is_tried(self):
        obtained = await self.obtain("a.test")
        self.assertEqual(obtained.challenge, TLS_ALPN_01)
        self.assertEqual(self.answered, [HTTP_01, TLS_ALPN_01])
        self.assertEqual(len(self.asked), 2)


class NobodyTests(OrdersCase):
    http = tls = False

    async def test_the_words_of_both(self):
        error = await self.refused(self.obtain("a.test"), NoCertificate)
        self.assertEqual(self.answered, [HTTP_01, TLS_ALPN_01])
        first, _, second = str(error).partition("; tls-alpn-01: ")
        self.assertTrue(first.startswith("http-01: connection: "), first)
        self.assertIn("connection refused", first)
        self.assertIn(f"127.0.0.1:{self.pebble.tls_port}", second)
        self.assertIsNone(error.retry_after)
        self.assertTrue(str(error).isprintable())

    async def test_one_kind_that_the_authority_does_not_offer(self):
        # What it looks like for a wildcard.
        orders = self.orders(kinds=[HTTP_01])
        orders.responders[0].challenge_type = "http-99"
        error = await self.refused(self.obtain("b.test", orders), NoCertificate)
        self.assertEqual(str(error), "http-99: the authority does not offer it")

    async def test_a_wildcard_without_dns(self):
        orders = self.orders()
        self.assertFalse(orders.can_prove("*.test"))
        self.assertTrue(orders.can_prove("a.test"))
        error = await self.refused(orders.obtain("*.test", Issuance("*.test"), None), NoCertificate)
        self.assertIn("--acme-dns", str(error))
        self.assertEqual(self.asked, [])


class ReuseTests(OrdersCase):
    options = {**OrdersCase.options, "authorization_reuse": 100}

    async def test_what_is_proved_already_needs_no_proof(self):
        orders = self.orders()
        await self.obtain("a.test", orders, Issuance("a.test", challenge=TLS_ALPN_01))
        await self.edge.silence()
        again = await self.obtain("a.test", orders)
        self.assertEqual(self.answered, [TLS_ALPN_01])
        self.assertEqual(again.challenge, "", "nothing is known of HTTP-01")


class SeveralTests(OrdersCase):
    """Two authorities: the first refuses a name; each has a DNS of its own."""

    options = {**OrdersCase.options, "blocked": ["refused.test"]}
    second: Pebble

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.second = cls.another_pebble()

    async def test_one_that_refuses_the_name(self):
        orders = self.orders(self.pebble.directory, self.second.directory)
        obtained = await self.obtain("refused.test", orders)
        self.assertEqual(obtained.directory, self.second.directory)
        obtained = await self.obtain("a.test", orders)
        self.assertEqual(obtained.directory, self.pebble.directory)

    async def test_one_that_is_down(self):
        down = f"https://localhost:{free_port()}/dir"
        orders = self.orders(down, self.second.directory)
        self.assertEqual((await self.obtain("b.test", orders)).directory, self.second.directory)

    async def test_one_that_hangs(self):
        server = Scripted(lambda request: [b""] if server.stopping.wait(20) else [])
        with server:
            orders = self.orders(server.directory, self.second.directory, timeout=1.0)
            self.assertEqual((await self.obtain("c.test", orders)).directory, self.second.directory)
            self.assertEqual(len(server.requests), 1)

    async def test_one_that_cannot_reach_us(self):
        self.pebble.names.set_a("d.test", "127.0.0.9")
        orders = self.orders(self.pebble.directory, self.second.directory)
        self.assertEqual((await self.obtain("d.test", orders)).directory, self.second.directory)
        self.assertEqual(len(self.asked), 3)

    async def test_the_words_of_all(self):
        down = f"https://localhost:{free_port()}/dir"
        self.second.names.set_a("refused.test", "127.0.0.9")
        self.addCleanup(self.second.names.set_a, "refused.test")
        orders = self.orders(self.pebble.directory, down, self.second.directory)
        error = await self.refused(self.obtain("refused.test", orders), NoCertificate)
        words = str(error)
        self.assertEqual(error.directory, self.second.directory)
        at = [words.index(f"{url}: ") for url in orders.directories]
        self.assertEqual(at, sorted(at))
        for part in ("rejectedIdentifier: ", "http-01: ", "127.0.0.9", "tls-alpn-01: "):
            self.assertIn(part, words)
        self.assertIn("localhost", words[at[1] : at[2]].removeprefix(down))

    # The second one is where it is rehearsed.

    def rehearsing(self, *, failures):
        orders = self.orders(rehearsals={self.pebble.directory: self.second.directory})
        # One that nobody has proved yet: pebble remembers some.
        self.name = f"{self.id()[-40:].replace('_', '-').replace('.', '-')}.test"
        return orders, Issuance(self.name, failures=failures)

    async def test_a_name_without_failures_is_not_rehearsed(self):
        orders, known = self.rehearsing(failures=0)
        await self.obtain(self.name, orders, known)
        self.assertEqual([each.url for each in self.asked], [self.pebble.directory])

    async def test_a_name_that_failed_is_proved_elsewhere_first(self):
        orders, known = self.rehearsing(failures=1)
        self.second.names.set_a(self.name, "127.0.0.9")
        error = await self.refused(self.obtain(self.name, orders, known), NoCertificate)
        self.assertIn("127.0.0.9", str(error))
        self.assertEqual([each.url for each in self.asked], [self.second.directory] * 2)
        self.second.names.set_a(self.name)
        obtained = await self.obtain(self.name, orders, known)
        self.assertEqual(obtained.directory, self.pebble.directory)
        self.assertEqual(
            [each.url for each in self.asked[2:]], [self.second.directory, self.pebble.directory]
        )
        leaf = x509.load_pem_x509_certificate(obtained.chain.encode())
        root = x509.load_pem_x509_certificate(self.pebble.root().encode())
        self.assertNotEqual(leaf.issuer, root.issuer)

    async def test_each_kind_is_rehearsed_by_itself(self):
        await self.edge.silence()
        await self.edge.listen_tls(self.pebble.tls_port)
        orders, known = self.rehearsing(failures=3)
        self.assertEqual((await self.obtain(self.name, orders, known)).challenge, TLS_ALPN_01)
        self.assertEqual(
            [each.url for each in self.asked],
            [self.second.directory, self.second.directory, self.pebble.directory],
        )

    async def test_where_there_is_no_rehearsal_it_is_tried_without(self):
        down = f"https://localhost:{free_port()}/dir"
        orders = self.orders(rehearsals={self.pebble.directory: down})
        await self.obtain("e.test", orders, Issuance("e.test", failures=2))
        self.assertEqual([each.url for each in self.asked], [self.pebble.directory])
        self.assertIn(f"no rehearsal for e.test at {down}", "\n".join(self.logged))


class _Silent(Protocol):
    """Takes connections, and says nothing."""

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.factory.came(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.open.discard(self)


class _SilentFactory(Factory):
    protocol = _Silent
    noisy = False

    def __init__(self) -> None:
        self.open: set[_Silent] = set()
        self.first: Deferred[None] = Deferred()

    def came(self, protocol: _Silent) -> None:
        self.open.add(protocol)
        if not self.first.called:
            self.first.callback(None)


class CancelTests(OrdersCase):
    http = False

    def hanging(self, name):
        """Fires when the authority waits for our proof, which it never gets."""
        factory = _SilentFactory()
        self.pebble.names.set_a(name, "127.0.0.2")
        port = reactor.listenTCP(self.pebble.http_port, factory, interface="127.0.0.2")

        async def end():
            await port.stopListening()
            while factory.open:
                for each in factory.open:
                    each.transport.abortConnection()
                await deferLater(reactor, 0.01)

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        return factory.first

    async def test_what_is_broken_off_takes_its_proof_back(self):
        came = self.hanging("a.test")
        running = Deferred.fromCoroutine(self.obtain("a.test"))
        await came
        [challenge] = await self.challenges()
        self.assertEqual((challenge.kind, challenge.name), (HTTP_01, "a.test"))
        left = challenge.expires_at - datetime.datetime.now(datetime.UTC)
        self.assertTrue(0 < left.total_seconds() <= 3600)
        running.cancel()
        await self.assertFailure(running, CancelledError)
        self.assertEqual(await self.challenges(), ())
        self.assertEqual(self.answered, [HTTP_01])

    async def test_at_any_moment(self):
        """Nothing is left of it, and the next order works."""
        await self.edge.listen_http(self.pebble.http_port)
        orders = self.orders()
        for number in range(12):
            name = f"n{number}.test"
            running = Deferred.fromCoroutine(self.obtain(name, orders))
            await deferLater(reactor, number * 0.03)
            running.cancel()
            with contextlib.suppress(CancelledError):
                await running
        self.assertTrue(await self.obtain("last.test", orders))


class _Deaf:
    """A responder whose proofs cannot be taken back."""

    def __init__(self, responder):
        self._responder = responder
        self.challenge_type = responder.challenge_type

    def start_responding(self, *what):
        return self._responder.start_responding(*what)

    def stop_responding(self, *what):
        return self._responder.stop_responding(*what).addCallback(
            lambda _: fail(StoreUnavailable("the store is busy"))
        )


class _Mute(_Deaf):
    """One that cannot show a proof."""

    def start_responding(self, *what):
        return fail(AcmeError("the DNS provider took longer than 60 s"))

    def stop_responding(self, *what):
        return succeed(None)


class ResponderTests(OrdersCase):
    async def test_a_proof_that_stays_is_no_reason_to_have_no_certificate(self):
        obtained = await self.obtain("a.test", self.orders(wrap=_Deaf))
        self.assertEqual(obtained.challenge, HTTP_01)
        self.assertEqual(len(self.asked), 1)
        self.assertIn("the proof for a.test cannot be taken back: the store is busy", "\n".join(self.logged))

    async def test_one_that_cannot_show_a_proof_is_not_the_only_one(self):
        orders = self.orders(wrap=lambda each: _Mute(each) if each.challenge_type == HTTP_01 else each)
        self.assertEqual((await self.obtain("b.test", orders)).challenge, TLS_ALPN_01)

    async def test_and_its_words_are_told(self):
        error = await self.refused(self.obtain("c.test", self.orders(wrap=_Mute)), NoCertificate)
        words = "the DNS provider took longer than 60 s"
        self.assertEqual(str(error), f"http-01: {words}; tls-alpn-01: {words}")


class RequestTests(SynchronousTestCase):
    def test_a_request_has_no_subject_and_one_name(self):
        key = ec.generate_private_key(ec.SECP256R1())
        for name in ("a.test", "*.a.test", LONG, "xn--bcher-kva.test"):
            request = x509.load_der_x509_csr(request_for(name, key))
            self.assertTrue(request.is_signature_valid)
            self.assertEqual(len(request.subject), 0)
            [extension] = request.extensions
            self.assertEqual(extension.value, x509.SubjectAlternativeName([x509.DNSName(name)]))
            self.assertEqual(request.public_key(), key.public_key())

    def test_it_tells_where_it_orders(self):
        orders = Orders(reactor, None, ["https://a.test/", "https://b.test/"], [])  # type: ignore[arg-type]
        self.assertEqual(repr(orders), "<Orders: https://a.test/, https://b.test/>")
        self.assertFalse(orders.can_prove("a.test"))
