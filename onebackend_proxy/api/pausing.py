"""``POST /proxy-svc/routes/pause`` and ``/resume``: maintenance of Routes, and of services."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from ..errors import BadRequest, NotFound
from ..interfaces import IRegistry, IStore
from ..password_work import InThread
from ..records import Pause, Route
from .collection import read_body
from .echo import shortened
from .json_resource import Answer, Call, Operation
from .permissions import ROUTE_EDIT, require
from .policy import PauseInput
from .values import RouteId


@attrs.frozen(kw_only=True)
class PauseBody(PauseInput):
    """What ``POST /proxy-svc/routes/pause`` takes."""

    ids: list[RouteId]


@attrs.frozen
class ResumeBody:
    """What ``POST /proxy-svc/routes/resume`` takes."""

    ids: list[RouteId]


Changed = tuple[Sequence[Route], Sequence[str]]
"""Routes to be saved, and ids of those to be deleted."""


def with_pause(routes: Sequence[Route], pause: Pause | None) -> Changed:
    """The Routes paused so, or, with None, not paused.

    An entry of a service that says nothing else is not kept.
    """
    changed = [attrs.evolve(each, policy=attrs.evolve(each.policy, paused=pause)) for each in routes]
    empty = [each.id for each in changed if each == Route(each.id)]
    return [each for each in changed if each.id not in empty], empty


def _change(ids: Sequence[str], served: Callable[[str], bool], pause: Pause | None) -> Callable[..., Changed]:
    """What is done to those Routes of `ids` that there are; `served` tells the services that there are."""
    # Asked here, since the change is made in another thread.
    services = [key for key in ids if key.startswith("/") and served(key[1:])]

    def change(there: Sequence[Route]) -> Changed:
        known = {route.id for route in there}
        absent = [Route(key) for key in services if key not in known]
        for key in ids:
            if key not in known and key not in services:
                raise NotFound(f"no such {'service' if key.startswith('/') else 'route'}: {shortened(key)}")
        # A service without an entry is not paused.
        return with_pause([*there, *absent] if pause is not None else there, pause)

    return change


def pausing_operations(store: IStore, registry: IRegistry, in_thread: InThread) -> list[Operation]:
    """The calls that pause and resume, all of the ids that they are given or none."""

    def served(slug: str) -> bool:
        return registry.lookup(slug) is not None

    async def done(ids: Sequence[str], pause: Pause | None) -> Answer:
        if not ids:
            raise BadRequest("ids: is empty")
        keys = list(dict.fromkeys(ids))
        await store.change_routes(keys, _change(keys, served, pause))
        return Answer(200, {"ids": keys})

    async def pause(call: Call) -> Answer:
        require(call.caller.roles, ROUTE_EDIT)
        body = await read_body(call, lambda: call.body(PauseBody), in_thread)
        return await done(body.ids, body.record())

    async def resume(call: Call) -> Answer:
        require(call.caller.roles, ROUTE_EDIT)
        body = await read_body(call, lambda: call.body(ResumeBody), in_thread)
        return await done(body.ids, None)

    return [
        Operation(b"POST", ("routes", "pause"), pause),
        Operation(b"POST", ("routes", "resume"), resume),
    ]
