"""``POST /proxy-svc/cache/purge``: forget answers that are kept."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..errors import NotFound
from ..interfaces import IStore
from ..password_work import InThread
from .collection import read_body
from .echo import shortened
from .json_resource import Answer, Call, Operation
from .permissions import ROUTE_EDIT, require
from .validation import wrong
from .values import RouteId

Purge = Callable[[str | None], int]
"""Forgets the answers of the Route with this id, or all of them, and returns how many there were."""


@attrs.frozen
class PurgeBody:
    """What ``POST /proxy-svc/cache/purge`` takes: one of the two."""

    ids: list[RouteId] | None = None
    all: bool | None = None

    def __attrs_post_init__(self) -> None:
        if bool(self.ids) == bool(self.all):
            raise wrong("ids", "cannot stand beside all" if self.all else "is empty, and all is not true")


def purge_operation(store: IStore, purge: Purge | None, in_thread: InThread) -> Operation:
    """The call that purges; `purge` is None where nothing is cached."""

    async def run(call: Call) -> Answer:
        require(call.caller.roles, ROUTE_EDIT)
        body = await read_body(call, lambda: call.body(PurgeBody), in_thread)
        if purge is None:
            raise NotFound("no answers are cached here")
        if not body.ids:
            return Answer(200, {"purged": purge(None)})
        known = {route.id for route in await store.routes()}
        for key in body.ids:
            if key not in known:
                raise NotFound(f"no such route: {shortened(key)}")
        return Answer(200, {"purged": sum(purge(key) for key in dict.fromkeys(body.ids))})

    return Operation(b"POST", ("cache", "purge"), run)
