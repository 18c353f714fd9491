"""The resource plane: a `twisted.web` tree of built-in services and one reverse proxy per slug."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import getrandbits
from typing import Any

import attrs
from twisted.logger import Logger
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from ..balancing import Upstream
from ..errors import NotFound, ProxyError
from ..exchange import Destination, Exchanges
from ..headers import Network, OutgoingRequest, Peer, prepare_request
from ..interfaces import IRegistry
from ..limits import Limits
from ..messages import NO_BODY, Answer, Headers, RequestHead
from ..metrics import RequestCounts
from ..records import Route
from ..routing import is_slug, service_slug
from .answers import ChannelDownstream, ResourceDownstream, report_refusal
from .counting import count
from .peers import peer_of
from .request import ProxyRequest


@attrs.frozen
class Desk:
    """What every proxied request passes: the exchanges under way, and whom we believe.

    `prepare` makes of a head what goes upstream. `counts` has the requests that came through another
    program's Site: our own Sites count theirs.
    """

    exchanges: Exchanges
    trusted: Sequence[Network] = ()
    log: Logger = attrs.field(factory=Logger)
    prepare: Callable[[RequestHead, Peer, bytes, Sequence[Network], Limits], OutgoingRequest] = (
        prepare_request
    )
    counts: RequestCounts = attrs.field(factory=RequestCounts)


class Proxied:
    """What tells the fast plane and HTTP/2 where a request goes."""

    desk: Desk
    """What every proxied request passes."""

    def choose(self, request: OutgoingRequest) -> Upstream | Destination | Answer | None:
        """Where a request goes, or our own answer to it; None if it is not proxied.

        Raises the `errors.ProxyError` that answers it.
        """
        raise NotImplementedError

    def over(self, covers: Callable[[str], bool]) -> Proxied:
        """The same for one TLS connection, whose certificate `covers` some (canonical) hosts."""
        return self


def relay(
    request: Any,
    target: bytes,
    choose: Callable[[OutgoingRequest], Upstream | Destination | Answer],
    desk: Desk,
) -> None:
    """Answer `request` with what the upstream answers to `target`, or refuse it."""
    downstream = downstream_for(request, desk)
    if isinstance(downstream, ChannelDownstream):
        peer = request.channel.peer(desk.trusted)
    else:
        peer = peer_of(request.getClientAddress(), request.isSecure(), desk.trusted)
    fields: Headers = [
        (name, value) for name, values in request.requestHeaders.getAllRawHeaders() for value in values
    ]
    head = RequestHead(request.method, target, fields, request.clientproto)
    try:
        outgoing = desk.prepare(head, peer, b"%032x" % getrandbits(128), desk.trusted, desk.exchanges.limits)
        if isinstance(request, ProxyRequest):
            request.request_id = outgoing.request_id
        to = choose(outgoing)
    except ProxyError as error:
        refuse(request, downstream, error, desk.log)
        return
    if isinstance(to, Answer):
        downstream.answer(to)
        return
    # twisted.web's channel cannot become a tunnel: as if it had not been asked (RFC 9110, 7.8).
    outgoing.upgrade = b""
    if isinstance(downstream, ResourceDownstream):
        # twisted.web has asked for an expected body, and taken it out of its framing, before we came.
        outgoing.expects_continue = False
        size = request.content.seek(0, 2)
        request.content.seek(0)
        if size or outgoing.body != NO_BODY:
            outgoing.body = size
    exchange = desk.exchanges.begin(downstream, outgoing, to)
    downstream.exchange = exchange
    if isinstance(request, ProxyRequest):
        request.exchange = exchange
    exchange.start()
    if isinstance(downstream, ResourceDownstream):
        downstream.feed()


def _count_at_end(request: Any, downstream: ResourceDownstream, desk: Desk) -> None:
    clock = desk.exchanges.clock
    began = clock.seconds()

    def over(_: object) -> None:
        status = request.code if request.startedWriting else 499
        count(desk.counts, downstream.exchange, status, clock.seconds(), began, request.sentLength)

    request.notifyFinish().addBoth(over)


def downstream_for(request: Any, desk: Desk) -> ChannelDownstream | ResourceDownstream:
    """How this request is answered: straight through our own channel where it came that way."""
    if isinstance(request, ProxyRequest) and request.site.owns(request):
        return ChannelDownstream(request)
    downstream = ResourceDownstream(request)
    if not isinstance(request, ProxyRequest):
        # Another program's Site counts nothing.
        _count_at_end(request, downstream, desk)
    return downstream


def refuse(
    request: Request, downstream: ChannelDownstream | ResourceDownstream, error: ProxyError, log: Logger
) -> None:
    """Answer with the error, and say in the log why."""
    if error.closes and isinstance(downstream, ChannelDownstream):
        request.channel.persistent = False
    status, message = report_refusal(log, request.method, request.uri, error)
    if isinstance(request, ProxyRequest):
        request.reason = message
    downstream.refuse(status, message)


class ReverseProxyResource(Proxied, Resource):
    """Relays all requests at and below it to an upstream, their target unchanged.

    It stands where `twisted.web.proxy.ReverseProxyResource` would. Mounted below a path, that path is
    taken off the target; `keep` path segments of it stay (the slug, which services expect to see).
    """

    isLeaf = True
    streams = True

    def __init__(self, upstream: Callable[[], Upstream | Destination], desk: Desk, keep: int = 0) -> None:
        super().__init__()
        self._upstream = upstream
        self.desk = desk
        self._keep = keep

    def choose(self, request: OutgoingRequest) -> Upstream | Destination:
        """See `Proxied`: at the root of a site, all that comes is for the upstream."""
        return self._upstream()

    def render(self, request: Any) -> int:
        """Answer later, with whatever the upstream answers."""
        above = len(request.prepath) - self._keep
        target = request.uri
        if above > 0:
            path, question, query = target.partition(b"?")
            target = below(path, above) + question + query
        relay(request, target, self.choose, self.desk)
        return NOT_DONE_YET


def below(path: bytes, segments: int) -> bytes:
    """`path`, byte for byte, without its first `segments` segments."""
    for _ in range(segments):
        path = b"/" + path[1:].partition(b"/")[2]
    return path


class _Refusal(Resource):
    """Answers everything with one error, as JSON."""

    isLeaf = True
    streams = True

    def __init__(self, error: ProxyError, desk: Desk) -> None:
        super().__init__()
        self._error = error
        self._desk = desk

    def render(self, request: Any) -> int:
        refuse(request, downstream_for(request, self._desk), self._error, self._desk.log)
        return NOT_DONE_YET


class ServiceResource(Proxied, Resource):
    """The service side: the first path segment is a slug.

    A built-in service answers itself; any other slug is looked up in the registry. It works at the root of
    a `ProxySite`, and below any path of any other `twisted.web` Site. `destination_of` says where requests
    for a service go that has an entry among the Routes.
    """

    def __init__(
        self,
        registry: IRegistry,
        desk: Desk,
        destination_of: Callable[[Route], Upstream | Destination | None] | None = None,
    ) -> None:
        super().__init__()
        self._registry = registry
        self.desk = desk
        self._destination_of = destination_of
        # Those of services, by slug.
        self._entries: dict[str, Route] = {}
        self._built_in: Mapping[bytes, IResource] = {}
        # One per slug of the registry, made when it is first asked for; unknown slugs leave nothing here.
        self._services: dict[str, ReverseProxyResource] = {}

    def serve(self, built_in: Mapping[bytes, IResource]) -> None:
        """Answer for these slugs with resources of our own."""
        self._built_in = dict(built_in)

    def publish(self, entries: Iterable[Route]) -> None:
        """From now on these are the Routes of services."""
        self._entries = {entry.id.removeprefix("/"): entry for entry in entries}

    def choose(self, request: OutgoingRequest) -> Upstream | Destination | None:
        """See `Proxied`: by the slug in the request's path."""
        slug = service_slug(request.target.partition(b"?")[0])
        if slug in self._built_in:
            return None
        return self._upstream(slug.decode("latin-1"))

    def getChild(self, path: bytes, request: Any) -> IResource:
        """The resource that answers for the slug in this request's path."""
        try:
            slug = service_slug(below(request.uri.partition(b"?")[0], len(request.prepath) - 1))
            built_in = self._built_in.get(slug)
            if built_in is not None:
                return built_in
            name = slug.decode("latin-1")
            self._upstream(name)
        except ProxyError as error:
            return _Refusal(error, self.desk)
        service = self._services.get(name)
        if service is None:
            service = self._services[name] = ReverseProxyResource(
                lambda: self._upstream(name), self.desk, keep=1
            )
        return service

    def _upstream(self, slug: str) -> Upstream | Destination:
        entry = self._entries.get(slug) if self._entries else None
        if entry is not None and self._destination_of is not None:
            destination = self._destination_of(entry)
            if destination is not None:
                return destination
        upstream = self._registry.lookup(slug)
        if upstream is None:
            self._services.pop(slug, None)
            raise _unknown(slug)
        return upstream

    def render(self, request: Any) -> int:
        """No slug at all: the path ends at the mount."""
        return _Refusal(_unknown(""), self.desk).render(request)


def _unknown(slug: str) -> NotFound:
    if is_slug(slug):
        return NotFound(f"no service {slug!r} is registered")
    return NotFound("the path begins with no service's slug")
