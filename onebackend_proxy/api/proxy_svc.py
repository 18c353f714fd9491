"""``/proxy-svc``: saving, listing and deleting Routes and Redirects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred

from ..errors import BadRequest
from ..interfaces import IStore
from ..records import Redirect, Route
from .echo import shortened
from .json_resource import Answer, Call, Operation
from .permissions import ROUTE_EDIT, ROUTE_VIEW, require
from .shapes import redirect_json, route_json
from .validation import CanonicalId, RedirectCode, RedirectTarget, Target

R = TypeVar("R", Route, Redirect)

_PERMANENT = RedirectCode(308)


@attrs.frozen
class RouteInput:
    """One Route of a save."""

    id: CanonicalId
    target: Target

    def record(self) -> Route:
        """What is kept."""
        return Route(self.id, self.target)


@attrs.frozen
class RedirectInput:
    """One Redirect of a save."""

    id: CanonicalId
    target: RedirectTarget
    status_code: RedirectCode = _PERMANENT

    def record(self) -> Redirect:
        """What is kept."""
        return Redirect(self.id, self.target, self.status_code)


@attrs.frozen
class SaveRoutesBody:
    """What ``PUT /proxy-svc/routes`` takes."""

    routes: list[RouteInput]

    def records(self) -> list[Route]:
        """What is kept."""
        return [entry.record() for entry in self.routes]


@attrs.frozen
class SaveRedirectsBody:
    """What ``PUT /proxy-svc/redirects`` takes."""

    redirects: list[RedirectInput]

    def records(self) -> list[Redirect]:
        """What is kept."""
        return [entry.record() for entry in self.redirects]


@attrs.frozen
class ListBody:
    """What a listing may take: only these ids, if there are any."""

    ids: list[CanonicalId] = attrs.field(factory=list)


@attrs.frozen
class DeleteBody:
    """What a deletion takes."""

    ids: list[CanonicalId]


@attrs.frozen
class Collection(Generic[R]):
    """What tells Routes from Redirects, which are otherwise called alike."""

    name: str
    records_in: Callable[[Call], list[R]]
    as_json: Callable[[R], dict[str, Any]]
    kept: Callable[[], Deferred[tuple[R, ...]]]
    save: Callable[[Sequence[R]], Deferred[None]]
    delete: Callable[[Sequence[str]], Deferred[None]]

    def answer(self, records: Sequence[R]) -> Answer:
        """The records as a client expects them."""
        return Answer(200, {self.name: [self.as_json(record) for record in records]})


def _refuse_repeats(name: str, ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for index, key in enumerate(ids):
        if first.setdefault(key, index) != index:
            raise BadRequest(f"{name}[{index}].id: {shortened(key)} is the id of {name}[{first[key]}] too")


def _operations(collection: Collection[R]) -> list[Operation]:
    name = collection.name

    async def save(call: Call) -> Answer:
        require(call.caller.roles, ROUTE_EDIT)
        records = collection.records_in(call)
        if not records:
            raise BadRequest(f"{name}: is empty")
        _refuse_repeats(name, [record.id for record in records])
        await collection.save(records)
        return collection.answer(records)

    async def read(call: Call) -> Answer:
        require(call.caller.roles, ROUTE_VIEW)
        wanted = frozenset(call.body(ListBody, optional=True).ids)
        kept = await collection.kept()
        return collection.answer([record for record in kept if not wanted or record.id in wanted])

    async def delete(call: Call) -> Answer:
        require(call.caller.roles, ROUTE_EDIT)
        ids = call.body(DeleteBody).ids
        if not ids:
            raise BadRequest("ids: is empty")
        await collection.delete(ids)
        return Answer(200, {})

    return [
        Operation(b"PUT", (name,), save),
        Operation(b"POST", (name,), read),
        Operation(b"DELETE", (name,), delete),
    ]


def proxy_operations(store: IStore) -> list[Operation]:
    """The calls of proxy-svc over `store`."""
    routes: Collection[Route] = Collection(
        "routes",
        lambda call: call.body(SaveRoutesBody).records(),
        route_json,
        store.routes,
        store.save_routes,
        store.delete_routes,
    )
    redirects: Collection[Redirect] = Collection(
        "redirects",
        lambda call: call.body(SaveRedirectsBody).records(),
        redirect_json,
        store.redirects,
        store.save_redirects,
        store.delete_redirects,
    )
    return [*_operations(routes), *_operations(redirects)]
