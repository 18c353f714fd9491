"""The embedded store: what must outlive a restart, in one SQLite file.

``schema``      the tables, in terms that PostgreSQL shares
``migrations``  numbered steps from an empty database to that schema
``encryption``  the vault that seals secrets before they reach a table
``rows``        records as rows, and back
``statements``  what each call of `IStore` says to the database; ``issuing``, what those on orders say
``transactions``  where they run, which each database and thread does in its own way
``publishing``  what is published after a change, by us or by another process
``following``   who is told of it
``engine``      SQLite through SQLAlchemy
``sqlite``      `IStore` over a private thread
"""

from __future__ import annotations

from .encryption import Vault
from .sqlite import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "Vault", "open_sqlite"]
