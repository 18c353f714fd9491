"""`IStore` over one SQLite file, worked on by one private thread.

One thread, because SQLite has one writer anyway: calls queue in order, and the reactor never waits.
"""

from __future__ import annotations

import os
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from ..errors import ProxyError, SettingError, StoreUnavailable
from ..interfaces import IStore, Published
from .encryption import Vault
from .engine import BUSY, OUR_FAULT, TROUBLE, make_engine, original, unavailable
from .following import Followers
from .migrations import migrate
from .publishing import Change, Snapshot, looked_at_again, with_change
from .statements import Statements

T = TypeVar("T")

MAX_WAITING = 1000
BUSY_SECONDS = 2.0


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    """Which file it is, whatever it is called; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _DaemonThread(threading.Thread):
    """Ends with the process, so that a start that failed half-way cannot hang at exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(daemon=True, **options)


class _Worker(ThreadPool):
    threadFactory = _DaemonThread  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(minthreads=0, maxthreads=1, name="store")


@implementer(IStore)
class SqliteStore(Statements):
    """The embedded store. Make one with `open_sqlite`.

    `reactor` provides IReactorFromThreads and IReactorTime. What the thread hands over to it, the results of
    calls and what is published, comes in the order in which it was done.
    """

    def __init__(
        self,
        engine: sa.Engine,
        path: pathlib.Path,
        vault: Vault,
        reactor: Any,
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        super().__init__(vault)
        self._engine = engine
        self._path = path
        self._file = _identity(path)
        self._found_busy = 0.0
        self._reactor = reactor
        self._max_waiting = max_waiting
        self._waiting = 0
        self._closed = False
        self._followers = Followers(reactor, lambda: self._start(self._look))
        # Only the thread has to do with this; there is one as soon as somebody follows.
        self._snapshot: Snapshot | None = None
        self._worker = _Worker()
        self._worker.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._waiting} waiting"
        return f"<SqliteStore: {state}>"

    def connect(self) -> None:
        """Open the connection now, and block meanwhile; else the first call does.

        For a program that forks and drops privileges: after the one, since SQLite's locks do not survive
        it, and before the other, which may lose the right to open the file.
        """
        self._engine.connect().close()

    def _read(self, work: Callable[[sa.Connection], T]) -> Deferred[T]:
        return self._queue(self._transact, work, False, 0.0)

    def _write(self, work: Callable[[sa.Connection], T]) -> Deferred[T]:
        return self._queue(self._transact, work, True, time.monotonic())

    def _change(self, work: Callable[[sa.Connection], Change]) -> Deferred[None]:
        return self._queue(self._transact_change, work, time.monotonic())

    def follow(self, listener: Callable[[Published], None]) -> Deferred[None]:
        """See `interfaces.IStore`."""
        return self._queue(self._look).addCallback(lambda now: self._followers.add(listener, now))

    def _queue(self, work: Callable[..., T], *arguments: Any) -> Deferred[T]:
        if self._closed:
            return defer.fail(StoreUnavailable("the store is closed"))
        if self._waiting >= self._max_waiting:
            return defer.fail(StoreUnavailable("the store is overloaded: try again"))
        return self._start(work, *arguments)

    def _start(self, work: Callable[..., T], *arguments: Any) -> Deferred[T]:
        # What the caller gets is a Deferred of its own: cancelling it must not make us lose count
        # of work that goes on in the thread.
        answer: Deferred[T] = Deferred()
        self._waiting += 1

        def finished(result: Any) -> Any:
            self._waiting -= 1
            return result

        done = deferToThreadPool(self._reactor, self._worker, work, *arguments)
        done.addBoth(finished)
        done.addCallbacks(answer.callback, answer.errback)
        return answer

    def _transact(self, work: Callable[[sa.Connection], T], writes: bool, queued: float) -> T:
        if writes and queued < self._found_busy:
            # It waited while another found the store locked; in turn, all would wait for ever longer.
            raise StoreUnavailable(BUSY)
        if writes and _identity(self._path) != self._file:
            # SQLite would go on with the file that nobody can find any more.
            raise StoreUnavailable("the store's file is gone: restart the proxy", detail=str(self._path))
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(writes=writes)
                with connection.begin():
                    return work(connection)
        except OUR_FAULT:
            raise
        except TROUBLE as error:
            told = unavailable(error)
            if told.message == BUSY:
                self._found_busy = time.monotonic()
            raise told from error

    def _transact_change(self, work: Callable[[sa.Connection], Change], queued: float) -> None:
        known = self._snapshot

        def change(connection: sa.Connection) -> Snapshot | None:
            return with_change(connection, known, work(connection))

        # A commit that fails may have happened all the same.
        self._snapshot = None if known is None else known.unseen()
        self._take(self._transact(change, True, queued), known)

    def _look(self) -> Published:
        """What there is, which is also published if it is new."""
        known = self._snapshot
        now = self._transact(lambda connection: looked_at_again(connection, known), False, 0.0)
        self._take(now, known)
        return now.published

    def _take(self, now: Snapshot | None, known: Snapshot | None) -> None:
        self._snapshot = now
        if now is not None and known is not None and now.published is not known.published:
            self._reactor.callFromThread(self._followers.tell, now.published)

    def close(self) -> Deferred[None]:
        """Finish what is under way and close the file; closing again does nothing."""
        if self._closed:
            return defer.succeed(None)
        self._closed = True
        self._followers.stop()

        def stop(result: Any) -> Any:
            # The one thread has just told us that it is done, so that this does not wait.
            self._worker.stop()
            return result

        # The worker takes things in order: this comes after all that waits.
        return self._start(self._engine.dispose).addBoth(stop)


def open_sqlite(
    path: pathlib.Path,
    vault: Vault,
    reactor: Any,
    *,
    busy_seconds: float = BUSY_SECONDS,
    max_waiting: int = MAX_WAITING,
) -> SqliteStore:
    """Open the database at `path`, made (0600) if there is none, and bring its schema up to date.

    Meant for the time before the reactor runs: it blocks. Anything that keeps the database from being
    used, another encryption key included, is an `errors.SettingError`. The store that is returned has no
    connection yet, so that the process may still fork.
    """
    try:
        # The journal files take their mode from this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise SettingError(f"the database {path} cannot be opened: {error.strerror}") from error
    engine = make_engine(path, busy_seconds)
    try:
        with engine.connect() as connection:
            _check(connection)
            connection = connection.execution_options(writes=True)
            with connection.begin():
                migrate(connection)
                Statements.check_vault(connection, vault)
    except TROUBLE as error:
        engine.dispose()
        raise SettingError(f"the database {path} cannot be used: {original(error)}") from error
    except ProxyError:
        engine.dispose()
        raise
    engine.dispose()
    return SqliteStore(engine, path, vault, reactor, max_waiting=max_waiting)


def _check(connection: sa.Connection) -> None:
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    connection.rollback()
    if found != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {found}")
