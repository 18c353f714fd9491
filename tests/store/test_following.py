"""Following one SQLite file: what other processes change, in what order, and what happens in trouble."""

from __future__ import annotations

import re
import threading
from typing import Any

import attrs
import sqlalchemy as sa
from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.records import Redirect, Route
from onebackend_proxy.store import Vault, open_sqlite, publishing, schema

from .contract import NOW, an_instance, failure_of
from .issuing import A_CHALLENGE, FULL_ISSUANCE
from .published import FULL_ROUTE, Followed, a_certificate
from .test_sqlite import Base, reactor


class PollingReactor(Clock):
    """Polls when it is told to; the thread's results come when they come."""

    callFromThread = staticmethod(reactor.callFromThread)


def a_route(name: str, target: str = "http://a") -> Route:
    return Route(f"{name}.com", target)


def ids(records: Any) -> list[str]:
    return sorted(record.id for record in records)


class FollowingTests(Followed, Base):
    def setUp(self):
        super().setUp()
        self.clock = PollingReactor()
        self.store = self.open_with(self.clock)
        self.other = self.open_with(PollingReactor())
        self.said: list[str] = []

    def open_with(self, clock, **options):
        options = {"busy_seconds": 0.05, **options}
        store = open_sqlite(self.path, Vault("a key"), clock, **options)
        self.addCleanup(store.close)
        return store

    async def poll(self):
        """Let the next look begin, and end."""
        self.clock.advance(0.5)
        await self.store._read(lambda connection: None)

    def record_statements(self):
        @sa.event.listens_for(self.store._engine, "before_cursor_execute")
        def record(_connection, _cursor, statement, *_rest):
            self.said.append(statement)

    def read_of(self, table):
        return [
            statement for statement in self.said if re.match(rf"SELECT .*FROM {table}\b", statement, re.S)
        ]

    def test_nobody_looks_before_somebody_follows(self):
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_another_process_changes(self):
        async def check():
            await self.store.save_routes([a_route("a"), a_route("b")])
            heard = await self.heard()
            await self.poll()
            self.assertEqual(len(heard), 1)
            for change in (
                lambda: self.other.save_routes([a_route("c"), FULL_ROUTE, a_route("a", "http://new")]),
                lambda: self.other.delete_routes(["b.com"]),
                lambda: self.other.save_redirects([Redirect("a.com", "/x")]),
                lambda: self.other.save_instance(an_instance()),
                lambda: self.other.save_certificates([a_certificate()]),
                lambda: self.other.delete_certificates(["cert-1"]),
            ):
                await change()
                await self.poll()
                await self.assert_published(heard[-1])
            self.assertEqual(len(heard), 7)
            await self.poll()
            self.assertEqual(len(heard), 7)

        return self.run_async(check())

    def test_only_what_changed_is_read(self):
        async def check():
            await self.store.save_routes([a_route("a"), a_route("b")])
            heard = await self.heard()
            self.record_statements()
            await self.store.save_routes([a_route("mine")])
            await self.poll()
            self.assertEqual(self.read_of("routes"), [])
            await self.other.save_instance(an_instance())
            await self.poll()
            self.assertEqual(self.read_of("routes"), [])
            self.assertEqual(len(self.read_of("instances")), 1)
            self.assertIs(heard[-1].routes, heard[-2].routes)
            await self.other.save_routes([a_route("c")])
            await self.poll()
            [statement] = self.read_of("routes")
            self.assertIn("routes.id IN", statement)
            self.assertIs(heard[-1].instances, heard[-2].instances)
            self.assertEqual(len(heard[-1].routes), 4)

        return self.run_async(check())

    def test_orders_of_another_process_are_nobodys_news(self):
        async def check():
            heard = await self.heard()
            await self.other.claim_issuance("full.com", "one", NOW, NOW)
            await self.other.release_issuance(FULL_ISSUANCE, "one")
            await self.other.spend_order("com", "full.com", NOW, NOW, 1)
            await self.other.save_challenge(A_CHALLENGE, NOW)
            await self.poll()
            self.assertEqual(len(heard), 1)
            count = sa.select(sa.func.count()).select_from(schema.journal)
            self.assertEqual(await self.store._read(lambda connection: connection.scalar(count)), 0)

        return self.run_async(check())

    def test_nothing_is_read_while_nothing_changes(self):
        async def check():
            await self.heard()
            self.record_statements()
            for _ in range(3):
                await self.poll()
            self.assertEqual(set(self.said) - {"BEGIN"}, {"PRAGMA data_version"})
            # Another's change that is not published costs a look at the journal.
            await self.other.create_secret("key", b"value")
            for _ in range(3):
                await self.poll()
            self.assertEqual(len(self.read_of("journal")), 1)

        return self.run_async(check())

    def test_a_change_of_ours_comes_with_those_we_had_not_heard_of(self):
        async def check():
            heard = await self.heard()
            await self.other.save_routes([a_route("theirs"), a_route("both", "http://theirs")])
            await self.other.save_instance(an_instance())
            await self.store.save_routes([a_route("ours"), a_route("both", "http://ours")])
            self.assertEqual(len(heard), 2)
            self.assertEqual(ids(heard[-1].routes), ["both.com", "ours.com", "theirs.com"])
            await self.assert_published(heard[-1])
            await self.poll()
            self.assertEqual(len(heard), 2)
            await self.other.delete_routes(["theirs.com"])
            await self.store.save_redirects([Redirect("a.com", "/x")])
            await self.assert_published(heard[-1])

        return self.run_async(check())

    def test_more_changes_than_have_an_entry_each(self):
        self.patch(publishing, "MAX_ENTRIES", 3)

        async def check():
            heard = await self.heard()
            self.record_statements()
            await self.other.save_routes([a_route(str(n)) for n in range(3)])
            await self.poll()
            self.assertIn("IN", self.read_of("routes")[-1])
            await self.other.delete_routes(["0.com"])
            await self.other.save_routes([a_route(str(n)) for n in range(10, 14)])
            await self.poll()
            self.assertNotIn("IN", self.read_of("routes")[-1])
            self.assertEqual(self.read_of("instances"), [])
            await self.assert_published(heard[-1])

        return self.run_async(check())

    def test_more_changes_than_the_journal_has(self):
        self.patch(publishing, "JOURNAL", 5)

        async def check():
            heard = await self.heard()
            for number in range(9):
                await self.other.save_routes([a_route(str(number))])
            await self.other.delete_routes(["0.com"])
            kept = await self.store._read(
                lambda connection: connection.exec_driver_sql("SELECT number FROM journal").scalars().all()
            )
            self.assertEqual(sorted(kept), [6, 7, 8, 9, 10])
            await self.poll()
            self.assertEqual(len(heard), 2)
            await self.assert_published(heard[-1])
            await self.store.save_routes([a_route("mine")])
            await self.assert_published(heard[-1])

        return self.run_async(check())

    def test_while_another_holds_the_lock(self):
        async def check():
            other = self.other_connection()
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO routes (id, target) VALUES ('half.com', 'x')")
            heard = await self.heard()
            await self.poll()
            await failure_of(StoreUnavailable, self.store.save_routes([a_route("a")]))
            await self.poll()
            self.assertEqual(len(heard), 1)
            other.execute("ROLLBACK")
            await self.store.save_routes([a_route("a")])
            self.assertEqual(ids(heard[-1].routes), ["a.com"])

        return self.run_async(check())

    def test_a_store_that_cannot_be_read_is_told_once_and_tried_again(self):
        async def check():
            heard = await self.heard()
            other = self.other_connection()
            other.execute("ALTER TABLE journal RENAME TO elsewhere")
            for _ in range(3):
                await self.poll()
            self.assertEqual(len(self.flushLoggedErrors(StoreUnavailable)), 1)
            self.assertEqual(len(heard), 1)
            other.execute("ALTER TABLE elsewhere RENAME TO journal")
            await self.other.save_routes([a_route("a")])
            with capturedLogs() as logs:
                for _ in range(2):
                    await self.poll()
            said = [log["log_format"] for log in logs if "store" in log.get("log_format", "")]
            self.assertEqual(said, ["the store can be read again"])
            self.assertEqual(ids(heard[-1].routes), ["a.com"])

        return self.run_async(check())

    def test_a_commit_that_fails_may_have_happened(self):
        async def check():
            heard = await self.heard()
            transact = self.store._transact

            def happened(*arguments):
                transact(*arguments)
                raise StoreUnavailable("the disk is gone")

            self.patch(self.store, "_transact", happened)
            await failure_of(StoreUnavailable, self.store.save_routes([a_route("a")]))
            self.assertEqual(len(heard), 1)
            self.patch(self.store, "_transact", transact)
            await self.poll()
            self.assertEqual(ids(heard[-1].routes), ["a.com"])

        return self.run_async(check())

    def test_a_connection_that_is_another_now(self):
        async def check():
            # SQLite counts from the same number in each connection.
            for number in range(3):
                heard = await self.heard()
                await self.store._start(self.store._engine.dispose)
                await self.other.save_routes([a_route(str(number))])
                await self.poll()
                self.assertEqual(len(heard[-1].routes), number + 1)

        return self.run_async(check())

    def test_looks_do_not_pile_up_behind_a_slow_store(self):
        async def check():
            heard = await self.heard()
            go = threading.Event()
            slow = self.store._read(lambda _connection: go.wait(20))
            for _ in range(10):
                self.clock.advance(0.5)
            self.assertEqual(repr(self.store), "<SqliteStore: 2 waiting>")
            go.set()
            await slow
            await self.other.save_routes([a_route("a")])
            await self.poll()
            await self.poll()
            self.assertEqual(len(heard), 2)

        return self.run_async(check())

    def test_who_fails_is_told_again_and_the_others_too(self):
        async def check():
            told = []

            def failing(published):
                told.append(published)
                if len(told) > 1:
                    raise ZeroDivisionError

            await self.store.follow(failing)
            heard = await self.heard()
            for name in ("a", "b"):
                await self.store.save_routes([a_route(name)])
            self.assertEqual([len(each.routes) for each in heard], [0, 1, 2])
            self.assertEqual(told, heard)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

        return self.run_async(check())

    def test_what_changes_nothing_is_not_published(self):
        async def check():
            await self.store.save_routes([a_route("a")])
            await self.store.save_instance(an_instance())
            heard = await self.heard()
            await self.store.save_routes([])
            await self.store.delete_routes([])
            await self.store.save_routes([a_route("a")])
            await self.store.save_instance(an_instance())
            await self.other.save_instance(an_instance())
            await self.poll()
            self.assertEqual(len(heard), 1)

        return self.run_async(check())

    def test_after_the_end_nothing_is_heard(self):
        async def check():
            heard = await self.heard()
            late = self.store.follow(heard.append)
            saved = self.store.save_routes([a_route("a")])
            await self.store.close()
            await gatherResults([late, saved])
            self.assertEqual(self.clock.getDelayedCalls(), [])
            count = len(heard)
            await self.other.save_routes([a_route("b")])
            self.clock.advance(5)
            self.assertEqual(len(heard), count)

        return self.run_async(check())

    def test_who_gave_up_meanwhile_does_not_follow(self):
        heard: list[Any] = []
        following = self.store.follow(heard.append)
        following.cancel()
        self.failureResultOf(following, CancelledError)

        async def check():
            await self.store.save_routes([a_route("a")])
            self.assertEqual(heard, [])

        return self.run_async(check())

    def test_a_key_that_was_sealed_under_another_encryption_key(self):
        async def check():
            await self.store.save_certificates([a_certificate()])
            self.store._vault = Vault("another key")
            heard = await self.heard()
            self.assertEqual(heard[0].certificates, (attrs.evolve(a_certificate(), private_key=""),))
            error = await failure_of(Exception, self.store.certificate("cert-1"))
            self.assertIn("OB_ENCRYPTION_KEY", str(error))

        return self.run_async(check())

    def test_many_at_once_from_two_sides(self):
        async def check():
            sides = [self.open_with(PollingReactor(), busy_seconds=20) for _ in range(2)]
            both: list[list[Any]] = [[], []]
            for store, heard in zip(sides, both, strict=True):
                await store.follow(heard.append)
            calls = []
            for number in range(25):
                for side, store in enumerate(sides):
                    calls.append(
                        store.save_routes([a_route(f"{side}-{number}"), a_route("shared", str(side))])
                    )
                    if number % 5 == 4:
                        calls.append(store.delete_routes([f"{side}-{number - 1}.com"]))
            await gatherResults(calls)
            for store, heard in zip(sides, both, strict=True):
                await store._start(store._look)
                self.assertEqual(len(heard[-1].routes), 41)
                await self.assert_published(heard[-1])

        return self.run_async(check())
