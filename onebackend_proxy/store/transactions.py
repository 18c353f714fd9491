"""Where the statements of the store run, and in what transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from twisted.internet.defer import Deferred

from .publishing import Change

T = TypeVar("T")


class Transactions:
    """What each database and thread does in its own way; each call of these is one transaction."""

    def _read(self, work: Callable[[sa.Connection], T]) -> Deferred[T]:
        raise NotImplementedError

    def _write(self, work: Callable[[sa.Connection], T]) -> Deferred[T]:
        """Nobody else writes from the moment in which `work` begins to read."""
        raise NotImplementedError

    def _change(self, work: Callable[[sa.Connection], Change]) -> Deferred[None]:
        """As `_write`, and then publish it."""
        raise NotImplementedError
