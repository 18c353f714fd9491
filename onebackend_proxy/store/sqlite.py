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
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from ..errors import ProxyError, SettingError, StoreUnavailable
from ..interfaces import IStore
from .encryption import Vault
from .migrations import migrate
from .statements import Statements

T = TypeVar("T")

MAX_WAITING = 1000
BUSY_SECONDS = 2.0

# Told apart only so that the client knows whether trying again may help.
_CAUSES = {
    sqlite3.SQLITE_BUSY: "the store is busy: try again",
    sqlite3.SQLITE_LOCKED: "the store is busy: try again",
    sqlite3.SQLITE_FULL: "the store is full",
    sqlite3.SQLITE_READONLY: "the store cannot be written now",
}
_TROUBLE = (sa.exc.OperationalError, sa.exc.DatabaseError, sqlite3.Error)
# These mean that our own statement is wrong, which no waiting mends.
_OUR_FAULT = (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError, sa.exc.NotSupportedError)


def _original(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _code(error: BaseException) -> int:
    # The low byte is the primary code, the rest tells variants of it.
    return (getattr(_original(error), "sqlite_errorcode", None) or 0) & 0xFF


def _unavailable(error: BaseException) -> StoreUnavailable:
    message = _CAUSES.get(_code(error), "the store cannot be used now")
    return StoreUnavailable(message, detail=str(_original(error)))


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    """Which file it is, whatever it is called; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_engine(path: pathlib.Path, busy_seconds: float) -> sa.Engine:
    """An engine of one connection that obeys `sqlite_begin` and reaches the disk on every commit."""
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        poolclass=sa.pool.QueuePool,
        pool_size=1,
        max_overflow=0,
        # It is opened by the thread that starts the program and used by the worker, never by both.
        connect_args={"check_same_thread": False, "timeout": busy_seconds},
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        # The driver's own idea of when to BEGIN would leave schema changes outside of transactions.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        # In WAL mode NORMAL may lose the last commits with the power; a save that was answered must not be.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # IMMEDIATE waits for the lock at the beginning. A transaction that reads first and writes
        # later would be refused at once instead, however short the other's lock.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


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
    """The embedded store. Make one with `open_sqlite`."""

    def __init__(
        self,
        engine: sa.Engine,
        path: pathlib.Path,
        vault: Vault,
        reactor: IReactorFromThreads,
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
            raise StoreUnavailable(_CAUSES[sqlite3.SQLITE_BUSY])
        if writes and _identity(self._path) != self._file:
            # SQLite would go on with the file that nobody can find any more.
            raise StoreUnavailable("the store's file is gone: restart the proxy", detail=str(self._path))
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(writes=writes)
                with connection.begin():
                    return work(connection)
        except _OUR_FAULT:
            raise
        except _TROUBLE as error:
            if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                self._found_busy = time.monotonic()
            raise _unavailable(error) from error

    def close(self) -> Deferred[None]:
        """Finish what is under way and close the file; closing again does nothing."""
        if self._closed:
            return defer.succeed(None)
        self._closed = True

        def stop(result: Any) -> Any:
            # The one thread has just told us that it is done, so that this does not wait.
            self._worker.stop()
            return result

        # The worker takes things in order: this comes after all that waits.
        return self._start(self._engine.dispose).addBoth(stop)


def open_sqlite(
    path: pathlib.Path,
    vault: Vault,
    reactor: IReactorFromThreads,
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
    except _TROUBLE as error:
        engine.dispose()
        raise SettingError(f"the database {path} cannot be used: {_original(error)}") from error
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
