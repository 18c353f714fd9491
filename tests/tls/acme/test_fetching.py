"""What pebble never does: servers that hang, dribble, flood, and answer what is not ACME or is odd but is."""

from __future__ import annotations

import itertools
import pathlib
import time

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from onebackend_proxy.tls.acme.client import AcmeClient, Eab, trust_roots
from onebackend_proxy.tls.acme.fetching import MAX_BODY, host_of, joined
from onebackend_proxy.tls.acme.problems import Problem, Unreachable
from onebackend_proxy.tls.acme.signing import new_key

from .pebbles import reactor
from .scripted import Scripted, reply

PATIENCE = 0.4
URN = "urn:ietf:params:acme:error:"


def endless(chunk):
    """So often that nothing but the other side ends it."""
    return itertools.repeat(chunk, 10_000_000)


class ScriptedCase(TestCase):
    timeout = 30

    def start(self, answer, *, timeout=5.0, **more):
        """A client of a server that answers so."""
        self.server = Scripted(answer, **more)
        self.server.__enter__()
        self.addCleanup(self.server.__exit__)
        folder = pathlib.Path(self.mktemp())
        folder.mkdir(parents=True)
        trust = trust_roots(self.server.ca_file(folder))
        client = AcmeClient(reactor, self.server.directory, new_key(), trust=trust, timeout=timeout)
        client.account = f"{self.server.url}/account"
        self.addCleanup(client.close)
        return client

    def acme(self, **paths):
        """Answers as a directory does, and at each path as told, by a function or a list of bytes."""
        numbers = itertools.count(1)

        def answer(request):
            path = request.path.strip("/")
            if path == "dir":
                return reply(
                    {
                        "newNonce": f"{self.server.url}/nonce",
                        "newAccount": "/new-account",
                        "newOrder": "new-order",
                    }
                )
            if path == "nonce":
                return reply(replay_nonce=f"nonce{next(numbers)}")[:1]
            found = paths[path.replace("-", "_")]
            return found(request) if callable(found) else found

        return answer

    async def refused(self, coroutine, kind=Unreachable):
        error = await self.assertFailure(Deferred.fromCoroutine(coroutine), kind)
        self.assertTrue(str(error).isprintable())
        self.assertLess(len(str(error)), 2100)
        return error


class TimeTests(ScriptedCase):
    async def ends_in_time(self, answer):
        client = self.start(answer, timeout=PATIENCE)
        began = time.monotonic()
        error = await self.refused(client.directory())
        self.assertLess(time.monotonic() - began, 10 * PATIENCE)
        self.assertIn("within 0.4 seconds", str(error))
        await self.left()

    async def left(self):
        """The client has ended the connection, and nothing goes on in secret."""
        while not self.server.closed.is_set():
            await deferLater(reactor, 0.02)

    async def test_it_hangs(self):
        def answer(_request):
            while not self.server.stopping.wait(0.05):
                # Nothing on the wire until the client has gone.
                if self.server.stopping.is_set():
                    return
                yield b""
                if self.hung_up():
                    self.server.closed.set()
                    return

        await self.ends_in_time(answer)

    def hung_up(self):
        import select

        raw = self.server._sockets[0]
        return bool(raw.fileno() < 0 or select.select([raw], [], [], 0)[0])

    async def test_it_dribbles_its_head(self):
        await self.ends_in_time(lambda _: self.slowly(itertools.cycle([b"H", b"T"])))

    async def test_it_dribbles_its_body(self):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
        await self.ends_in_time(lambda _: self.slowly(itertools.chain([head], itertools.repeat(b"{"))))

    async def test_it_says_only_that_it_goes_on(self):
        await self.ends_in_time(lambda _: self.slowly(itertools.repeat(b"HTTP/1.1 102 Processing\r\n\r\n")))

    def slowly(self, chunks):
        for chunk in chunks:
            yield chunk
            if self.server.stopping.wait(0.02):
                return

    async def test_no_tls(self):
        import socket

        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        client = AcmeClient(
            reactor, f"https://localhost:{silent.getsockname()[1]}/dir", new_key(), timeout=PATIENCE
        )
        self.assertIn("within 0.4 seconds", str(await self.refused(client.directory())))

    async def test_nobody_there(self):
        client = AcmeClient(reactor, "https://localhost:1/dir", new_key())
        self.assertIn("refused", str(await self.refused(client.directory())))

    async def test_a_name_that_is_none(self):
        client = AcmeClient(reactor, "https://ca.invalid/dir", new_key())
        self.assertIn("ca.invalid", str(await self.refused(client.directory())))

    async def test_nonces_refused_slowly(self):
        def refuse(_request):
            self.server.stopping.wait(0.1)
            return reply({"type": URN + "badNonce"}, 400, "application/problem+json", replay_nonce="again")

        client = self.start(self.acme(new_order=refuse), timeout=PATIENCE)
        await self.refused(client.order(("x.com",)))

    async def test_cancelled_while_it_answers(self):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
        client = self.start(lambda _: self.slowly(itertools.chain([head], itertools.repeat(b"{"))))
        call = Deferred.fromCoroutine(client.directory())
        while not self.server.requests:
            await deferLater(reactor, 0.02)
        await deferLater(reactor, 0.05)
        call.cancel()
        await self.assertFailure(call, CancelledError)
        await self.left()


class SizeTests(ScriptedCase):
    async def ends(self, answer, words="too long"):
        client = self.start(answer)
        error = await self.refused(client.directory())
        self.assertIn(words, str(error))
        self.assertEqual(len(self.server.requests), 1)

    async def test_an_endless_body(self):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n"
        await self.ends(lambda _: itertools.chain([head], endless(b"x" * 65536)))

    async def test_an_endless_chunked_body(self):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        await self.ends(lambda _: itertools.chain([head], endless(b"1000\r\n" + b"x" * 4096 + b"\r\n")))

    async def test_an_endless_body_without_a_length(self):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
        await self.ends(lambda _: itertools.chain([head], endless(b"x" * 65536)), "end of its answer")

    async def test_an_endless_head(self):
        fields = b"".join(b"x-%d: %s\r\n" % (n, b"y" * 1000) for n in range(60))
        await self.ends(lambda _: itertools.chain([b"HTTP/1.1 200 OK\r\n"], endless(fields)))

    async def test_endless_interim_answers(self):
        await self.ends(lambda _: endless(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 100))

    async def test_what_is_long_may_be(self):
        long = {"newNonce": "/n", "newAccount": "/a", "newOrder": "/o", "more": "x" * (MAX_BODY - 1000)}
        client = self.start(lambda _: reply(long))
        self.assertTrue(await client.directory())

    async def test_one_connection_may_carry_much(self):
        long = {"type": URN + "malformed", "more": "x" * (MAX_BODY // 2)}
        refuse = reply(long, 400, "application/problem+json", replay_nonce="again")
        client = self.start(self.acme(new_order=refuse))
        for _ in range(6):
            await self.refused(client.order(("x.com",)), Problem)
        self.assertEqual({request.connection for request in self.server.requests}, {1})


class NonsenseTests(ScriptedCase):
    async def directory_fails(self, answer):
        client = self.start(lambda _: answer)
        return str(await self.refused(client.directory()))

    async def test_no_http(self):
        await self.directory_fails([b"SSH-2.0-OpenSSH_9.2\r\n\r\n\x00\xff\r\n"])

    async def test_no_json(self):
        self.assertIn("no JSON object", await self.directory_fails(reply(b"{")))
        self.assertIn("no JSON object", await self.directory_fails(reply(b"\xff\xfe")))
        self.assertIn("no JSON object", await self.directory_fails(reply(b"[" * 100_000)))
        self.assertIn("no JSON object", await self.directory_fails(reply([])))
        self.assertIn("no JSON object", await self.directory_fails(reply(b"1" * 10_000)))

    async def test_a_page_for_people(self):
        self.assertIn("text/html", await self.directory_fails(reply(b"<p>Hi", type="text/html")))

    async def test_no_directory(self):
        await self.directory_fails(reply({}))
        await self.directory_fails(reply({"newNonce": 1, "newAccount": "/a", "newOrder": "/o"}))
        await self.directory_fails(reply({"newNonce": "http://x.com/", "newAccount": "/a", "newOrder": "/o"}))

    async def test_redirects_are_not_followed(self):
        said = await self.directory_fails(reply(status=302, location="/elsewhere"))
        self.assertIn("redirect (302)", said)
        self.assertEqual(len(self.server.requests), 1)

    async def test_closed_without_an_answer(self):
        def answer(_request):
            raise OSError

        client = self.start(answer)
        await self.refused(client.directory())

    async def test_torn_answers(self):
        def answer(_request):
            yield b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
            raise OSError

        client = self.start(answer)
        await self.refused(client.directory())

    async def test_another_s_certificate(self):
        client = self.start(lambda _: reply({}), name="other.example")
        await self.refused(client.directory())
        self.assertEqual(self.server.requests, [])

    async def test_busy_in_nobody_s_words(self):
        client = self.start(lambda _: reply(b"<p>Busy", 503, "text/html", retry_after="120"))
        error = await self.refused(client.directory())
        self.assertEqual(error.retry_after, 120.0)
        self.assertIn("503", str(error))

    async def test_busy_in_its_own_words(self):
        said = {"type": URN + "rateLimited", "detail": "Service busy; retry later."}
        client = self.start(lambda _: reply(said, 503, "application/problem+json", retry_after="120"))
        error = await self.refused(client.directory(), Problem)
        self.assertEqual((error.type, error.status_code, error.retry_after), ("rateLimited", 503, 120.0))

    async def test_a_nonce_that_is_none(self):
        def answer(request):
            if request.path == "/dir":
                return reply({"newNonce": "/nonce", "newAccount": "/a", "newOrder": "/o"})
            return reply(replay_nonce='"} \\ x')[:1]

        client = self.start(answer)
        self.assertIn("no nonce", str(await self.refused(client.order(("x.com",)))))


ORDER = {"status": "pending", "identifiers": [], "authorizations": ["authz/1"], "finalize": "/f"}


class OddTests(ScriptedCase):
    """Unusual, and right."""

    async def test_relative_urls_and_fields_in_capitals(self):
        answer = reply(ORDER, 201, "Application/JSON; charset=UTF-8", LOCATION="orders/7", REPLAY_NONCE="n")
        order = await self.start(self.acme(new_order=answer)).order(("x.com",))
        self.assertEqual(order.url, f"{self.server.url}/orders/7")
        self.assertEqual(order.authorizations, (f"{self.server.url}/authz/1",))
        self.assertEqual(order.finalize, f"{self.server.url}/f")

    async def test_what_is_sent(self):
        client = self.start(self.acme(new_order=reply(ORDER, 201, location="/o/1")))
        await client.order(("x.com", "2001:db8::1"), profile="shortlived", replaces="abc.def")
        request = self.server.requests[-1]
        self.assertEqual(request.headers["content-type"], "application/jose+json")
        self.assertRegex(request.headers["user-agent"], r"\Aonebackend-proxy/[0-9]")
        self.assertEqual(
            request.protected,
            {"alg": "ES256", "nonce": "nonce1", "url": f"{self.server.url}/new-order", "kid": client.account},
        )
        self.assertEqual(
            request.payload,
            {
                "identifiers": [{"type": "dns", "value": "x.com"}, {"type": "ip", "value": "2001:db8::1"}],
                "profile": "shortlived",
                "replaces": "abc.def",
            },
        )

    async def test_a_challenge_is_answered_with_nothing_but_braces(self):
        client = self.start(self.acme(challenge=reply({"status": "pending"})))
        await client.answer(f"{self.server.url}/challenge")
        self.assertEqual(self.server.requests[-1].payload, {})
        await client.answer(f"{self.server.url}/challenge")
        self.assertEqual(self.server.requests[-1].path, "/challenge")

    async def test_a_nonce_goes_back_as_it_came(self):
        # Decoded and encoded again, it would be another.
        refuse = reply({"type": URN + "badNonce"}, 400, "application/problem+json", replay_nonce="abcdefF")
        answers = iter([refuse, reply(ORDER, 201, location="/o/1")])
        client = self.start(self.acme(new_order=lambda _: next(answers)))
        await client.order(("x.com",))
        self.assertEqual(self.server.requests[-1].protected["nonce"], "abcdefF")
        self.assertEqual([request.path for request in self.server.requests].count("/nonce"), 1)

    async def test_an_order_may_be_anything_once_it_is_finalized(self):
        for status in ("processing", "ready", "valid", "invalid"):
            done = {**ORDER, "status": status, "certificate": "/c"}
            client = self.start(self.acme(new_order=reply(ORDER, 201, location="/o/1"), f=reply(done)))
            order = await client.order(("x.com",))
            done = await client.finalize(order, b"csr")
            self.assertEqual((done.status, done.url), (status, order.url))

    async def test_an_order_of_an_unknown_status(self):
        client = self.start(self.acme(new_order=reply({**ORDER, "status": "lost"}, 201, location="/o/1")))
        self.assertIn("unknown status: lost", str(await self.refused(client.order(("x.com",)))))

    async def test_an_order_without_a_place(self):
        client = self.start(self.acme(new_order=reply(ORDER, 201)))
        await self.refused(client.order(("x.com",)))

    async def test_an_order_that_failed_says_why(self):
        failed = {**ORDER, "status": "invalid", "error": {"type": URN + "dns", "detail": "NXDOMAIN"}}
        client = self.start(self.acme(o=reply(failed)))
        order = await client.read_order(f"{self.server.url}/o")
        self.assertEqual(str(order.problem), "dns: NXDOMAIN")

    async def test_an_account_that_was_deactivated(self):
        client = self.start(self.acme(new_account=reply({"status": "deactivated"}, 200, location="/a/1")))
        self.assertIn("deactivated", str(await self.refused(client.register(()), Problem)))

    async def test_a_problem_that_does_not_say_that_it_is_one(self):
        client = self.start(self.acme(new_order=reply({"type": URN + "unauthorized"}, 403)))
        self.assertEqual((await self.refused(client.order(("x.com",)), Problem)).type, "unauthorized")

    def bound(self, known):
        """A client of a directory that demands a binding."""

        def new_account(request):
            if "onlyReturnExisting" in request.payload and not known:
                return reply({"type": URN + "accountDoesNotExist"}, 400, "application/problem+json")
            return reply({"status": "valid"}, 201, location="/a/1")

        urls = {"newNonce": "/nonce", "newAccount": "/new-account", "newOrder": "/o"}
        directory = reply({**urls, "meta": {"externalAccountRequired": True}})
        answer = self.acme(new_account=new_account)
        return self.start(lambda request: directory if request.path == "/dir" else answer(request))

    async def test_a_bound_account_is_looked_for_first(self):
        for known in (True, False):
            client = self.bound(known)
            self.assertEqual(await client.register((), Eab("kid", "c2VjcmV0")), f"{self.server.url}/a/1")
            posted = [request.payload for request in self.server.requests if request.method == "POST"]
            self.assertEqual(posted[0], {"onlyReturnExisting": True})
            self.assertEqual(
                ["externalAccountBinding" in each for each in posted[1:]], [] if known else [True]
            )

    async def test_the_newest_nonce_goes_first(self):
        numbers = itertools.count(1)

        def answer(_request):
            return reply(ORDER, 201, location="/o/1", replay_nonce=f"from-order-{next(numbers)}")

        client = self.start(self.acme(new_order=answer))
        await gatherResults([Deferred.fromCoroutine(client.order(("x.com",))) for _ in range(3)])
        given = set(client._nonces)
        newest = client._nonces[-1]
        self.assertEqual(given, {"from-order-1", "from-order-2", "from-order-3"})
        await client.order(("x.com",))
        self.assertEqual(self.server.requests[-1].protected["nonce"], newest)

    async def test_the_directory_is_asked_for_once(self):
        client = self.start(self.acme())
        await client.directory()
        await client.directory()
        self.assertEqual(len(self.server.requests), 1)

    async def test_a_kept_connection_that_is_gone_is_no_failure(self):
        def close(_request):
            yield from reply(ORDER, 201, location="/o/1", replay_nonce="n")
            raise OSError

        client = self.start(self.acme(new_order=close))
        for _ in range(3):
            await client.order(("x.com",))


class UrlTests(SynchronousTestCase):
    def test_only_https(self):
        for url in (
            "",
            "http://x.com/",
            "//x.com/",
            "https://",
            "https:///path",
            "https://me:secret@x.com/",
            "https://x.com:0/",
            "https://x.com:99999/",
            "https://[::1/",
            "https://x.com/a b",
            "https://x.com/\r\nx",
            "https://ü.com/",
            "https://x.com/" + "a" * 3000,
            "file:///etc/passwd",
        ):
            error = self.assertRaises(Unreachable, host_of, url)
            self.assertNotIn("secret", str(error))

    def test_hosts(self):
        self.assertEqual(host_of("https://X.com:8443/dir?a=b"), "x.com")
        self.assertEqual(host_of("https://[::1]:8443/dir"), "::1")

    def test_joined(self):
        base = "https://x.com/acme/new-order"
        self.assertEqual(joined(base, "1"), "https://x.com/acme/1")
        self.assertEqual(joined(base, "/1"), "https://x.com/1")
        self.assertEqual(joined(base, "https://y.com/1"), "https://y.com/1")
        for url in (None, "", 5, ["/"], "http://x.com/", "https://[", "data:text/plain,x"):
            self.assertRaises(Unreachable, joined, base, url)
