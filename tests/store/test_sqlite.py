from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import stat
import threading
import time
from typing import Any

from twisted.internet import reactor as any_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.errors import SettingError, StoreUnavailable
from onebackend_proxy.records import Route
from onebackend_proxy.store import Vault, open_sqlite

from .contract import failure_of
from .issuing import IssuingContract
from .published import PublishingContract

reactor: Any = any_reactor


def _open_files():
    """What this process has open."""
    found = []
    for link in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return found


class Base(TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.path = self.folder / "proxy.sqlite"

    def open(self, key="a key", **options):
        store = open_sqlite(self.path, Vault(key), reactor, **{"busy_seconds": 0.05, **options})
        self.addCleanup(store.close)
        return store

    def other_connection(self):
        connection = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(connection.close)
        return connection


class SqliteStoreTests(PublishingContract, IssuingContract, Base):
    def setUp(self):
        super().setUp()
        self.store = self.open()

    def test_all_is_there_after_a_restart(self):
        async def check():
            await self.store.save_routes([Route("a.com", "http://a")])
            await self.store.create_secret("key", b"value")
            await self.store.close()
            again = self.open()
            self.assertEqual(await again.routes(), (Route("a.com", "http://a"),))
            self.assertEqual(await again.secret("key"), b"value")

        return self.run_async(check())

    def test_close_finishes_what_waits(self):
        async def check():
            calls = [self.store.save_routes([Route(f"{n}.com", "http://a")]) for n in range(10)]
            await self.store.close()
            self.assertTrue(all(call.called for call in calls))
            self.assertEqual(len(await self.open().routes()), 10)

        return self.run_async(check())

    def test_a_locked_database_is_unavailable_until_it_is_free(self):
        async def check():
            other = self.other_connection()
            other.execute("BEGIN IMMEDIATE")
            save = self.store.save_routes([Route("a.com", "http://a")])
            error = await failure_of(StoreUnavailable, save)
            self.assertEqual(error.message, "the store is busy: try again")
            self.assertEqual(error.detail, "database is locked")
            self.assertEqual(await self.store.routes(), ())
            other.execute("ROLLBACK")
            await self.store.save_routes([Route("a.com", "http://a")])
            self.assertEqual(len(await self.store.routes()), 1)

        return self.run_async(check())

    def test_those_who_waited_behind_a_lock_do_not_wait_in_turn(self):
        async def check():
            other = self.other_connection()
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            saves = [self.store.save_routes([Route(f"{n}.com", "http://a")]) for n in range(50)]
            listed = self.store.routes()
            for save in saves:
                error = await failure_of(StoreUnavailable, save)
                self.assertEqual(error.message, "the store is busy: try again")
            # In turn it would be fifty times 0.05 s.
            self.assertLess(time.monotonic() - began, 1.5)
            # Readers do not wait for who writes.
            self.assertEqual(await listed, ())
            other.execute("ROLLBACK")
            await self.store.save_routes([Route("a.com", "http://a")])

        return self.run_async(check())

    def test_a_file_that_is_gone_or_another_takes_no_saves(self):
        async def check():
            await self.store.save_routes([Route("a.com", "http://a")])
            self.path.rename(self.path.with_name("moved"))
            for _ in range(2):
                error = await failure_of(
                    StoreUnavailable, self.store.save_routes([Route("b.com", "http://b")])
                )
                self.assertEqual(error.message, "the store's file is gone: restart the proxy")
                # The second time there is a file again, but not ours.
                self.path.touch()
            self.path.unlink()
            self.path.with_name("moved").rename(self.path)
            await self.store.save_routes([Route("c.com", "http://c")])
            self.assertEqual([route.id for route in await self.store.routes()], ["a.com", "c.com"])

        return self.run_async(check())

    def test_no_connection_is_open_before_it_is_told_to(self):
        # A fork would carry it over, but not its locks.
        store = open_sqlite(self.folder / "other.sqlite", Vault("a key"), reactor)
        self.addCleanup(store.close)
        opened = lambda: [link for link in _open_files() if link.endswith("other.sqlite")]  # noqa: E731
        self.assertEqual(opened(), [])
        store.connect()
        self.assertEqual(len(opened()), 1)

    def test_a_short_lock_is_waited_for(self):
        async def check():
            store = open_sqlite(self.path, Vault("a key"), reactor)
            self.addCleanup(store.close)
            found = await store._read(lambda c: c.exec_driver_sql("PRAGMA busy_timeout").scalar())
            self.assertEqual(found, 2000)

        return self.run_async(check())

    def test_a_full_disk_is_unavailable_until_there_is_room(self):
        async def check():
            await self.set_max_pages(1)
            many = [Route(f"{n}.com", "http://target" * 50) for n in range(2000)]
            error = await failure_of(StoreUnavailable, self.store.save_routes(many))
            self.assertEqual(error.message, "the store is full")
            self.assertNotIn(str(self.folder), error.message)
            self.assertIn("full", error.detail)
            self.assertEqual(await self.store.routes(), ())
            await self.set_max_pages(1_000_000)
            await self.store.save_routes(many)
            self.assertEqual(len(await self.store.routes()), 2000)

        return self.run_async(check())

    def set_max_pages(self, pages):
        return self.store._read(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar())

    def test_a_read_only_database_is_unavailable_for_writing(self):
        async def check():
            await self.store._read(lambda c: c.exec_driver_sql("PRAGMA query_only=ON"))
            save = self.store.save_routes([Route("a.com", "http://a")])
            error = await failure_of(StoreUnavailable, save)
            self.assertEqual(error.message, "the store cannot be written now")

        return self.run_async(check())

    def test_a_mistake_of_ours_is_not_called_unavailable(self):
        from sqlalchemy.exc import IntegrityError

        twice = "INSERT INTO routes (id, target) VALUES ('a', 'b'), ('a', 'b')"
        return self.assertFailure(self.store._write(lambda c: c.exec_driver_sql(twice)), IntegrityError)

    def test_a_commit_reaches_the_disk(self):
        async def check():
            for pragma, wanted in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}.items():
                found = await self.store._read(lambda c, p=pragma: c.exec_driver_sql(f"PRAGMA {p}").scalar())
                self.assertEqual(found, wanted, pragma)

        return self.run_async(check())

    def test_secrets_are_not_in_the_file(self):
        async def check():
            await self.store.create_secret("key", b"very-secret-bytes")
            await self.store.replace_secret("other", b"very-secret-bytes")
            await self.store.close()
            for path in self.folder.iterdir():
                self.assertNotIn(b"very-secret-bytes", path.read_bytes())

        return self.run_async(check())


class QueueTests(Base):
    def test_more_than_the_limit_is_refused_at_once(self):
        async def check():
            store = self.open(max_waiting=2)
            go = threading.Event()
            first, second = store._read(lambda _c: go.wait(20)), store.routes()
            self.assertEqual(repr(store), "<SqliteStore: 2 waiting>")
            refused = self.failureResultOf(store.routes(), StoreUnavailable)
            self.assertEqual(refused.value.message, "the store is overloaded: try again")
            go.set()
            self.assertIs(await first, True)
            self.assertEqual(await second, ())
            self.assertEqual(await store.routes(), ())
            await store.close()
            self.assertEqual(repr(store), "<SqliteStore: closed>")

        return Deferred.fromCoroutine(check())

    def test_what_is_cancelled_still_counts_until_it_is_done(self):
        async def check():
            store = self.open(max_waiting=1)
            go = threading.Event()
            first = store._read(lambda _c: go.wait(20))
            first.cancel()
            self.failureResultOf(first, CancelledError)
            self.failureResultOf(store.routes(), StoreUnavailable)
            go.set()
            await store.close()

        return Deferred.fromCoroutine(check())


class OpeningTests(Base):
    def refused(self, **options):
        return str(self.assertRaises(SettingError, self.open, **options))

    def test_the_file_is_for_its_owner_only(self):
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        store = self.open()
        done = store.save_routes([Route("a.com", "http://a")])

        def look(_result):
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.folder.iterdir()}
            self.assertEqual(modes.pop("proxy.sqlite"), 0o600)
            self.assertEqual(set(modes.values()), {0o600})

        return done.addCallback(look)

    def test_another_key(self):
        self.open()
        self.assertIn("OB_ENCRYPTION_KEY", self.refused(key="other"))

    def test_a_newer_database(self):
        self.open()
        self.other_connection().execute("UPDATE schema_version SET version = 99")
        self.assertIn("newer version of the proxy (schema 99, this one knows 3)", self.refused())

    def test_not_a_database(self):
        self.path.write_bytes(b"this is a text file, and a long one" * 100)
        message = self.refused()
        self.assertIn("file is not a database", message)
        self.assertIn(str(self.path), message)

    def test_a_damaged_database(self):
        store = self.open()

        def damage(_result):
            content = bytearray(self.path.read_bytes())
            content[4096:] = os.urandom(len(content) - 4096)
            self.path.write_bytes(content)
            self.assertIn("cannot be used", self.refused())

        return store.close().addCallback(damage)

    def test_another_programs_database(self):
        self.other_connection().execute("CREATE TABLE routes (x)")
        self.assertIn("table routes already exists", self.refused())

    def test_a_folder_that_is_not_there(self):
        self.path = self.folder / "missing" / "proxy.sqlite"
        self.assertIn("No such file or directory", self.refused())

    def test_a_folder_in_its_place(self):
        self.path.mkdir()
        self.assertIn("Is a directory", self.refused())

    def test_a_database_that_somebody_holds_locked(self):
        self.open()
        other = self.other_connection()
        other.execute("BEGIN IMMEDIATE")
        self.assertIn("database is locked", self.refused())
