"""SQLite through SQLAlchemy: how a connection is set up, and what its errors mean to us."""

from __future__ import annotations

import pathlib
import sqlite3
from typing import Any

import sqlalchemy as sa

from ..errors import StoreUnavailable

BUSY = "the store is busy: try again"
# Told apart only so that the client knows whether trying again may help.
_CAUSES = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_FULL: "the store is full",
    sqlite3.SQLITE_READONLY: "the store cannot be written now",
}
TROUBLE = (sa.exc.OperationalError, sa.exc.DatabaseError, sqlite3.Error)
"""What the library raises when the database cannot do something."""
OUR_FAULT = (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError, sa.exc.NotSupportedError)
"""Of these, what means that our own statement is wrong, which no waiting mends."""


def original(error: BaseException) -> BaseException:
    """SQLite's own error."""
    return getattr(error, "orig", None) or error


def unavailable(error: BaseException) -> StoreUnavailable:
    """What callers are told of this trouble."""
    # The low byte is the primary code, the rest tells variants of it.
    code = (getattr(original(error), "sqlite_errorcode", None) or 0) & 0xFF
    return StoreUnavailable(_CAUSES.get(code, "the store cannot be used now"), detail=str(original(error)))


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
