"""The client against real pebbles. What those never do is in test_fetching and test_objects."""

from __future__ import annotations

import base64
import datetime
import json
import secrets
from typing import TYPE_CHECKING, Any

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from onebackend_proxy.tls.acme.client import MAX_TRIES, AcmeClient, Eab, certificate_id, trust_roots
from onebackend_proxy.tls.acme.problems import AcmeError, Problem, Unreachable
from onebackend_proxy.tls.acme.signing import new_key

from .pebbles import PebbleCase, reactor, request_for

SECOND = datetime.timedelta(seconds=1)
EAB_KEY = base64.urlsafe_b64encode(b"0123456789abcdef0123456789abcdef").decode().rstrip("=")
OTHER_KEY = base64.urlsafe_b64encode(b"fedcba9876543210fedcba9876543210").decode().rstrip("=")


if TYPE_CHECKING:
    _Case = PebbleCase
else:
    # Its tests run in the classes of each pebble only.
    _Case = object


class Contract(_Case):
    """What every pebble does."""

    async def test_from_an_account_to_a_certificate(self):
        client = await self.registered()
        chain = await self.issued(client, "a.example", "b.example")
        leaf, *above = x509.load_pem_x509_certificates(chain.encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(sorted(names.get_values_for_type(x509.DNSName)), ["a.example", "b.example"])
        self.assertEqual(len(above), 1)
        leaf.verify_directly_issued_by(above[0])

    async def test_the_directory(self) -> Any:
        directory = await self.client().directory()
        self.assertEqual(directory.url, self.pebble.directory)
        self.assertFalse(directory.eab_required)
        self.assertTrue(directory.terms.startswith("data:text/plain"))
        return directory

    async def test_the_same_key_has_the_same_account(self):
        first = await self.registered()
        second = self.client(key=first.key)
        self.assertEqual(await second.register(("mailto:other@a.example",)), first.account)
        self.assertNotEqual(await self.client().register(()), first.account)

    async def test_contacts_are_replaced(self):
        client = self.client()
        client.account = await client.register(("mailto:ada@a.example",))
        self.assertEqual(await self.contacts(client), ["mailto:ada@a.example"])
        await client.update_contact(("mailto:bob@a.example",))
        self.assertEqual(await self.contacts(client), ["mailto:bob@a.example"])
        await client.update_contact(())
        self.assertFalse(await self.contacts(client))

    async def contacts(self, client):
        reply = await client._ask(client.account)
        return json.loads(reply.body).get("contact")

    async def test_contacts_that_it_does_not_take(self):
        error = await self.refused(self.client().register(("tel:+1",)))
        self.assertEqual(error.type, "unsupportedContact")
        self.assertIn("tel", str(error))
        self.assertEqual(error.status_code, 400)

    async def test_an_authorization_offers_challenges(self):
        client = await self.registered()
        order = await client.order(("c.example",))
        self.assertEqual(order.status, "pending")
        self.assertIsNone(order.problem)
        self.assertEqual(order.certificate, "")
        [url] = order.authorizations
        authorization = await client.authorization(url)
        self.assertEqual((authorization.name, authorization.wildcard), ("c.example", False))
        self.assertEqual(authorization.status, "pending")
        kinds = {offer.kind: offer for offer in authorization.challenges}
        self.assertLessEqual({"http-01", "tls-alpn-01", "dns-01"}, set(kinds))
        self.assertTrue(kinds["http-01"].token)
        self.assertEqual(await client.read_order(order.url), order)

    async def test_a_wildcard(self):
        client = await self.registered()
        order = await client.order(("*.d.example",))
        authorization = await client.authorization(order.authorizations[0])
        self.assertEqual((authorization.name, authorization.wildcard), ("d.example", True))
        self.assertLessEqual(
            {offer.kind for offer in authorization.challenges}, {"dns-01", "dns-account-01", "dns-persist-01"}
        )

    async def test_an_address(self):
        client = await self.registered()
        order = await client.order(("192.0.2.7",))
        self.assertEqual((await client.authorization(order.authorizations[0])).name, "192.0.2.7")

    async def test_a_name_that_it_refuses(self):
        client = await self.registered()
        error = await self.refused(client.order(("blocked.example",)))
        self.assertEqual(error.type, "rejectedIdentifier")
        self.assertIn("blocked.example", str(error))

    async def test_a_request_for_other_names(self):
        client = await self.registered()
        order = await self.ready(client, ("e.example",))
        error = await self.refused(client.finalize(order, request_for("f.example")))
        self.assertTrue(error.type)
        self.assertTrue(error.detail)

    async def test_an_order_that_is_not_ready(self):
        client = await self.registered()
        order = await client.order(("g.example",))
        error = await self.refused(client.finalize(order, request_for("g.example")))
        self.assertEqual(error.type, "orderNotReady")

    async def test_two_clients_at_once(self):
        clients = [await self.registered(), await self.registered()]
        found = await gatherResults(
            [
                Deferred.fromCoroutine(self.issued(clients[number % 2], f"h{number}.example"))
                for number in range(6)
            ]
        )
        self.assertEqual(len(set(found)), 6)

    async def test_an_account_that_is_not_known_any_more(self):
        client = await self.registered()
        lost, client.account = client.account, f"{client.account}0"
        error = await self.refused(client.order(("i.example",)))
        self.assertEqual(error.type, "accountDoesNotExist")

        async def again():
            client.account = lost

        client.on_forgotten = again
        self.assertEqual((await client.order(("i.example",))).status, "pending")

    async def test_without_an_account(self):
        error = await self.refused(self.client().order(("j.example",)))
        self.assertEqual(error.type, "accountDoesNotExist")

    async def test_the_wrong_key_for_an_account(self):
        first = await self.registered()
        other = self.client()
        other.account = first.account
        error = await self.refused(other.order(("k.example",)))
        self.assertIn("verification", error.detail)

    async def test_a_call_that_is_cancelled(self):
        client = await self.registered()
        call = Deferred.fromCoroutine(client.order(("l.example",)))
        call.cancel()
        await self.assertFailure(call, CancelledError)
        self.assertEqual((await client.order(("l.example",))).status, "pending")

    async def test_it_must_be_trusted(self):
        client = AcmeClient(reactor, self.pebble.directory, new_key())
        error = await self.refused(client.directory(), Unreachable)
        self.assertIn("certificate verify failed", str(error))
        self.assertIn("localhost", str(error))

    async def test_by_its_address(self):
        url = self.pebble.directory.replace("localhost", "127.0.0.1")
        client = AcmeClient(reactor, url, new_key(), trust=trust_roots(self.pebble.ca_file))
        self.addCleanup(client.close)
        self.assertTrue((await client.register(())).startswith("https://127.0.0.1:"))


class DebianTests(Contract, PebbleCase):
    options = {"version": "debian", "blocked": ["blocked.example"]}

    async def test_no_renewal_information(self):
        client = await self.registered()
        self.assertEqual((await client.directory()).renewal_info, "")
        chain = await self.issued(client, "m.example")
        await self.refused(client.renewal_info(chain), AcmeError)


class NewestTests(Contract, PebbleCase):
    options = {
        "version": "newest",
        "blocked": ["blocked.example"],
        "validity": {"default": 7_776_000, "shortlived": 518_400},
        "caa_identities": ["ca.example", "other.example"],
    }

    async def test_the_directory(self):
        directory = await super().test_the_directory()
        self.assertEqual(set(directory.profiles), {"default", "shortlived"})
        self.assertEqual(directory.caa_identities, ("ca.example", "other.example"))

    async def test_a_profile(self):
        client = await self.registered()
        chain = await self.issued(client, "n.example", profile="shortlived")
        leaf = x509.load_pem_x509_certificate(chain.encode())
        self.assertEqual(leaf.not_valid_after_utc - leaf.not_valid_before_utc, 518_399 * SECOND)

    async def test_a_profile_that_it_has_not(self):
        client = await self.registered()
        error = await self.refused(client.order(("o.example",), profile="eternal"))
        self.assertEqual(error.type, "invalidProfile")

    async def test_when_to_renew(self):
        client = await self.registered()
        chain = await self.issued(client, "p.example")
        start = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
        self.pebble.set_renewal_window(
            chain, start, start + 60 * SECOND, explanationURL="https://ca.example/why"
        )
        info = await client.renewal_info(chain)
        self.assertEqual((info.start, info.end), (start, start + 60 * SECOND))
        self.assertEqual(info.explanation_url, "https://ca.example/why")
        self.assertEqual(info.retry_after, 6 * 60 * 60.0)

    async def test_renewal_information_that_is_none(self):
        client = await self.registered()
        chain = await self.issued(client, "q.example")
        for text in ("nonsense", "[]", "{}", '{"suggestedWindow": {"start": "2030-01-01T00:00:00Z"}}'):
            self.pebble.set_renewal_answer(chain, text)
            await self.refused(client.renewal_info(chain), Unreachable)
        now = datetime.datetime.now(datetime.UTC)
        self.pebble.set_renewal_window(chain, now, now)
        await self.refused(client.renewal_info(chain), Unreachable)

    async def test_a_replacement(self):
        client = await self.registered()
        chain = await self.issued(client, "r.example")
        again = await self.replaced(client, certificate_id(chain))
        self.assertNotEqual(again, chain)
        error = await self.refused(client.order(("r.example",), replaces=certificate_id(chain)))
        self.assertEqual(error.type, "alreadyReplaced")

    async def replaced(self, client, certificate):
        """Pebble gives a certificate away a moment before it can find its order again."""
        for _ in range(50):
            try:
                return await self.issued(client, "r.example", replaces=certificate)
            except Problem as problem:
                if problem.type != "serverInternal":
                    raise
                await deferLater(reactor, 0.1)
        raise AssertionError("pebble does not find the order")


class BadNonceStormTests(PebbleCase):
    options = {"nonce_reject": 80}

    async def test_four_of_five_nonces_refused(self):
        client = await self.registered()
        self.assertIn("BEGIN CERTIFICATE", await self.issued(client, "s.example"))


class NoNonceTests(PebbleCase):
    options = {"nonce_reject": 100}

    async def test_it_gives_up(self):
        error = await self.refused(self.client(timeout=30.0).register(()))
        self.assertEqual(error.type, "badNonce")
        self.assertEqual(self.pebble.log().count("POST /sign-me-up"), MAX_TRIES)


class BindingTests(PebbleCase):
    options = {"eab_keys": {"kid-1": EAB_KEY}}

    async def test_the_right_key(self):
        client = self.client()
        self.assertTrue((await client.directory()).eab_required)
        client.account = await client.register((), Eab("kid-1", EAB_KEY))
        self.assertEqual((await client.order(("t.example",))).status, "pending")

    async def test_a_key_may_come_with_its_padding(self):
        client = self.client()
        padded = EAB_KEY + "=" * (-len(EAB_KEY) % 4)
        self.assertTrue(await client.register((), Eab("kid-1", padded)))

    async def test_an_account_is_found_without_one(self):
        first = self.client()
        account = await first.register((), Eab("kid-1", EAB_KEY))
        second = self.client(key=first.key)
        self.assertEqual(await second.register(()), account)
        self.assertEqual(await second.register((), Eab("kid-1", OTHER_KEY)), account)

    async def test_wrong_ones(self):
        for eab in (Eab("kid-1", OTHER_KEY), Eab("kid-2", EAB_KEY), None):
            error = await self.refused(self.client().register((), eab))
            self.assertTrue(error.type, eab)
            for secret in (EAB_KEY, OTHER_KEY):
                self.assertNotIn(secret, f"{error!s} {error!r} {error.detail} {eab!r}")


class DownTests(PebbleCase):
    async def test_down_and_back(self):
        client = await self.registered(timeout=5.0)
        self.pebble.kill()
        error = await self.refused(client.order(("u.example",)), Unreachable)
        self.assertIn("localhost", str(error))
        self.pebble.start()

        async def again():
            client.account = await client.register(())

        client.on_forgotten = again
        self.assertEqual((await client.order(("u.example",))).status, "pending")

    async def test_kept_connections_that_were_closed_meanwhile(self):
        client = await self.registered()
        # This thread waits, and so reads nothing of the end of the connection.
        self.pebble.kill()
        self.pebble.start()
        error = await self.refused(client.order(("v.example",)))
        self.assertEqual(error.type, "accountDoesNotExist")


class RetryAfterTests(PebbleCase):
    options = {"retry_after": (7, 9), "sleep": 5, "always_valid": False}

    async def test_what_is_under_way_says_when_to_look_again(self):
        client = await self.registered()
        order = await client.order((f"w-{secrets.token_hex(4)}.example",))
        [url] = order.authorizations
        [offer] = [each for each in (await client.authorization(url)).challenges if each.kind == "http-01"]
        await client.answer(offer.url)
        authorization = await client.authorization(url)
        if authorization.status == "pending":
            # As a number or as a date, at random; a date has whole seconds.
            assert authorization.retry_after is not None
            self.assertTrue(6.0 <= authorization.retry_after <= 8.0)
