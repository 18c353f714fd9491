"""What Routes, Redirects and certificates have in common: they are saved, listed and deleted by their ids."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred

from ..errors import BadRequest
from ..records import Certificate, Redirect, Route
from .echo import shortened
from .json_resource import Answer, Call, Operation
from .permissions import require
from .validation import CanonicalId

R = TypeVar("R", Route, Redirect, Certificate)


class Ids(Protocol):
    """A body that names records by their ids."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids, in canonical form."""
        ...


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
    """What tells one kind of record from another; otherwise they are called alike."""

    name: str
    view: str
    edit: str
    records_in: Callable[[Call], Awaitable[list[R]]]
    as_json: Callable[[R], dict[str, Any]]
    kept: Callable[[], Deferred[tuple[R, ...]]]
    save: Callable[[Sequence[R]], Awaitable[Sequence[R]]]
    """Keeps them, and gives them back as they are kept."""
    delete: Callable[[Sequence[str]], Deferred[None]]
    list_body: type[Ids] = ListBody
    delete_body: type[Ids] = DeleteBody

    def answer(self, records: Sequence[R]) -> Answer:
        """The records as a client expects them."""
        return Answer(200, {self.name: [self.as_json(record) for record in records]})


def _refuse_repeats(name: str, ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for index, key in enumerate(ids):
        if first.setdefault(key, index) != index:
            raise BadRequest(f"{name}[{index}].id: {shortened(key)} is the id of {name}[{first[key]}] too")


def collection_operations(collection: Collection[R]) -> list[Operation]:
    """The calls that save, list and delete the records of `collection`."""
    name = collection.name

    async def save(call: Call) -> Answer:
        require(call.caller.roles, collection.edit)
        records = await collection.records_in(call)
        if not records:
            raise BadRequest(f"{name}: is empty")
        _refuse_repeats(name, [record.id for record in records])
        return collection.answer(await collection.save(records))

    async def read(call: Call) -> Answer:
        require(call.caller.roles, collection.view)
        wanted = frozenset(call.body(collection.list_body, optional=True).ids)
        kept = await collection.kept()
        return collection.answer([record for record in kept if not wanted or record.id in wanted])

    async def delete(call: Call) -> Answer:
        require(call.caller.roles, collection.edit)
        ids = call.body(collection.delete_body).ids
        if not ids:
            raise BadRequest("ids: is empty")
        await collection.delete(ids)
        return Answer(200, {})

    return [
        Operation(b"PUT", (name,), save),
        Operation(b"POST", (name,), read),
        Operation(b"DELETE", (name,), delete),
    ]
