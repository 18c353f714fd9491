"""The store as txacme sees one: PEM objects by name, checked before they are kept."""

from __future__ import annotations

import datetime

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from txacme.interfaces import ICertificateStore

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.testing import MemoryStore
from onebackend_proxy.tls.acme.stored import StoredCertificates, pem_objects

from ..making import made, now

DIRECTORY = "https://ca.test/dir"


class StoredTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.advance(now().timestamp())
        self.store = MemoryStore()
        self.stored = StoredCertificates(self.store, self.clock)

    def save(self, name, leaf, **more):
        return self.stored.store(name, pem_objects(leaf.bundle), **more)

    def text(self, objects):
        return b"".join(each.as_bytes() for each in objects).decode()

    def test_it_is_what_txacme_wants(self):
        # Its own signatures have a `self`, so that nothing can be verified by them.
        self.assertTrue(ICertificateStore.providedBy(self.stored))
        self.assertIn("StoredCertificates", repr(self.stored))

    def test_what_is_stored_is_found(self):
        leaf = made("a.test", "b.test")
        self.successResultOf(self.save("b.test", leaf, directory=DIRECTORY))
        objects = self.successResultOf(self.stored.get("b.test"))
        self.assertEqual(self.text(objects), leaf.bundle)
        self.assertEqual(len(objects), 3)
        kept = self.successResultOf(self.store.certificate("b.test"))
        assert kept is not None
        self.assertEqual((kept.id, kept.directory), ("b.test", DIRECTORY))
        self.assertEqual(kept.updated_at.timestamp(), self.clock.seconds())
        self.assertEqual(kept.private_key + kept.chain, leaf.bundle)

    def test_all_that_are(self):
        leaves = {name: made(name) for name in ("a.test", "b.test")}
        for name, leaf in leaves.items():
            self.successResultOf(self.save(name, leaf))
        found = self.successResultOf(self.stored.as_dict())
        self.assertEqual(
            {name: self.text(objects) for name, objects in found.items()},
            {name: leaf.bundle for name, leaf in leaves.items()},
        )

    def test_what_is_not_there(self):
        self.failureResultOf(self.stored.get("a.test"), KeyError)
        self.assertEqual(self.successResultOf(self.stored.as_dict()), {})

    def test_what_no_client_would_take_is_refused_and_nothing_replaced(self):
        good = made("a.test")
        self.successResultOf(self.save("a.test", good))
        day = datetime.timedelta(days=1)
        expired = made("a.test", begins=now() - 2 * day, ends=now() - day)
        for bad, words in ((made("b.test"), "is not for a.test, but for b.test"), (expired, "expired")):
            error = self.failureResultOf(self.save("a.test", bad), ValueError).value
            self.assertIn(words, str(error))
        for part in (good.chain, good.key_pem, good.key_pem + made("a.test").chain, ""):
            self.failureResultOf(self.stored.store("a.test", pem_objects(part)), ValueError)
        self.assertEqual(self.text(self.successResultOf(self.stored.get("a.test"))), good.bundle)

    def test_a_store_that_fails(self):
        self.store.failure = StoreUnavailable("the store is full")
        self.failureResultOf(self.save("a.test", made("a.test")), StoreUnavailable)
