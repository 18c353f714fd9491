"""What the tests of policies share: a service that answers as it is told, and the doors that lead to it."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs

from .edge import PATIENCE, Curled, Edge
from .raw_backend import RawBackend
from .recording import Received, Recorder

TRUSTED = "127.0.0.9"
"""The address whose X-Forwarded-For the proxies of these tests believe."""
_numbers = itertools.count(1)


@attrs.frozen
class Reply:
    """What a service answers."""

    body: bytes = b"ok"
    fields: tuple[str, ...] = ()
    status: str = "200 OK"


Replying = Callable[[Received], Reply]


class Service(Recorder):
    """Keeps each request and answers it as `reply` says; without one, with the request's target."""

    def __init__(self, reply: Replying | None = None) -> None:
        super().__init__()
        self.reply = reply

    def replied(self, received: Received) -> tuple[bytes, tuple[str, ...], str]:
        """See `Recorder`."""
        if self.reply is None:
            return super().replied(received)
        made = self.reply(received)
        return made.body, made.fields, made.status

    @property
    def targets(self) -> list[bytes]:
        """What it was asked for."""
        return [request.target for request in self.requests]


@attrs.define
class Door:
    """One way to a service: by a host of the edge in clear or over HTTP/2, or by its slug."""

    kind: str
    edge: Edge
    name: str
    service: Service
    url: str

    @property
    def id(self) -> str:
        """Of its Route entry."""
        return f"/{self.name}" if self.kind == "slug" else self.name

    def seen(self, path: str) -> bytes:
        """The target that the service sees where it is asked for this path."""
        return (f"/{self.name}{path}" if self.kind == "slug" else path).encode()

    def policy(self, **policy: Any) -> None:
        """From now on it has this policy and no other."""
        target = {} if self.kind == "slug" else {"target": self.url}
        self.edge.api.ok("PUT", "/proxy-svc/routes", {"routes": [{"id": self.id, **target, **policy}]})

    def command(self, path: str, *options: str, source: str = "127.0.0.1") -> list[str]:
        """How curl is started."""
        command = self.edge.curl_command(self.address(path), *options)
        if self.kind == "slug":
            command[command.index("--connect-to") + 1] = f"::127.0.0.1:{self.edge.port}"
        return [*command[:1], "--interface", source, self._protocol, *command[1:]]

    @property
    def _protocol(self) -> str:
        return "--http2" if self.kind == "h2" else "--http1.1"

    def address(self, path: str) -> str:
        """The URL of this path."""
        scheme = "https" if self.kind == "h2" else "http"
        return (
            f"{scheme}://front.test/{self.name}{path}"
            if self.kind == "slug"
            else f"{scheme}://{self.name}{path}"
        )

    def ask(self, path: str = "/", *options: str, source: str = "127.0.0.1") -> Curled:
        """What curl gets, connecting from the address `source`."""
        command = self.command(path, "--include", *options, source=source)
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE + 10)
        errors = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"curl: {done.returncode} {errors}"
        return Curled.read(done.returncode, errors, done.stdout)

    def statuses(self, count: int, path: str = "/", *options: str, source: str = "127.0.0.1") -> list[int]:
        """Of so many requests on one connection, one after the other."""
        command = self.command(path, *options, "--output", "/dev/null", source=source)
        url = command.pop()
        # curl takes them one after the other, on the connection it has.
        write = ["--write-out", "%{http_code}\\n"]
        urls = list(itertools.chain.from_iterable((url, "--output", "/dev/null") for _ in range(count - 1)))
        done = subprocess.run([*command, *write, *urls, url], capture_output=True, timeout=PATIENCE + 30)
        assert done.returncode == 0, done.stderr
        return [int(line) for line in done.stdout.split()]


@contextlib.contextmanager
def door_to(kind: str, desk: Edge, front: Edge, reply: Replying | None = None) -> Iterator[Door]:
    """A service of its own behind a door of this kind, without a policy yet."""
    service = Service(reply)
    with RawBackend(service) as backend:
        number = next(_numbers)
        name = f"desk-{number}-svc" if kind == "slug" else f"desk-{number}.test"
        edge = front if kind == "h2" else desk
        door = Door(kind, edge, name, service, backend.url)
        if kind == "slug":
            edge.api.add_instance(backend.url, name)
        else:
            edge.route(name, backend.url)
        if kind == "h2":
            edge.certify(name)
        yield door
        assert not backend.failures, backend.failures


DOORS = ("edge", "slug", "h2")


_PARAMETERS = re.compile(rb";[^/\\]*")


def _resolved(path: bytes) -> bytes:
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    return b"/" + b"/".join(kept)


def readings(target: bytes) -> set[bytes]:
    """The paths that some services see in a target, in lower case, each in its own way.

    Decoded or not, before dots are resolved or after, with ``\\`` as a slash, without what is behind ``;`` or
    NUL, and without dots and blanks at the end of a segment.
    """
    found = set()
    path = re.sub(rb"\Ahttps?://[^/]*", b"", target.partition(b"?")[0])
    for decode, back, parameters, null, trim in itertools.product((False, True), repeat=5):
        seen = unquote_to_bytes(path) if decode else path
        seen = seen.replace(b"\\", b"/") if back else seen
        seen = seen.partition(b"\0")[0] if null else seen
        seen = _PARAMETERS.sub(b"", seen) if parameters else seen
        seen = _resolved(seen)
        if trim:
            seen = b"/".join(segment.rstrip(b". ") for segment in seen.split(b"/"))
        found.add(seen.lower())
    return found


def is_admin(target: bytes) -> bool:
    """Whether some service takes this target for its ``/admin``, or a place below it."""
    return any(path == b"/admin" or path.startswith(b"/admin/") for path in readings(target))
