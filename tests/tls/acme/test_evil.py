"""Directories that answer with what no RFC allows, or where no order ends: the next gives the certificate."""

from __future__ import annotations

import datetime

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, fail

from onebackend_proxy.tls.acme.orders import DIRECTORY_SECONDS, LONGEST_PAUSE, ORDER_SECONDS
from onebackend_proxy.tls.acme.stored import StoredCertificates
from onebackend_proxy.tls.challenges import HTTP_01, TLS_ALPN_01

from ..making import alternative_names, intermediate, made, new_key, now, signed
from .evil import EvilCase, changing, refusing, showing, telling
from .pebbles import reactor

HOUR, DAY, MONTH = 3600, 86400, 31 * 86400
BYTES = "/\xff\xfe\x80"
"""No UTF-8, whatever stands before and after it."""


class FieldTests(EvilCase):
    async def test_an_order_whose_address_has_other_bytes(self):
        self.evil.hooks["order"] = telling(location=BYTES)
        words = await self.assert_next("a.test")
        self.assertEqual(
            words, "the ACME directory cannot be used (a URL was given that is not one of https)"
        )
        self.assertEqual(self.evil.counts["authorization"], 0)

    async def test_an_account_whose_address_has_other_bytes(self):
        self.evil.hooks["account"] = telling(location=BYTES)
        self.assertEqual((await self.obtain("a.test")).directory, self.good.directory)
        self.assertEqual(self.evil.names, [])

    async def test_nonces_that_are_none_are_not_used(self):
        spoil = telling(replay_nonce=BYTES)
        self.evil.hooks.update(dict.fromkeys(("account", "order", "challenge", "finalize"), spoil))
        self.assertEqual((await self.obtain("a.test")).directory, self.evil.directory)
        used = [request.protected["nonce"] for request in self.evil.requests if request.method == "POST"]
        self.assertEqual(len(set(used)), len(used))
        self.assertTrue("".join(used).isascii())
        # One in the place of each.
        self.assertEqual(self.evil.counts["nonce"], 1 + 4)

    async def test_where_all_nonces_are_none_the_next_gives_it(self):
        self.evil.hooks["nonce"] = telling(replay_nonce=BYTES)
        self.assertEqual((await self.obtain("a.test")).directory, self.good.directory)
        self.assertIn("gave no nonce", "\n".join(self.logged))

    async def test_waits_and_dates_that_are_none_are_not_obeyed(self):
        orders = self.orders()
        for number, fields in enumerate([{"retry_after": BYTES}, {"retry_after": "3600\xff", "date": BYTES}]):
            for name, spoil in (
                ("problem", refusing("serverInternal", "busy", 503, **fields)),
                ("page", showing(b"<h1>busy</h1>", 503, **fields)),
            ):
                self.evil.hooks["order"] = spoil
                words = await self.assert_next(f"{name}{number}.test", orders)
                self.assertIn("busy" if name == "problem" else "text/html, status 503", words)
        # Nor are those of an order that is under way.
        self.evil.hooks = {"authorization": telling(retry_after=BYTES), "look": telling(retry_after=BYTES)}
        self.assertEqual((await self.obtain("fine.test", orders)).directory, self.evil.directory)

    async def test_a_kind_of_document_that_is_none(self):
        def spoil(request, said):
            said.type = f"application/{BYTES}"

        self.evil.hooks["order"] = spoil
        words = await self.assert_next("a.test")
        self.assertIn("where application/json was due", words)
        self.assertTrue(words.isprintable())


class TokenTests(EvilCase):
    """The answer is the token as it was spelled, a dot and the thumbprint (RFC 8555, 8.1)."""

    async def test_a_token_is_answered_as_it_is_spelled(self):
        orders = self.orders()
        # The last of 43 letters has two bits that count for nothing; no base64 has 41 letters.
        for number, token in enumerate(["a" * 41, "abc", "-", "_-" * 150, "A" * 42 + "B", "z" * 512]):
            self.evil.token = token
            obtained = await self.obtain(f"n{number}.test", orders)
            self.assertEqual(obtained.directory, self.evil.directory, token)
        self.assertEqual(self.evil.proofs, [True] * 6)

    async def test_what_is_no_token_is_not_answered(self):
        orders = self.orders()
        for number, token in enumerate(
            ["", "../../x", "a+b/c==", "a b", "a\r\nb: c", "tök", "٣" * 43, "a" * 513, 5, None, ["a"]]
        ):
            self.evil.token = token
            words = await self.assert_next(f"n{number}.test", orders)
            self.assertEqual(words, "http-01: the authority does not offer it", token)
        self.assertEqual(self.evil.proofs, [])
        self.assertEqual(self.evil.counts["challenge"], 0)
        self.assertEqual(self.good.proofs, [True] * 11)


class AuthorizationTests(EvilCase):
    async def test_an_order_for_one_name_has_one(self):
        orders = self.orders()
        for number in (2, 8000):
            self.evil.authorizations = number
            words = await self.assert_next(f"n{number}.test", orders)
            self.assertIn(f"an order for one name came with {number} authorizations", words)
        self.assertEqual(self.evil.counts["authorization"], 0)


class CertificateTests(EvilCase):
    async def assert_refused(self, chain, words):
        self.evil.chain = chain
        told = await self.assert_next("a.test")
        self.assertIn(words, told)
        self.assertEqual(self.evil.counts["certificate"], 1)

    def ending(self, seconds):
        ends = now() + datetime.timedelta(seconds=seconds)
        return lambda key, name: made(name, key=key, ends=ends).chain

    async def test_for_another_name(self):
        await self.assert_refused(
            lambda key, name: made("b.test", "*.a.test", key=key).chain,
            "what came is not for a.test, but for b.test, *.a.test",
        )

    async def test_for_another_key(self):
        await self.assert_refused(
            lambda key, name: made(name, key=new_key()).chain,
            "what came has a private key that does not match the certificate",
        )

    async def test_that_has_ended(self):
        await self.assert_refused(self.ending(-HOUR), "what came has a certificate that expired on ")

    async def test_that_ends_in_a_moment(self):
        await self.assert_refused(self.ending(5), "what came has a certificate that ends at ")

    async def test_one_that_lives_for_a_minute_is_taken(self):
        self.evil.chain = self.ending(60)
        self.assertEqual((await self.obtain("a.test")).directory, self.evil.directory)

    async def test_with_more_names_and_the_right_to_sign_it_is_kept_for_what_was_ordered(self):
        def chain(key, name):
            extensions = [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (alternative_names([name, "bank.test", "*.test"]), False),
            ]
            return signed(extensions, key, intermediate()).chain

        self.evil.chain = chain
        obtained = await self.obtain("a.test")
        self.assertEqual(obtained.directory, self.evil.directory)
        kept = StoredCertificates(self.store, reactor)
        await kept.store("a.test", obtained.pem_objects(), obtained.directory)
        [certificate] = await self.store.certificates()
        self.assertEqual(certificate.names, ("a.test",))


class EndlessTests(EvilCase):
    async def test_a_proof_that_is_never_looked_at(self):
        self.evil.hooks["authorization"] = changing(status="pending")
        began = self.clock.seconds()
        words = await self.assert_next("a.test")
        self.assertIn(f"the authority was not done after {ORDER_SECONDS:.0f} s", words)
        self.assertLess(self.clock.seconds() - began, ORDER_SECONDS + 10)

    async def test_an_order_of_which_each_step_ends_in_time(self):
        asked = []

        def slowly(request, said):
            """Each step takes three minutes, almost; the first proof is refused in the end."""
            asked.append(request.path)
            if asked.count(request.path) % 6 and said.document["status"] != "pending":
                said.document["status"] = "pending" if "authorization" in request.path else "processing"
                said.fields["retry_after"] = "56"
            elif request.path == "/authorization/0/0" and said.document["status"] == "valid":
                said.document["status"] = "invalid"

        self.evil.hooks.update(dict.fromkeys(("authorization", "look", "finalize"), slowly))
        began = self.clock.seconds()
        words = await self.assert_late("a.test", self.orders(kinds=[HTTP_01, TLS_ALPN_01]), 2)
        self.assertIn(f"the order was not complete after {DIRECTORY_SECONDS:.0f} s", words)
        self.assertLess(self.clock.seconds() - began, DIRECTORY_SECONDS + 10)
        self.assertEqual(self.evil.counts["finalize"], 1)

    async def assert_late(self, name, orders, number):
        self.assertEqual((await self.obtain(name, orders)).directory, self.good.directory)
        self.assertEqual(self.evil.names, [name] * number)
        return "\n".join(self.logged)

    async def test_one_that_hangs_while_it_looks_at_a_proof(self):
        def hang(request, said):
            self.evil.stopping.wait(20)

        self.evil.hooks["challenge"] = hang
        running = self.begun("a.test")
        await self.seen(lambda: self.evil.counts["challenge"])
        self.assertEqual([each.token for each in await self.challenges()], ["t" * 43])
        self.good.token = "g" * 43
        self.good.hooks["challenge"] = lambda request, said: self.good.stopping.wait(20)
        self.clock.advance(DIRECTORY_SECONDS - 1)
        self.assertEqual(self.good.counts, {})
        self.clock.advance(1)
        await self.seen(lambda: self.good.counts["challenge"])
        self.assertEqual([each.token for each in await self.challenges()], ["g" * 43])
        # That one has as much time for itself.
        self.clock.advance(DIRECTORY_SECONDS - 1)
        self.good.stopping.set()
        self.assertEqual((await self.ended(running)).directory, self.good.directory)


class PauseTests(EvilCase):
    """How long a directory is left alone that asks for that."""

    async def assert_paused_for_a_day(self, spoil, kind="order"):
        self.evil.hooks[kind] = spoil
        orders = self.orders()
        began = self.clock.seconds()
        for moment, name, times in ((0, "a", 1), (DAY - 2, "b", 1), (DAY + 2, "c", 2)):
            self.clock.advance(began + moment - self.clock.seconds())
            self.assertEqual((await self.obtain(f"{name}.test", orders)).directory, self.good.directory)
            self.assertEqual(self.evil.counts[kind], times, f"after {moment} seconds")
        alone = self.orders(self.evil.directory)
        for _ in range(2):
            wait = (await self.fails("d.test", alone)).retry_after or 0.0
            self.assertTrue(DAY - 10 < wait <= LONGEST_PAUSE, wait)

    async def test_a_server_that_wants_a_month(self):
        await self.assert_paused_for_a_day(
            refusing("serverInternal", "maintenance", 503, retry_after=str(MONTH))
        )

    async def test_also_by_a_date_of_another_time(self):
        date = "Fri, 31 Dec 9999 23:59:59 GMT"
        await self.assert_paused_for_a_day(refusing("rateLimited", "no", 429, retry_after=date))

    async def test_a_page_that_wants_a_month(self):
        await self.assert_paused_for_a_day(showing(b"<h1>Back soon</h1>", retry_after=str(MONTH)))

    async def test_a_page_in_the_place_of_the_directory(self):
        await self.assert_paused_for_a_day(showing(b"<h1>Back soon</h1>", 502, retry_after=str(MONTH)), "dir")

    async def test_the_limit_of_a_name_is_obeyed_whatever_another_directory_says(self):
        self.evil.hooks["order"] = refusing(
            "rateLimited", "too many failures for a.test", 429, retry_after=str(2 * HOUR)
        )
        self.good.hooks["order"] = refusing("serverInternal", "oops", 500)
        orders = self.orders()
        began = self.clock.seconds()
        for minutes, times in ((0, 1), (1, 1), (60, 1), (119, 1), (121, 2), (122, 2)):
            self.clock.advance(began + 60 * minutes - self.clock.seconds())
            error = await self.fails("a.test", orders)
            # The other may be asked at any time.
            self.assertIsNone(error.retry_after)
            self.assertIn("rateLimited: too many failures for a.test", str(error))
            self.assertEqual(len(self.evil.names), times, f"after {minutes} minutes")
        self.assertEqual(len(self.good.names), 6)
        await self.fails("b.test", orders)
        self.assertEqual(self.evil.names, ["a.test", "a.test", "b.test"], "that limit is of one name")


class _Broken:
    """Has a mistake in it; not to be had at the second directory any more."""

    def __init__(self, responder, *, start=None, stop=None):
        self.challenge_type = responder.challenge_type
        self._responder = responder
        self._spoilt = {"start": start, "stop": stop}

    def start_responding(self, *what):
        spoil, self._spoilt["start"] = self._spoilt["start"], None
        return spoil() if spoil else self._responder.start_responding(*what)

    def stop_responding(self, *what):
        spoil, self._spoilt["stop"] = self._spoilt["stop"], None
        stopped = self._responder.stop_responding(*what)
        return stopped.addCallback(lambda _: spoil()) if spoil else stopped


def raising():
    """As code does that has a mistake in it."""
    raise ZeroDivisionError("not for strangers")


class MistakeTests(EvilCase):
    """What nobody has thought of."""

    def broken(self, **spoilt):
        return self.orders(wrap=lambda responder: _Broken(responder, **spoilt))

    async def test_it_is_logged_once_and_the_next_gives_it(self):
        for name, spoil in (("a.test", raising), ("b.test", lambda: fail(ZeroDivisionError()))):
            words = await self.assert_next(name, self.broken(start=spoil))
            self.assertEqual(words, "the order failed here: ZeroDivisionError")
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_where_there_is_no_next_it_fails_as_an_order_does(self):
        orders = self.orders(self.evil.directory, wrap=lambda responder: _Broken(responder, start=raising))
        error = await self.fails("a.test", orders)
        self.assertEqual(str(error), "the order failed here: ZeroDivisionError")
        self.assertIsNone(error.retry_after)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        # And nothing is paused by it.
        self.assertEqual((await self.obtain("a.test", orders)).directory, self.evil.directory)

    async def test_what_is_cancelled_has_not_failed(self):
        waiting: Deferred[None] = Deferred()
        running = self.begun("a.test", self.broken(start=lambda: waiting))
        await self.seen(lambda: self.evil.counts["authorization"])
        await self.assert_cancelled(running)

    async def test_nor_has_what_is_cancelled_while_the_server_looks(self):
        self.evil.hooks["challenge"] = lambda request, said: self.evil.stopping.wait(20)
        running = self.begun("a.test")
        await self.seen(lambda: self.evil.counts["challenge"])
        self.assertEqual(len(await self.challenges()), 1)
        await self.assert_cancelled(running)

    async def test_also_where_taking_back_the_proof_has_a_mistake(self):
        self.evil.hooks["challenge"] = lambda request, said: self.evil.stopping.wait(20)
        running = self.begun("a.test", self.broken(stop=raising))
        await self.seen(lambda: self.evil.counts["challenge"])
        running.cancel()
        await self.refused(running, CancelledError)
        self.assertEqual(self.good.counts, {})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_and_no_certificate_is_lost_by_that(self):
        obtained = await self.obtain("a.test", self.broken(stop=raising))
        self.assertEqual(obtained.directory, self.evil.directory)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def assert_cancelled(self, running):
        running.cancel()
        await self.refused(running, CancelledError)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.good.counts, {})
        self.assertEqual([line for line in self.logged if "gets no certificate" in line], [])
        self.assertEqual(await self.challenges(), ())
