"""The embedded store: what must outlive a restart, in one SQLite file.

``schema``      the tables, in terms that PostgreSQL shares
``migrations``  numbered steps from an empty database to that schema
``encryption``  the vault that seals secrets before they reach a table
``sqlite``      `IStore` over a private thread
"""

from __future__ import annotations

from .encryption import Vault
from .sqlite import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "Vault", "open_sqlite"]
