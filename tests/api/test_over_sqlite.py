"""The API over the real store: what a client sees while another process holds the database."""

from __future__ import annotations

import datetime
import pathlib
import sqlite3
from typing import Any

from twisted.internet import reactor as any_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.store import Vault, open_sqlite

from ..tls.making import DAY, made
from .support import START, Api
from .test_policy import FULL as POLICY
from .test_rules import FULL

reactor: Any = any_reactor
ROUTE = {"routes": [{"id": "a.com", "target": "http://a"}]}


class OverSqliteTests(TestCase):
    def setUp(self):
        folder = pathlib.Path(self.mktemp())
        folder.mkdir(parents=True)
        self.path = folder / "proxy.sqlite"
        self.store = open_sqlite(self.path, Vault("a key"), reactor, busy_seconds=0.05)
        self.addCleanup(self.store.close)
        self.api = Api(self.store)

    async def done(self, coroutine):
        """Carry an answer that a thread has made to the client, who is in memory."""
        asked = Deferred.fromCoroutine(coroutine)
        while not asked.called:
            # Calls are taken in order: when this one is answered, so is what came before.
            await self.store.count_tokens("")
            self.api.treq.flush()
        return await asked

    def test_a_locked_store_is_503_until_it_is_free(self):
        async def check():
            await self.api.start()
            token = await self.done(self.api.login())
            other = sqlite3.connect(self.path, isolation_level=None)
            self.addCleanup(other.close)
            other.execute("BEGIN IMMEDIATE")

            def save():
                return self.done(self.api.call("PUT", "/proxy-svc/routes", ROUTE, token=token))

            reply = await save()
            self.assertEqual((reply.status, reply.error), (503, "the store is busy: try again"))
            instance = {"url": "http://10.0.0.1"}
            reply = await self.done(self.api.call("PUT", "/registry-svc/instance", instance, token=token))
            self.assertEqual(reply.status, 503)
            reply = await self.done(self.api.call("POST", "/proxy-svc/routes", token=token))
            self.assertEqual((reply.status, reply.json), (200, {"routes": []}))
            other.execute("ROLLBACK")
            reply = await save()
            self.assertEqual((reply.status, reply.json), (200, ROUTE))
            self.assertEqual(len(await self.store.routes()), 1)

        return Deferred.fromCoroutine(check())

    def test_all_fields_of_a_route_and_a_certificate_are_kept(self):
        async def check():
            await self.api.start()
            token = await self.done(self.api.login())

            async def call(method, kind, body=None):
                reply = await self.done(self.api.call(method, f"/proxy-svc/{kind}", body, token=token))
                self.assertEqual(reply.status, 200, reply.body)
                return reply.json

            entry = {"id": "/shop-svc", **POLICY}
            routes = {"routes": [entry, FULL, {"id": "b.com/x", "target": "http://b", **POLICY}]}
            self.assertEqual(await call("PUT", "routes", routes), routes)
            self.assertEqual(await call("POST", "routes"), routes)
            ids = {"ids": ["/shop-svc", "b.com/x"]}
            await self.done(self.api.call("POST", "/proxy-svc/routes/pause", ids, token=token))
            del entry["paused"]
            paused = await call("POST", "routes", ids)
            self.assertEqual(paused["routes"][0], {**entry, "paused": {"retryAfter": "1m"}})
            await self.done(self.api.call("POST", "/proxy-svc/routes/resume", ids, token=token))
            self.assertEqual((await call("POST", "routes", ids))["routes"][0], entry)
            begins = datetime.datetime.fromtimestamp(START, datetime.UTC)
            leaf = made("a.com", begins=begins, ends=begins + 30 * DAY)
            saved = await call("PUT", "certs", {"certs": [{"cert": leaf.bundle}]})
            self.assertEqual(await call("POST", "certs"), saved)
            self.assertEqual(saved["certs"][0]["cert"], leaf.chain)
            for file in self.path.parent.iterdir():
                self.assertNotIn(b"PRIVATE KEY", file.read_bytes(), file)
            await call("DELETE", "certs", {"ids": ["a.com"]})
            self.assertEqual(await call("POST", "certs"), {"certs": []})

        return Deferred.fromCoroutine(check())
