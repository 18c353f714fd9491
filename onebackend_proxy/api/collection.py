"""What Routes, Redirects and certificates have in common: they are saved, listed and deleted by their ids."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred

from ..downstream.request import MAX_BUFFERED
from ..errors import BadRequest
from ..password_work import InThread
from ..records import Certificate, Redirect, Route
from .echo import shortened
from .json_resource import Answer, Call, Operation
from .permissions import require
from .shapes import Json
from .values import CanonicalId

R = TypeVar("R", Route, Redirect, Certificate)
T = TypeVar("T")

LARGE_BODY = 32 * 1024
"""Bytes of a body that is read in a thread: ten thousand routes take a while, and others are served."""
LARGE = 100
"""More records are looked at and written in a thread: others are served meanwhile."""


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


async def read_body(call: Call, read: Callable[[], T], in_thread: InThread) -> T:
    """What `read` makes of the body of `call`, in a thread where that is large."""
    if len(call.content) < LARGE_BODY:
        return read()
    found: T = await in_thread(read)
    return found


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
    max_body: int = MAX_BUFFERED
    """Bytes of a save by somebody who may save."""
    listed: Callable[[Call, Sequence[R]], Awaitable[tuple[Sequence[R], Json]]] | None = None
    """Which of those asked for are listed, and what is told beside them; None for all, and nothing."""

    async def answer(self, records: Sequence[R], in_thread: InThread, more: Json | None = None) -> Answer:
        """The records as a client expects them, and what there is to tell beside them."""
        beside = more or {}
        if len(records) <= LARGE:
            return Answer(200, {self.name: [self.as_json(record) for record in records], **beside})
        return Answer(200, encoded=await in_thread(self._encoded, records, beside))

    def _encoded(self, records: Sequence[R], beside: Json) -> bytes:
        # In parts, since the writer of JSON lets no other thread go on before it has done.
        starts = range(0, len(records), LARGE)
        parts = [[self.as_json(record) for record in records[start : start + LARGE]] for start in starts]
        items = ", ".join(json.dumps(part)[1:-1] for part in parts)
        told = "".join(f', "{name}": {json.dumps(value)}' for name, value in beside.items())
        return f'{{"{self.name}": [{items}]{told}}}'.encode("ascii")


def _refuse_repeats(name: str, ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for index, key in enumerate(ids):
        if first.setdefault(key, index) != index:
            raise BadRequest(f"{name}[{index}].id: {shortened(key)} is the id of {name}[{first[key]}] too")


def collection_operations(collection: Collection[R], in_thread: InThread) -> list[Operation]:
    """The calls that save, list and delete the records of `collection`."""
    name = collection.name

    async def save(call: Call) -> Answer:
        require(call.caller.roles, collection.edit)
        records = await collection.records_in(call)
        if not records:
            raise BadRequest(f"{name}: is empty")
        ids = [record.id for record in records]
        if len(ids) <= LARGE:
            _refuse_repeats(name, ids)
        else:
            await in_thread(_refuse_repeats, name, ids)
        return await collection.answer(await collection.save(records), in_thread)

    async def read(call: Call) -> Answer:
        require(call.caller.roles, collection.view)
        asked = await read_body(call, lambda: call.body(collection.list_body, optional=True), in_thread)
        wanted = frozenset(asked.ids)
        kept = await collection.kept()
        shown: Sequence[R] = [record for record in kept if record.id in wanted] if wanted else kept
        more: Json = {}
        if collection.listed is not None:
            shown, more = await collection.listed(call, shown)
        return await collection.answer(shown, in_thread, more)

    async def delete(call: Call) -> Answer:
        require(call.caller.roles, collection.edit)
        asked = await read_body(call, lambda: call.body(collection.delete_body), in_thread)
        ids = asked.ids
        if not ids:
            raise BadRequest("ids: is empty")
        await collection.delete(ids)
        return Answer(200, {})

    return [
        Operation(b"PUT", (name,), save, max_body=collection.max_body, permission=collection.edit),
        Operation(b"POST", (name,), read),
        Operation(b"DELETE", (name,), delete),
    ]
