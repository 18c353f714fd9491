"""What public name servers say of a challenge's name: where it leads, and whether they all show a text yet.

Each look blocks, at most `LOOK_SECONDS` or `LOOKUP_SECONDS`, in a thread of the reactor's.
"""

from __future__ import annotations

import contextlib
import enum
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from ...addresses import bracketed
from .problems import AcmeError
from .resolving import LookupFailed, make_resolver

T = TypeVar("T")
PORT = 53
PATIENCE = 120.0
"""Seconds for all servers to show a text; then the authority has to see for itself."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 16.0
LOOK_SECONDS = 3.0
"""In which a name server has answered, or is silent."""
LOOKUP_SECONDS = 10.0
"""For all the questions to a resolver that one look has."""
MOST_SILENT = 3
"""Looks after which a server that says nothing is not waited for: an authority would ask another one."""
MOST_SERVERS = 32
MOST_ALIASES = 16
# RFC 9715: what goes through every network in one piece.
_PAYLOAD = 1232


@attrs.frozen
class Server:
    """One address of a name server."""

    address: str
    port: int = PORT

    def __str__(self) -> str:
        return self.address if self.port == PORT else f"{bracketed(self.address)}:{self.port}"


class Sight(enum.Enum):
    """What one look at one server found; `DEAD` refuses at once, `SILENT` may only be slow."""

    SHOWN = "shows it"
    LACKING = "does not show it"
    SILENT = "does not answer"
    DEAD = "cannot be reached"


class Nameservers:
    """Looks at name servers; `resolver` is the address and port of who finds them, None the system's."""

    def __init__(self, reactor: Any, resolver: tuple[str, int] | None = None) -> None:
        self._reactor = reactor
        self._resolver = Server(*resolver) if resolver else None
        self._log = Logger()

    def __repr__(self) -> str:
        return f"<Nameservers found by {self._resolver or 'the system'}>"

    def canonical(self, name: str) -> Deferred[str]:
        """Where the aliases (CNAME) of `name` end: itself if it has none; fails with `AcmeError`."""
        return self._look_up(Lookups.canonical, name)

    def published(self, name: str, value: str) -> Deferred[bool]:
        """Fires with True when every server of its zone shows the text `value` at `name`.

        With False, and a note in the log, when they do not within `PATIENCE`. It does not fail. Servers that
        do not answer are not waited for; where none does, the resolver is asked in their place.
        """
        return Deferred.fromCoroutine(self._published(name, value))

    async def _published(self, name: str, value: str) -> bool:
        sightings = Sightings()
        late = self._reactor.seconds() + PATIENCE
        for pause in _pauses():
            reason = await self._look(sightings, name, value)
            if not reason:
                return True
            left = late - self._reactor.seconds()
            if left <= 0:
                break
            await deferLater(self._reactor, min(pause, left))
        self._log.warn(
            "after {seconds:.0f} s {name} is not to be seen everywhere, going on all the same: {reason}",
            seconds=PATIENCE,
            name=name,
            reason=reason,
        )
        return False

    async def _look(self, sightings: Sightings, name: str, value: str) -> str:
        """Look once: what is missing yet, "" if nothing is."""
        if not sightings.servers:
            try:
                sightings.servers = await self._look_up(Lookups.authoritative, name)
            except AcmeError as error:
                return str(error)
        sightings.add(await self._in_thread(look, sightings.servers, name, value))
        # Port 53 may be closed to all but the resolver.
        if sightings.nobody_answers and await self._look_up(Lookups.shows, name, value):
            return ""
        return sightings.missing

    def _look_up(self, question: Callable[..., T], *arguments: str) -> Deferred[T]:
        return self._in_thread(lambda: question(Lookups(self._resolver), *arguments))

    def _in_thread(self, work: Callable[..., T], *arguments: Any) -> Deferred[T]:
        done: Deferred[T] = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work, *arguments)
        return done


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


@attrs.define
class Sightings:
    """What the looks at all `servers` have found so far."""

    servers: Sequence[Server] = ()
    last: Mapping[Server, Sight] = attrs.field(factory=dict)
    _silent: dict[Server, int] = attrs.field(factory=dict)

    def add(self, found: Mapping[Server, Sight]) -> None:
        """Take note of one look at every server."""
        self.last = found
        for server, sight in found.items():
            self._silent[server] = self._silent.get(server, 0) + 1 if sight is Sight.SILENT else 0

    @property
    def nobody_answers(self) -> bool:
        """Whether no server said anything in the last look."""
        return not any(sight in (Sight.SHOWN, Sight.LACKING) for sight in self.last.values())

    @property
    def missing(self) -> str:
        """In words: which servers are waited for, "" if all show it that may be asked."""
        waiting = {server: sight for server, sight in self.last.items() if self._waits_for(server, sight)}
        if not waiting and Sight.SHOWN not in self.last.values():
            waiting = dict(self.last)
        return _told(waiting)

    def _waits_for(self, server: Server, sight: Sight) -> bool:
        return sight is Sight.LACKING or 0 < self._silent[server] < MOST_SILENT


def _told(sights: Mapping[Server, Sight]) -> str:
    return ", ".join(f"{server} {sight.value}" for server, sight in sights.items())


class Lookups:
    """Questions to a resolver, all of them answered within `LOOKUP_SECONDS`; blocks, and keeps no cache.

    Raises `AcmeError` if the system names no resolver and `server` is None, or for what cannot be found out.
    """

    def __init__(self, server: Server | None) -> None:
        try:
            self._resolver = make_resolver(None if server is None else (server.address, server.port))
        except LookupFailed as error:
            raise AcmeError(str(error)) from None
        self._late = time.monotonic() + LOOKUP_SECONDS

    def _left(self) -> float:
        return max(0.0, self._late - time.monotonic())

    def _records(self, name: dns.name.Name | str, kind: str) -> list[Any]:
        """What there is of this kind at `name`, which may be nothing."""
        try:
            answer = self._resolver.resolve(name, kind, raise_on_no_answer=False, lifetime=self._left())
        except dns.resolver.NXDOMAIN:
            return []
        return list(answer.rrset or ())

    def canonical(self, name: str) -> str:
        """Where the aliases of `name` end."""
        with _in_words(name):
            target = dns.name.from_text(name)
            for _ in range(MOST_ALIASES):
                alias = self._records(target, "CNAME")
                if not alias:
                    return target.to_text(omit_final_dot=True).lower()
                target = alias[0].target
        raise AcmeError(f"looking up {name}: it is an alias of an alias, {MOST_ALIASES} times and more")

    def authoritative(self, name: str) -> tuple[Server, ...]:
        """All addresses of the name servers of the zone that `name` is in."""
        with _in_words(name):
            zone = dns.resolver.zone_for_name(name, resolver=self._resolver, lifetime=self._left())
            if zone == dns.name.root:
                raise AcmeError(f"looking up {name}: no zone has this name")
            hosts = [each.target for each in self._records(zone, "NS")]
        servers = [Server(address) for host in hosts for address in self._addresses(host)]
        if not servers:
            raise AcmeError(f"looking up {name}: the name servers of {zone} have no addresses")
        return tuple(dict.fromkeys(servers))[:MOST_SERVERS]

    def _addresses(self, host: dns.name.Name) -> Iterable[str]:
        for kind in ("A", "AAAA"):
            # One that cannot be found is as one that does not answer: there are others.
            with contextlib.suppress(dns.exception.DNSException, OSError):
                yield from (each.address for each in self._records(host, kind))

    def shows(self, name: str, value: str) -> bool:
        """Whether the resolver has the text `value` for `name`."""
        with contextlib.suppress(dns.exception.DNSException, OSError):
            return _has(self._records(name, "TXT"), value)
        return False


@contextlib.contextmanager
def _in_words(name: str) -> Iterator[None]:
    try:
        yield
    except (dns.exception.DNSException, OSError) as error:
        raise AcmeError(f"looking up {name}: {error}") from None


def _has(texts: Iterable[Any], value: str) -> bool:
    return any(b"".join(text.strings) == value.encode("ascii") for text in texts)


def look(servers: Iterable[Server], name: str, value: str) -> dict[Server, Sight]:
    """Whether each server shows the text `value` at `name`, all asked at once; blocks."""
    query = dns.message.make_query(name, "TXT", use_edns=0, payload=_PAYLOAD, flags=0)
    sights: dict[Server, Sight] = {}
    late = time.monotonic() + LOOK_SECONDS
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for server in servers:
            try:
                waiting.register(stack.enter_context(_ask(server, query)), selectors.EVENT_READ, server)
                sights[server] = Sight.SILENT
            except OSError:
                sights[server] = Sight.DEAD
        while waiting.get_map() and (left := late - time.monotonic()) > 0:
            for ready, _events in waiting.select(left):
                sight = _hear(ready.fileobj, ready.data, query, value)
                if sight is not None:
                    sights[ready.data] = sight
                    waiting.unregister(ready.fileobj)
    return sights


def _ask(server: Server, query: dns.message.Message) -> socket.socket:
    """A socket that the answer will come in at; connected, so that it hears of a closed port too."""
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setblocking(False)
        sock.connect((server.address, server.port))
        sock.send(query.to_wire())
        stack.pop_all()
    return sock


def _hear(sock: Any, server: Server, query: dns.message.Message, value: str) -> Sight | None:
    """What came in; None if that is no answer to the query."""
    try:
        answer = dns.message.from_wire(sock.recv(65535), ignore_trailing=True)
        if not query.is_response(answer):
            return None
        if answer.flags & dns.flags.TC:
            answer = dns.query.tcp(query, server.address, LOOK_SECONDS, server.port)
    except OSError:
        return Sight.DEAD
    except Exception:
        # Anybody may send anything, and the library has many ways to say that it is no DNS.
        return None
    return _sight(answer, value)


def _sight(answer: dns.message.Message, value: str) -> Sight:
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        # It does not know this zone (any more, or yet).
        return Sight.SILENT
    texts = [text for rrset in answer.answer if rrset.rdtype == dns.rdatatype.TXT for text in rrset]
    return Sight.SHOWN if _has(texts, value) else Sight.LACKING
