"""Orders at a server of the tests' own, for what pebble cannot do: limits, and orders that take long."""

from __future__ import annotations

import base64
import itertools
import pathlib
from typing import Any

from cryptography import x509
from twisted.internet.task import deferLater

from onebackend_proxy.tls.acme import orders as orders_module
from onebackend_proxy.tls.acme.orders import NoCertificate
from onebackend_proxy.tls.challenges import HTTP_01
from tests.e2e.waiting import free_port

from ..making import made
from .ordering import OrdersCase, kept
from .pebbles import reactor
from .scripted import Scripted, reply

URN = "urn:ietf:params:acme:error:"


class OwnServerCase(OrdersCase):
    """A server of the test's own, for what pebble cannot do."""

    def limited(self, *answers):
        """A server that says these to new orders, one after the other, the last again and again."""
        numbers = itertools.count()
        left = list(answers)

        def answer(request):
            nonce: Any = {"replay_nonce": f"nonce{next(numbers)}"}
            if request.path == "/dir":
                return reply({"newNonce": "/nonce", "newAccount": "/account", "newOrder": "/order"})
            if request.path == "/account":
                return reply({"status": "valid"}, 201, location="/account/1", **nonce)
            if request.path == "/order":
                status, document, fields = left.pop(0) if len(left) > 1 else left[0]
                kind = "application/problem+json" if isinstance(document, dict) else "text/html"
                return reply(document, status, kind, **fields, **nonce)
            return reply(**nonce)[:1]

        self.server = Scripted(answer)
        self.server.__enter__()
        self.addCleanup(self.server.__exit__)
        return self.server

    def at(self, server, *more, **options):
        """Orders there, and then at these."""
        folder = pathlib.Path(self.mktemp())
        folder.mkdir(parents=True)
        return self.orders(server.directory, *more, ca_file=server.ca_file(folder), **options)

    def orders_asked(self):
        return [
            request.payload["identifiers"][0]["value"]
            for request in self.server.requests
            if request.path == "/order"
        ]

    def limit(self, detail, seconds=3600, status=429, type="rateLimited", **more):
        document = {"type": URN + type, "detail": detail, **more}
        return status, document, {"retry_after": str(seconds)}

    async def fails(self, orders, name):
        return await self.refused(self.obtain(name, orders), NoCertificate)


class LimitsTests(OwnServerCase):
    """Whom a limit is about, and how it is obeyed."""

    async def assert_others_may(self, *answers):
        orders = self.at(self.limited(*answers))
        error = await self.fails(orders, "a.x.test")
        self.assertEqual(error.retry_after, 3600)
        await self.fails(orders, "b.y.test")
        self.assertEqual(self.orders_asked(), ["a.x.test", "b.y.test"])
        return error

    async def assert_nobody_may(self, *answers):
        orders = self.at(self.limited(*answers))
        error = await self.fails(orders, "a.x.test")
        asked = len(self.server.requests)
        again = await self.fails(orders, "b.y.test")
        self.assertEqual(len(self.server.requests), asked)
        self.assertEqual(str(again), str(error))
        self.assertTrue(3590 < again.retry_after <= 3600)
        return error

    async def test_the_limit_of_a_name_or_its_domain_is_its_own(self):
        for detail in (
            'too many failed authorizations (5) for "a.x.test" in the last 1h0m0s',
            'too many certificates (50) already issued for "x.test" in the last 168h0m0s, retry after 2026',
            "too many certificates (5) already issued for this exact set of identifiers: a.x.test",
        ):
            error = await self.assert_others_may(self.limit(detail))
            self.assertIn(f"rateLimited: {detail}", str(error))

    async def test_also_where_only_a_part_of_the_problem_names_it(self):
        parts = [{"type": URN + "rateLimited", "identifier": {"type": "dns", "value": "x.test"}}]
        await self.assert_others_may(self.limit("there is a limit", subproblems=parts))

    async def test_the_limit_of_the_account_is_for_all(self):
        detail = "too many new orders (300) from this account in the last 3h0m0s"
        error = await self.assert_nobody_may(self.limit(detail))
        self.assertEqual(str(error), f"rateLimited: {detail}")

    async def test_one_that_is_busy_is_left_alone(self):
        await self.assert_nobody_may(
            self.limit("The service is down for maintenance", status=503, type="serverInternal")
        )

    async def test_also_where_that_is_in_nobodys_words(self):
        error = await self.assert_nobody_may((503, b"<h1>back soon</h1>", {"retry_after": "3600"}))
        self.assertIn("status 503", str(error))

    async def test_one_that_is_busy_and_does_not_say_for_how_long_is_asked_again(self):
        orders = self.at(self.limited((503, b"<h1>what?</h1>", {})))
        for name in ("a.x.test", "b.y.test"):
            self.assertIsNone((await self.fails(orders, name)).retry_after)
        self.assertEqual(self.orders_asked(), ["a.x.test", "b.y.test"])

    async def test_a_mistake_that_says_when_is_of_this_name_only(self):
        detail = "the server made a mistake"
        await self.assert_others_may(self.limit(detail, status=500, type="serverInternal"))

    async def test_when_the_time_has_come_it_is_asked(self):
        orders = self.at(self.limited(self.limit("this account: too many", seconds=1)))
        await self.fails(orders, "a.x.test")
        await self.fails(orders, "b.y.test")
        await deferLater(reactor, 1.1)
        await self.fails(orders, "c.z.test")
        self.assertEqual(self.orders_asked(), ["a.x.test", "c.z.test"])

    async def test_a_clock_that_was_ahead_does_not_leave_it_alone_for_longer(self):
        orders = self.at(self.limited(self.limit("this account: too many")))
        seconds = reactor.seconds
        ahead = self.patch(reactor, "seconds", lambda: seconds() + 365 * 86400)
        await self.fails(orders, "a.x.test")
        ahead.restore()
        await self.fails(orders, "b.y.test")
        self.assertEqual(self.orders_asked(), ["a.x.test", "b.y.test"])

    async def test_meanwhile_the_next_one_gives_it(self):
        server = self.limited(self.limit("this account: too many"))
        # All that tests trust is by one root.
        orders = self.at(server, self.pebble.directory)
        for name in ("a.test", "b.test"):
            self.assertEqual((await self.obtain(name, orders)).directory, self.pebble.directory)
        self.assertEqual(self.orders_asked(), ["a.test"])

    async def test_when_to_try_again_is_known_where_all_have_said_it(self):
        server = self.limited(self.limit("this account: too many"))
        down = f"https://localhost:{free_port()}/dir"
        error = await self.fails(self.at(server, down), "a.test")
        self.assertIsNone(error.retry_after, "the other may work at any time")
        self.assertEqual(error.directory, down)

    async def test_a_limit_that_the_second_kind_meets_hides_no_words_of_the_first(self):
        """The first kind failed, and that was one failure too many."""
        detail = 'too many failed authorizations (5) for "a.x.test" in the last 1h0m0s'
        ready: Any = (201, b"", {})
        server = self.limited(ready)
        order, authorization = self.failing_order(server)
        replies = iter([order, self.limit(detail)])
        answer = server._answer

        def scripted(request):
            if request.path == "/order":
                status, document, fields = next(replies)
                kind = "application/json" if status == 201 else "application/problem+json"
                return reply(document, status, kind, replay_nonce=f"x{request.number}", **fields)
            if request.path == "/authorization":
                return reply(authorization, replay_nonce=f"x{request.number}")
            if request.path == "/challenge":
                authorization["status"] = "invalid"
                authorization["challenges"][0]["status"] = "invalid"
                return reply({}, replay_nonce=f"x{request.number}")
            return answer(request)

        server._answer = scripted
        error = await self.fails(self.at(server), "a.x.test")
        self.assertEqual(
            str(error), f"http-01: unauthorized: the file says something else; rateLimited: {detail}"
        )
        self.assertEqual(error.retry_after, 3600)

    def failing_order(self, server):
        order = {"status": "pending", "authorizations": ["/authorization"], "finalize": "/finalize"}
        challenge = {
            "type": HTTP_01,
            "url": f"{server.url}/challenge",
            "token": "t" * 43,
            "status": "pending",
            "error": {"type": URN + "unauthorized", "detail": "the file says something else"},
        }
        authorization = {
            "status": "pending",
            "identifier": {"type": "dns", "value": "a.x.test"},
            "challenges": [challenge],
        }
        return (201, order, {"location": "/order/1"}), authorization


class PatienceTests(OwnServerCase):
    """An order that takes its time."""

    def slow(self, *states):
        """A server whose order is ready at once, and after that in these states, with these waits."""
        server = self.limited((201, b"", {}))
        answer = server._answer
        left = list(states)
        certificate: list[bytes] = []

        def scripted(request):
            nonce = {"replay_nonce": f"x{request.number}"}
            if request.path in ("/order", "/order/1", "/finalize"):
                status, wait = ("ready", None) if request.path == "/order" else left.pop(0)
                order: Any = {"status": status, "authorizations": [], "finalize": "/finalize"}
                if status == "valid":
                    order["certificate"] = "/certificate"
                if request.path == "/finalize":
                    certificate.append(self.issue(request.payload["csr"]))
                fields = {} if wait is None else {"retry_after": str(wait)}
                return reply(order, 201, location="/order/1", **fields, **nonce)
            if request.path == "/certificate":
                return reply(certificate[0], 200, "application/pem-certificate-chain", **nonce)
            return answer(request)

        server._answer = scripted
        return server

    def issue(self, csr):
        request = x509.load_der_x509_csr(base64.urlsafe_b64decode(csr + "=" * (-len(csr) % 4)))

        class Key:
            def public_key(self):
                return request.public_key()

        return made("a.test", key=Key()).chain.encode()

    async def test_it_is_looked_at_when_the_authority_says(self):
        early = len(orders_module.FIRST_LOOKS)
        server = self.slow(*[("processing", 1)] * (early + 1), ("valid", None))
        began = reactor.seconds()
        obtained = await self.obtain("a.test", self.at(server))
        self.assertEqual(kept(obtained, "a.test").names, ("a.test",))
        self.assertGreaterEqual(reactor.seconds() - began, 1.0)

    async def test_a_long_wait_ends_when_we_would_give_up(self):
        self.patch(orders_module, "ORDER_SECONDS", 1.0)
        server = self.slow(*[("processing", 3600)] * 3, ("valid", None))
        await self.obtain("a.test", self.at(server))

    async def test_and_then_we_do(self):
        self.patch(orders_module, "ORDER_SECONDS", 1.0)
        server = self.slow(("processing", None), *[("processing", 3600)] * 9)
        began = reactor.seconds()
        error = await self.refused(self.obtain("a.test", self.at(server)), NoCertificate)
        self.assertIn("the authority was not done after 1 s", str(error))
        self.assertGreaterEqual(reactor.seconds() - began, 1.0)
        self.assertLess(reactor.seconds() - began, 5.0)

    async def test_an_order_that_fails_in_the_end(self):
        server = self.slow(("processing", None), ("invalid", None))
        error = await self.refused(self.obtain("a.test", self.at(server)), NoCertificate)
        self.assertEqual(str(error), "it is invalid, and nobody says why")
