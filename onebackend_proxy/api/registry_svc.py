"""``/registry-svc``: services tell where they listen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import attrs

from ..addresses import Address, bracketed, canonical_host, parse_instance_url
from ..errors import BadRequest, Conflict, NotFound, NotPermitted
from ..interfaces import IRegistry
from ..records import Instance
from .echo import bounded, quoted, shortened
from .ids import new_id
from .json_resource import Answer, Call, Operation
from .permissions import INSTANCE_DELETE, INSTANCE_EDIT, INSTANCE_VIEW, require
from .shapes import instance_json
from .tokens import Claims
from .turns import Turns
from .values import InstanceId, IpAddress, Line, NonEmptyLine, Slug

T = TypeVar("T")

MAX_INSTANCES = 1000
"""Instances of one service: with open registration a stranger could register without end."""


@attrs.frozen
class RegisterInstanceBody:
    """What ``PUT /registry-svc/instance`` takes: a `url`, or its parts, or both if they agree."""

    url: str | None = None
    scheme: str | None = None
    host: NonEmptyLine | None = None
    ip: IpAddress | None = None
    port: int | None = None
    path: str | None = None
    id: InstanceId | None = None
    deployment_id: Line | None = None
    slug: Slug | None = None


@attrs.frozen
class InstanceFilter:
    """What ``GET /registry-svc/instances`` may ask for; an empty one asks for all."""

    slug: str = ""
    host: str = ""
    ip: str = ""
    deployment_id: str = ""
    id: str = ""
    scheme: str = ""

    def matches(self, instance: Instance) -> bool:
        """Whether every part that is given is the instance's own."""
        wanted = attrs.asdict(attrs.evolve(self, host=self.host.lower()))
        return all(getattr(instance, name) == value for name, value in wanted.items() if value)


def _field(name: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except ValueError as error:
        raise BadRequest(f"{name}: {bounded(str(error))}") from None


def _address_of_parts(body: RegisterInstanceBody) -> Address:
    """The address that the parts make, each checked by its own name."""
    scheme = body.scheme or "http"
    if scheme not in ("http", "https"):
        raise BadRequest("scheme: only http and https can be proxied")
    host = _host_of_parts(body)
    if not host:
        raise BadRequest("url: is missing, and so are host and ip")
    port = "" if body.port is None else f":{_port(body.port)}"
    path = _path(body.path or "")
    return _field("path", lambda: parse_instance_url(f"{scheme}://{bracketed(host)}{port}{path}"))


def _host_of_parts(body: RegisterInstanceBody) -> str:
    if body.host is None:
        return body.ip or ""
    text = str(body.host)
    bare_ipv6 = ":" in text and not text.startswith("[")
    return _field("host", lambda: canonical_host(f"[{text}]" if bare_ipv6 else text))


def _port(port: int) -> int:
    if not 0 < port < 65536:
        raise BadRequest("port: must be from 1 to 65535")
    return port


def _path(path: str) -> str:
    if path and not path.startswith("/"):
        raise BadRequest("path: must begin with a slash")
    if "?" in path or "#" in path:
        raise BadRequest("path: must not have a query or a fragment")
    return path


def address_of(body: RegisterInstanceBody) -> Address:
    """Where the instance listens; `errors.BadRequest` names the part that is wrong or disagrees."""
    url = body.url
    if not url:
        return _address_of_parts(body)
    address = _field("url", lambda: parse_instance_url(url))
    said = {
        "scheme": (body.scheme, address.scheme),
        "host": (None if body.host is None else _host_of_parts(body), address.host),
        "port": (None if body.port is None else _port(body.port), address.port),
        "path": (None if body.path is None else _path(body.path).rstrip("/"), address.path),
    }
    for name, (given, in_url) in said.items():
        if given is not None and given != in_url:
            raise BadRequest(f"{name}: {quoted(given)} is not what the url says ({quoted(in_url)})")
    return address


def _ip_of(address: Address, body: RegisterInstanceBody) -> str:
    """The IP address, if one is known: the host itself, or what was given beside a host name."""
    literal = ":" in address.host or address.host.replace(".", "").isdigit()
    if literal and body.ip and body.ip != address.host:
        raise BadRequest(f"ip: {body.ip} is not the host {shortened(address.host)}")
    return address.host if literal else body.ip or ""


def _slug_for(caller: Claims, named: str | None) -> str:
    if named is None or named == caller.slug:
        return caller.slug
    if not caller.is_admin:
        raise NotPermitted("slug: only an admin may register instances of another service")
    return named


def _may_change(caller: Claims, instance: Instance) -> bool:
    return caller.is_admin or instance.slug == caller.slug


def _id_for(caller: Claims, named: str | None, url: str, registry: IRegistry) -> str:
    """Under which id the instance is kept: the one named, else the one this URL has already."""
    holder = registry.holder(url)
    moved = None if named is None else registry.instance(named)
    if moved is not None and not _may_change(caller, moved):
        raise NotPermitted("id: this instance belongs to another service")
    if holder is None:
        return named or new_id("inst")
    if not _may_change(caller, holder):
        raise Conflict("url: is registered by another service")
    if moved is not None and moved.id != holder.id:
        raise Conflict(f"url: is registered already, under the id {holder.id}")
    # A service that makes up an id at each start still has one instance per URL.
    return holder.id


def registry_operations(registry: IRegistry) -> list[Operation]:
    """The calls of registry-svc over `registry`."""
    # Between looking for the URL (or the id) and saving it nobody else may: two processes of one service
    # that register one URL at the same time both get a 201.
    urls, ids = Turns(), Turns()
    saving: Counter[str] = Counter()

    async def keep(call: Call, body: RegisterInstanceBody, address: Address) -> None:
        slug = _slug_for(call.caller, body.slug)
        instance = Instance(
            id=_id_for(call.caller, body.id, address.url, registry),
            slug=slug,
            url=address.url,
            scheme=address.scheme,
            host=address.host,
            port=address.port,
            ip=_ip_of(address, body),
            path=address.path,
            deployment_id=body.deployment_id or "",
        )
        upstream = registry.lookup(slug)
        # Those on their way to the store count: of many sent at once each would find room.
        count = saving[slug] + (0 if upstream is None else len(upstream.endpoints))
        if count >= MAX_INSTANCES and registry.instance(instance.id) is None:
            raise Conflict(f"the service {slug} has {MAX_INSTANCES} instances already")
        saving[slug] += 1
        try:
            await registry.register(instance)
        finally:
            saving[slug] -= 1
            if not saving[slug]:
                del saving[slug]

    async def register(call: Call) -> Answer:
        require(call.caller.roles, INSTANCE_EDIT)
        body = call.body(RegisterInstanceBody)
        address = address_of(body)
        named = body.id
        # Always the URL before the id, so that no two can wait for each other.
        if named is None:
            await urls.run(address.url, lambda: keep(call, body, address))
        else:
            await urls.run(address.url, lambda: ids.run(named, lambda: keep(call, body, address)))
        return Answer(201, {})

    async def read(call: Call) -> Answer:
        require(call.caller.roles, INSTANCE_VIEW)
        wanted = call.parameters(InstanceFilter)
        found = [
            instance_json(view)
            for view in registry.instances()
            if _may_change(call.caller, view.instance) and wanted.matches(view.instance)
        ]
        return Answer(200, {"instances": found})

    async def remove(call: Call) -> Answer:
        require(call.caller.roles, INSTANCE_DELETE)
        instance = registry.instance(call.argument)
        if instance is None:
            raise NotFound(f"no such instance: {shortened(call.argument)}")
        if not _may_change(call.caller, instance):
            raise NotPermitted("this instance belongs to another service")
        await registry.remove(instance.id)
        return Answer(204)

    return [
        Operation(b"PUT", ("instance",), register),
        Operation(b"GET", ("instances",), read),
        Operation(b"DELETE", ("instance", "*"), remove),
    ]
