"""The proxy itself: the store, the registry, the edge and both planes, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from itertools import chain
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from .api import BuiltInService, EdgeView, MetricSources, built_in_services, open_accounts
from .balancing import EndpointState
from .desk.guard import Guards
from .desk.storage import Storage, StorageStats
from .downstream import ServiceResource
from .downstream.edge import EdgeResource, PlainEdge
from .downstream.peers import client_address
from .downstream.resources import Desk
from .edge_certificates import EdgeCertificates
from .exchange import Exchanges
from .folder import ADMIN_PASSWORD, DATABASE, ENCRYPTION_KEY, kept_secret, make_folder
from .headers import prepare_request
from .inside import BuiltInUpstream
from .interfaces import IStore, Published
from .metrics import RequestCounts
from .options import Settings
from .password_work import PasswordWork
from .registry import EmbeddedRegistry
from .store import Vault, open_sqlite
from .targets import RouteUpstreams, Targets
from .tls.challenges import HTTP_01
from .tracing import traced_request
from .upstream import HealthChecks, Http1Client

if TYPE_CHECKING:
    from .issuing import EdgeIssuing

GRACE = 20.0
"""Seconds that requests in flight may take to finish when the proxy is told to stop."""


def _make_issuing(
    settings: Settings, store: IStore, certificates: EdgeCertificates, reactor: Any
) -> EdgeIssuing | None:
    if not settings.edge or settings.edge_test_mode or not settings.acme_directories:
        return None
    # With all that it needs it takes 12 MB and 300 ms.
    from .issuing import EdgeIssuing

    return EdgeIssuing(settings, store, certificates, reactor)


def _version() -> str:
    try:
        return metadata.version("onebackend_proxy")
    except metadata.PackageNotFoundError:
        # It runs from where it was written.
        return "unknown"


class ProxyService(Service):
    """The proxy as a `twisted.application` service, and as `resource` for another program's Site.

    Making it opens the store, which may block and raises `errors.SettingError`; starting it reads the
    store, looks at the instances, and answers from then on. `ready` fires when that is so.
    """

    name = "onebackend-proxy"

    def __init__(self, settings: Settings, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.settings = settings
        self.ready: Deferred[None] = Deferred()
        self._starting: Deferred[None] | None = None
        self._built_in: dict[bytes, BuiltInService] = {}
        self._reactor = reactor
        self._log = Logger()
        make_folder(settings.folder)
        key = settings.encryption_key or kept_secret(settings.folder / ENCRYPTION_KEY)
        self._admin_password = settings.admin_password or kept_secret(settings.folder / ADMIN_PASSWORD)
        self.store = open_sqlite(settings.folder / DATABASE, Vault(key), reactor)
        limits = settings.limits
        services = Resource()
        self._inside = BuiltInUpstream(reactor, services, limits)
        self._services = services
        self._client = Http1Client(reactor, self._inside.endpoint_for, limits)
        self.registry = EmbeddedRegistry(
            self.store, timeouts=limits.timeouts, ejection=limits.ejection, balance=settings.balance
        )
        targets = Targets(self.registry.lookup)
        self._upstreams = RouteUpstreams(targets, limits, settings.balance)
        self.storage = Storage(settings.edge_cache_max_size, settings.edge_cache_item_max_size)
        self._guards = Guards(
            self._upstreams,
            # After a start all who come in are new to us.
            PasswordWork(waiting=64),
            reactor.seconds,
            self.storage if settings.edge_cache_max_size and settings.edge_cache_item_max_size else None,
            built_in=lambda route: self._inside.upstream(route.id),
        )
        self._health = HealthChecks(
            reactor, lambda: chain(self.registry.endpoints(), self._upstreams.endpoints())
        )
        self.registry.watch = targets.watch = self._health.look
        self.exchanges = Exchanges(reactor, self._client, limits=settings.limits)
        self.counts = RequestCounts()
        self.readings: dict[str, Callable[[], float]] = {"exchanges_in_flight": lambda: len(self.exchanges)}
        """What else the metrics show: some of `api.exposition.READINGS`, each by who knows it."""
        stats = self.storage.stats
        for field in attrs.fields(StorageStats):
            self.readings[f"cache_{field.name}"] = partial(getattr, stats, field.name)
        desk = Desk(
            self.exchanges,
            settings.trusted_proxies,
            prepare=traced_request if settings.trace else prepare_request,
            counts=self.counts,
        )
        self.resource = ServiceResource(self.registry, desk, self._guards.of)
        self.edge = EdgeResource(desk, self._guards.of, self.resource)
        self.plain_edge = PlainEdge(self.edge)
        self.certificates = EdgeCertificates(
            self.store, settings.folder, reactor, self.edge.owns, limits, settings.sync_certs_to_files
        )
        if settings.edge and not settings.edge_test_mode:
            self.plain_edge.challenges = partial(self.certificates.challenges.find, HTTP_01)
        self.issuing = _make_issuing(settings, self.store, self.certificates, reactor)
        self._published: Published | None = None
        self._draining: list[Deferred[Any]] = []

    def privilegedStartService(self) -> None:
        """Open the store for good: after twistd's fork, and before it drops privileges."""
        super().privilegedStartService()
        self.store.connect()

    def startService(self) -> None:
        """Read the store and begin to answer."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.chainDeferred(self.ready)

    async def _start(self) -> None:
        accounts = await open_accounts(
            self.store,
            self._reactor.seconds,
            open_registration=self.settings.open_registration,
            slug_in_use=lambda slug: self.registry.lookup(slug) is not None,
        )
        await accounts.ensure_admin(self._admin_password)
        await self.store.follow(self._publish)
        self._built_in = built_in_services(
            self.store,
            self.registry,
            accounts,
            self.client_address,
            services=self.resource.choose,
            edge=self._edge_view() if self.settings.edge else None,
            local_root=self.certificates.local_root if self.settings.edge else None,
            issuing=self.issuing,
            metrics=self._metrics(),
            purge=self.storage.purge,
            seconds=self._reactor.seconds,
        )
        self.resource.serve(self._built_in)
        for slug, service in self._built_in.items():
            self._services.putChild(slug, service)
        self._health.start()
        if self.issuing is not None:
            await self.issuing.start()

    def _publish(self, published: Published) -> None:
        """The store has something new, from whichever process: the one place where it becomes ours."""
        before = self._published
        self._published = published
        if before is None or published.instances is not before.instances:
            self.registry.published(published.instances)
        if before is None or published.routes is not before.routes:
            self._upstreams.publish(published.routes)
            self._guards.publish(published.routes)
            self.resource.publish(published.routes.services())
        if before is None or published.certificates is not before.certificates:
            self.certificates.publish(published)
        self.edge.publish(published)
        if len(self.counts) > len(published.routes) + len(published.instances) + 1:
            self.counts.keep(self._there_is)
        if self.issuing is not None:
            self.issuing.publish(published)

    def _metrics(self) -> MetricSources:
        return MetricSources(
            _version(),
            self._reactor.seconds,
            self.counts,
            self._addresses,
            lambda: () if self._published is None else self._published.certificates,
            self._there_is,
            self.readings,
            self.settings.metrics_token,
        )

    def _there_is(self, name: str) -> bool:
        """Whether a Route has this id, or a service of this name an instance."""
        if self._published is not None and self._published.routes.get(name) is not None:
            return True
        return name[:1] == "/" and self.registry.lookup(name[1:]) is not None

    def _addresses(self) -> Iterable[tuple[str, EndpointState]]:
        """Every address in use, with the service whose instance it is."""
        for upstream in self.registry.upstreams():
            for endpoint in upstream.endpoints:
                yield upstream.name, endpoint
        for endpoint in self._upstreams.endpoints():
            yield "", endpoint

    def _edge_view(self) -> EdgeView:
        def published() -> Published:
            assert self._published is not None
            return self._published

        if self.settings.edge_test_mode:
            return EdgeView(published, self.certificates.certificate_for, None, self.edge.choose)
        return EdgeView(
            published, self.certificates.certificate_for, self.edge.choose, self.plain_edge.answer
        )

    def client_address(self, request: Request) -> str:
        """Whose request it is, behind whatever trusted proxies: the throttle and the access log agree."""
        return self._inside.client_of(
            request, lambda request: client_address(request, self.settings.trusted_proxies)
        )

    def stopService(self) -> Deferred[None]:
        """Finish what is in flight, at most for `GRACE` seconds, then let go of everything."""
        super().stopService()
        if self._starting is not None:
            self._starting.cancel()
        self._health.stop()
        self.certificates.stop()
        if self.issuing is not None:
            self._draining.append(self.issuing.stop())
        calls = [service.drained() for service in self._built_in.values()]
        for call in calls:
            call.addTimeout(GRACE, self._reactor, onTimeoutCancel=lambda *_: None)
        return gatherResults([self.exchanges.drain(GRACE), *calls, *self._draining]).addCallback(self._close)

    def wait_for(self, drained: Deferred[Any]) -> None:
        """When told to stop, let go of nothing before this has fired: requests may come until then."""
        self._draining.append(drained)

    def _close(self, results: list[Any]) -> Deferred[None]:
        cut = results[0]
        if cut:
            self._log.warn("{cut} requests were cut off after {grace} s", cut=cut, grace=GRACE)
        self._client.close()
        return self.store.close()
