"""A host of which one path has rules, and all ways to write that path."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs

from .edge import Edge
from .policies import Door, door_to, is_admin
from .raw_client import RawClient
from .recording import statuses

NOBODY = "127.9.9.9"

# Each of them is the place behind the rules to some service; what a URL cannot hold goes out as it is.
WAYS = (
    b"/admin",
    b"/admin/",
    b"/admin?x",
    b"/admin/users",
    b"/%61dmin",
    b"/%61%64%6d%69%6e",
    b"/%61%64%6D%69%6E/users",
    b"//admin",
    b"///admin//users",
    b"/./admin",
    b"/.//admin",
    b"/%2e/admin",
    b"/%2E%2F/admin",
    b"/x/../admin",
    b"/x/%2e%2e/admin",
    b"/x/.%2e/admin",
    b"/x//../admin",
    b"//x/../admin",
    b"/x//..//../admin",
    b"/x/y/../../admin",
    b"/../admin",
    b"/../../admin",
    b"/admin/.",
    b"/admin/./",
    b"/admin/x/..",
    b"/admin/../admin",
    b"/admin;x",
    b"/admin;x=y/users",
    b"/;x/admin",
    b"/x/..;/admin",
    b"/x/..;y=z/admin",
    b"/.;/admin",
    b"/admin%2Fusers",
    b"/admin%2fusers",
    b"/%2Fadmin",
    b"/%2e%2fadmin",
    b"/x%2F..%2Fadmin",
    b"/x/..%2Fadmin",
    b"/x%2f../admin",
    b"/admin%00",
    b"/admin%00x",
    b"/admin%00/../x",
    b"/admin%3Bx",
    b"/x/..%3B/admin",
    b"/admin%20",
    b"/admin%20/users",
    b"/admin.",
    b"/admin./users",
    b"/admin%2E",
    b"/ADMIN",
    b"/Admin/users",
    b"/%41DMIN",
    b"/x/../ADMIN",
    b"/admin%5Cusers",
    b"/%5Cadmin",
    b"/%5cadmin",
    b"/x%5C..%5Cadmin",
    b"/x/..%5Cadmin",
    b"\\admin",
    b"/\\admin",
    b"/admin\\users",
    b"/x\\..\\admin",
    b"/admin#x",
    b"/x#/../admin",
    b"/admin\t",
    b"/\tadmin",
    b"/adm\0in",
    b"/admin\0",
    b"/%u0061dmin",
    b"/%c0%afadmin",
    b"admin",
    b"*",
    b"?/admin",
)


@attrs.define
class Guarded:
    """A host whose ``/admin`` is for nobody."""

    door: Door
    edge: Edge

    @property
    def host(self) -> bytes:
        """Its name."""
        return self.door.name.encode()

    def send(self, *requests: bytes) -> list[int]:
        """The statuses of what these bytes are answered with on one connection, which they close."""
        with RawClient(self.edge.http_port) as client:
            client.send(b"".join(requests))
            return statuses(client.to_the_end())

    def get(self, target: bytes, host: bytes = b"", version: bytes = b"1.1", more: bytes = b"") -> list[int]:
        """Of one GET."""
        head = b"GET %b HTTP/%b\r\nHost: %b\r\n" % (target, version, host or self.host)
        return self.send(head + more + b"Connection: close\r\n\r\n")

    def assert_nothing_passed(self) -> None:
        """The service has seen no request that any service takes for its ``/admin``."""
        passed = [target for target in self.door.service.targets if is_admin(target)]
        assert passed == []
        assert self.door.service.broken == []


@contextlib.contextmanager
def guarded_host(desk: Edge, front: Edge, url: str = "") -> Iterator[Guarded]:
    """A host of its own, in clear; another service may be behind it."""
    with door_to("edge", desk, front) as door:
        target = url or door.url
        desk.route(door.name, target)
        desk.route(f"{door.name}/admin", target, access={"allow": [NOBODY]})
        yield Guarded(door, desk)
