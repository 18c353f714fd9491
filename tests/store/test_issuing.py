"""Leases, budgets and challenges, in any order of calls: the database says what the memory store says."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import defer
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.records import Challenge, Issuance
from onebackend_proxy.store import Vault, schema
from onebackend_proxy.store.engine import make_engine
from onebackend_proxy.store.statements import Statements
from onebackend_proxy.testing import MemoryStore

from ..properties import PROPERTY
from .issuing import after

NAMES = st.sampled_from(["a.com", "b.com", "c.com"])
HOLDERS = st.sampled_from(["one", "two"])
TIMES = st.integers(0, 8).map(after)
CHALLENGES = st.builds(
    Challenge,
    st.sampled_from(["http-01", "tls-alpn-01"]),
    NAMES,
    st.just("token"),
    st.text(max_size=3),
    TIMES,
)


def a_call(name, *arguments):
    return st.tuples(st.just(name), st.tuples(*arguments))


CALLS = st.lists(
    st.one_of(
        a_call("claim_issuance", NAMES, HOLDERS, TIMES, TIMES),
        a_call("release_issuance", st.builds(Issuance, NAMES, st.integers(0, 2)), HOLDERS),
        a_call("delete_issuances", st.lists(NAMES, max_size=3)),
        a_call("issuances"),
        a_call("spend_order", st.sampled_from(["com", "org"]), NAMES, TIMES, TIMES, st.integers(0, 3)),
        a_call("ordered", st.sampled_from(["com", "org"]), TIMES),
        a_call("challenges", TIMES),
        a_call("save_challenge", CHALLENGES, TIMES),
        a_call("delete_challenge", CHALLENGES),
    ),
    max_size=30,
)


class AtOnce(Statements):
    """What the statements say, in transactions of this thread."""

    def __init__(self, engine):
        super().__init__(Vault("a key"))
        self.engine = engine

    def _write(self, work):
        with self.engine.execution_options(writes=True).begin() as connection:
            return defer.succeed(work(connection))

    _read = _write


class IssuingTests(SynchronousTestCase):
    def setUp(self):
        engine = make_engine(":memory:", 0.1)  # type: ignore[arg-type]
        self.addCleanup(engine.dispose)
        with engine.execution_options(writes=True).begin() as connection:
            schema.metadata.create_all(connection)
        self.database = AtOnce(engine)

    def forget_all(self):
        with self.database.engine.execution_options(writes=True).begin() as connection:
            for table in (schema.issuances, schema.orders, schema.challenges):
                connection.execute(table.delete())

    @PROPERTY
    @given(CALLS)
    def test_both_stores_say_the_same(self, calls):
        self.forget_all()
        memory = MemoryStore()
        for name, arguments in calls:
            said, expected = (
                self.successResultOf(getattr(store, name)(*arguments)) for store in (self.database, memory)
            )
            self.assertEqual(said, expected, (name, arguments))

    @PROPERTY
    @given(st.lists(st.tuples(NAMES, HOLDERS, st.integers(0, 3), st.integers(1, 9)), max_size=40))
    def test_no_two_hold_a_lease_that_has_not_run_out(self, claims):
        self.forget_all()
        now = 0
        leases: dict[str, tuple[str, int]] = {}
        for name, holder, pause, length in claims:
            now += pause
            claim = self.database.claim_issuance(name, holder, after(now), after(now + length))
            other, end = leases.get(name, (holder, 0))
            free = other == holder or end <= now
            self.assertEqual(self.successResultOf(claim), Issuance(name) if free else None)
            if free:
                leases[name] = holder, now + length

    @PROPERTY
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=40), st.integers(1, 4))
    def test_never_more_names_than_the_most_within_one_window(self, orders, most):
        self.forget_all()
        window = datetime.timedelta(seconds=10)
        now, made = after(0), []
        for number, pause in orders:
            now += datetime.timedelta(seconds=pause)
            spend = self.database.spend_order("com", f"{number}.com", now, now - window, most)
            oldest = self.successResultOf(spend)
            if oldest is None:
                made.append((now, number))
            else:
                # That is how long to wait.
                self.assertTrue(now - window < oldest <= now)
            self.assertLessEqual(len({each for at, each in made if at > now - window}), most)
