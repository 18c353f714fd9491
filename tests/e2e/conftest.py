"""One proxy, one nginx and one Node server for all tests here; fresh proxies where a test stops them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import pytest

from . import policies
from .api import Api
from .edge import Edge
from .proxy_process import ProxyProcess, running
from .raw_backend import RawBackend, Script, answer_ok
from .raw_client import RawClient
from .recording import Recorder
from .servers import Server, start_nginx, start_node

_numbers = itertools.count(1)
_TRUSTING = ("--trusted-proxies", policies.TRUSTED)


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """The proxy that tests share; when the session ends it must stop well."""
    with running(tmp_path_factory.mktemp("proxy")) as started:
        yield started


@pytest.fixture
def new_proxy(tmp_path) -> Iterator[Callable[..., ProxyProcess]]:
    """Make (and start) a proxy of the test's own: ``new_proxy(*options, **variables)``."""
    made: list[ProxyProcess] = []

    def make(*options: str, **settings) -> ProxyProcess:
        made.append(ProxyProcess(tmp_path, *options, **settings))
        return made[-1].start()

    yield make
    for each in made:
        each.kill()


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """The proxy with its edge open that tests share."""
    with _open_edge(tmp_path_factory) as shared:
        yield shared


@contextlib.contextmanager
def _open_edge(paths: pytest.TempPathFactory, *options: str) -> Iterator[Edge]:
    """When the session ends it must stop well."""
    shared = Edge(paths.mktemp("edge"), *options)
    try:
        shared.start()
        yield shared
        shared.stop()
    finally:
        shared.kill()


@pytest.fixture
def new_edge(tmp_path) -> Iterator[Callable[..., Edge]]:
    """Make and start an edge of the test's own: ``new_edge(*options, **variables)``."""
    made: list[Edge] = []

    def make(*options: str, **settings) -> Edge:
        made.append(Edge(tmp_path, *options, **settings))
        edge = made[-1]
        edge.start()
        return edge

    yield make
    for each in made:
        each.kill()


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """The proxy that tests of policies share, its edge in clear; it believes `policies.TRUSTED`."""
    with _open_edge(tmp_path_factory, "--edge-test-mode", *_TRUSTING) as shared:
        yield shared


@pytest.fixture(scope="session")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """The same over TLS."""
    with _open_edge(tmp_path_factory, *_TRUSTING) as shared:
        yield shared


@pytest.fixture(params=policies.DOORS)
def door(request, desk: Edge, front: Edge) -> Iterator[policies.Door]:
    """Each way to a service, which answers with the target."""
    with policies.door_to(request.param, desk, front) as opened:
        yield opened


@pytest.fixture
def host() -> str:
    """A host that no other test uses."""
    return f"site-{next(_numbers)}.test"


@pytest.fixture
def site(edge: Edge, host: str) -> Iterator[Recorder]:
    """What the one target of `host` at the shared edge receives; it answers with the target."""
    recorder = Recorder()
    with RawBackend(recorder) as backend:
        edge.route(host, backend.url)
        edge.certify(host)
        yield recorder


@pytest.fixture(scope="session")
def admin(proxy: ProxyProcess) -> Api:
    """The shared proxy's API, as the admin."""
    return Api(proxy.url).login()


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real nginx."""
    server = start_nginx(tmp_path_factory.mktemp("nginx"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real Node server."""
    server = start_node(tmp_path_factory.mktemp("node"))
    yield server
    server.stop()


@pytest.fixture
def slug() -> str:
    """A service slug that no other test uses."""
    return f"test-{next(_numbers)}-svc"


@pytest.fixture
def backend(admin: Api, slug: str) -> Iterator[Callable[..., RawBackend]]:
    """Start a raw backend with this script, registered as an instance of `slug`."""
    made: list[RawBackend] = []

    def make(script: Script = answer_ok) -> RawBackend:
        made.append(RawBackend(script))
        admin.add_instance(made[-1].url, slug)
        return made[-1]

    yield make
    failures = [failure for each in made for failure in each.failures]
    for each in made:
        each.close()
    if failures:
        raise failures[0]


@pytest.fixture
def recorder(backend: Callable[..., RawBackend]) -> Recorder:
    """What the one instance of `slug` receives, read by h11; it answers with the target."""
    recorded = Recorder()
    backend(recorded)
    return recorded


@pytest.fixture
def client(proxy: ProxyProcess) -> Iterator[RawClient]:
    """A raw connection to the shared proxy."""
    with RawClient(proxy.port) as connection:
        yield connection
