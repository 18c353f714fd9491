from __future__ import annotations

from twisted.trial.unittest import TestCase

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.testing import MemoryStore

from .issuing import IssuingContract
from .published import PublishingContract


class MemoryStoreTests(PublishingContract, IssuingContract, TestCase):
    store: MemoryStore

    def setUp(self):
        self.store = MemoryStore()

    def test_it_fails_for_as_long_as_it_is_told_to(self):
        self.store.failure = StoreUnavailable("locked")
        self.assertIs(self.failureResultOf(self.store.routes()).value, self.store.failure)
        self.store.failure = None
        self.assertEqual(self.successResultOf(self.store.routes()), ())

    def test_repr(self):
        self.assertEqual(repr(self.store), "<MemoryStore: 0 routes, 0 instances>")
