"""What takes a minute or more by its nature: each in a thread, all at the same time."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from . import programs
from .acme import SOON, AcmeEdge, Gate, all_at_once, hung_directory, joining, ordering, orders, retry_at
from .disks import small_disk
from .edge import shown_serial, trusting
from .load import Http2, KeepAlive, Load, OneEach, secure, under_way
from .waiting import wait_until

pytestmark = pytest.mark.once

LEASE = 20.0
"""Seconds after which a process may order for a name that another one had begun with."""
FIRST_WAIT = 60.0 * 1.1
"""Seconds after a first failure until it is tried again."""
LOOK = 5.0
"""Seconds between two looks at what is due."""
GET = b"GET / HTTP/1.1\r\nHost: x.test\r\n\r\n"


def renewed_under_load(work: pathlib.Path) -> None:
    """Certificates that live for a minute are renewed again and again, and no request fails."""
    with ordering(work, pebble={"validity": 60}) as (edge, pebble, backend):
        edge.route("x.test", backend.url)
        edge.wait_until_served("x.test")
        connect = secure(edge.https_port, "x.test", trusting(edge.roots))
        second = secure(edge.https_port, "x.test", trusting(edge.roots, ["h2"]))
        serials = [edge.serial("x.test")]
        clients: dict[str, OneEach | Http2] = {
            "kept": KeepAlive(connect, GET),
            "new": OneEach(connect, GET),
            "http2": Http2(second, "x.test", "/"),
        }
        with under_way(Load(**clients)) as load:
            for _ in range(2):
                serials.append(edge.wait_for_another("x.test", serials[-1], 55))
        assert not load.failures
        assert all(tally.answered > 100 for tally in load.tallies.values()), load.tallies
        # A connection is closed after a thousand requests, and for no other reason.
        for kept in (load.tallies["kept"], load.tallies["http2"]):
            assert kept.connections <= kept.answered // 1000 + 1
        assert orders(pebble) == 3


def down_when_saved(work: pathlib.Path) -> None:
    """The authority is down when the Route is saved; later the first clients have it ordered, once."""
    with ordering(work, start=False) as (edge, pebble, backend):
        pebble.stop()
        began = time.monotonic()
        edge.start()
        edge.route("x.test", backend.url)
        trouble = edge.wait_for_trouble("x.test")
        assert time.monotonic() - began < SOON
        assert trouble["failures"] == 1
        # Nobody waits for an authority that has just been found to be down.
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            shown_serial(edge.https_port, "x.test")
        pebble.start()
        edge.trust(pebble)
        time.sleep(max(0.0, retry_at(trouble) + 0.2 - time.time()))
        serials = all_at_once(edge, "x.test")
        assert len(serials) == 20
        assert len(set(serials)) == 1 and 0 not in serials, serials
        assert orders(pebble) == 1
        assert edge.trouble("x.test") is None


def fails_then_works(work: pathlib.Path) -> None:
    """DNS that points elsewhere: told in the authority's words, and put right without anybody's help."""
    with ordering(work) as (edge, pebble, backend):
        for host in ("wrong.test", "asked.test"):
            pebble.names.set_a(host, "127.0.0.9")
            edge.route(host, backend.url)
        for host in ("wrong.test", "asked.test"):
            trouble = edge.wait_for_trouble(host)
            # Both kinds of proof were tried, and what the server said is told of both.
            assert "http-01" in trouble["problem"] and "tls-alpn-01" in trouble["problem"], trouble
            assert "127.0.0.9" in trouble["problem"] or "refused" in trouble["problem"], trouble
        listed = edge.oo("certs", "list", "--failing")
        assert "wrong.test" in listed.stdout and "refused" in listed.stdout, listed
        assert "refused" in edge.log()
        before = orders(pebble)
        for host in ("wrong.test", "asked.test"):
            pebble.names.set_a(host)
        renewed = edge.oo("certs", "renew", "asked.test", "--wait")
        assert renewed.returncode == 0, renewed
        assert edge.serves("asked.test")
        assert orders(pebble) == before + 1
        edge.wait_until_served("wrong.test", seconds=FIRST_WAIT + LOOK + SOON)
        assert orders(pebble) == before + 2
        assert edge.trouble("wrong.test") is None
        assert "wrong.test" not in edge.oo("certs", "list", "--failing").stdout


def first_directory_hangs(work: pathlib.Path) -> None:
    """The second is used, and neither the start nor a save waits for any."""
    with hung_directory() as hung, ordering(work, start=False, before=[hung]) as (edge, pebble, backend):
        began = time.monotonic()
        edge.start()
        edge.route("x.test", backend.url)
        assert time.monotonic() - began < SOON
        edge.wait_until_served("x.test", seconds=60)
        assert orders(pebble) == 1


def stopped_while_it_hangs(work: pathlib.Path) -> None:
    """A stop waits for no order, and for no client that waits for one."""
    edge = AcmeEdge(work)
    with hung_directory() as hung, contextlib.ExitStack() as stack:
        stack.callback(edge.kill)
        edge.order_from(hung)
        edge.start()
        edge.route("x.test", "http://127.0.0.1:1")
        wait_until(lambda: "ordering a certificate for x.test" in edge.log(), "it is being ordered", SOON)
        waiting = stack.enter_context(socket.create_connection(("127.0.0.1", edge.https_port), timeout=SOON))
        hello = stack.enter_context(ThreadPoolExecutor()).submit(refusal_of, waiting)
        time.sleep(1)
        assert not hello.done()
        edge.terminate()
        assert edge.wait(5) == 0, edge.log()
        assert "Traceback" not in edge.log(), edge.log()
        hello.result(SOON)


def refusal_of(plain: socket.socket) -> None:
    """A handshake that comes to nothing."""
    with pytest.raises((ssl.SSLError, OSError)):
        trusting(None).wrap_socket(plain, server_hostname="x.test")


def clock_moves_on(work: pathlib.Path) -> None:
    """Two months later by the process's clock a certificate of 90 days is renewed, and then not again."""
    library = str(programs.faketime())
    with ordering(work) as (edge, pebble, backend):
        edge.route("x.test", backend.url)
        edge.wait_until_served("x.test")
        first = edge.serial("x.test")
        edge.stop()
        # 2/3 of its life, and what is drawn by name.
        edge.variables |= {"LD_PRELOAD": library, "FAKETIME": "+64d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        edge.start()
        second = edge.wait_for_another("x.test", first)
        time.sleep(2 * LOOK)
        # To this clock the new one is two months old as well.
        assert edge.serial("x.test") == second
        assert orders(pebble) == 2


def killed_in_the_middle(work: pathlib.Path) -> None:
    """Killed while the authority looks for the proof; what is started next has the certificate soon."""
    with ordering(work) as (edge, pebble, backend), Gate(edge.http_port) as gate:
        pebble.names.set_a("x.test", gate.ADDRESS)
        edge.route("x.test", backend.url)
        assert gate.asked.wait(SOON)
        edge.kill()
        assert orders(pebble) == 1
        pebble.names.set_a("x.test")
        began = time.monotonic()
        edge.start()
        edge.wait_until_served("x.test", seconds=LEASE + LOOK + SOON)
        assert time.monotonic() - began < LEASE + LOOK + SOON
        assert orders(pebble) == 2


def killed_beside_another(work: pathlib.Path) -> None:
    """As before, with another process on the same folder: it takes the order over."""
    survivor = AcmeEdge(work)
    with contextlib.ExitStack() as stack:
        pebble_of = ordering(work, pebble=survivor.ports, start=False)
        edge, pebble, backend = stack.enter_context(pebble_of)
        other = stack.enter_context(joining(survivor, pebble))
        edge.start()
        gate = stack.enter_context(Gate(other.http_port))
        pebble.names.set_a("x.test", gate.ADDRESS)
        edge.route("x.test", backend.url)
        assert gate.asked.wait(SOON)
        assert "ordering a certificate" in edge.log() and "ordering a certificate" not in other.log()
        edge.kill()
        pebble.names.set_a("x.test")
        other.wait_until_served("x.test", seconds=LEASE + LOOK + SOON)
        assert orders(pebble) == 2
        # In the end both must stop well.
        edge.start()
        assert edge.serial("x.test") == other.serial("x.test")


def disk_full(work: pathlib.Path) -> None:
    """The old certificate is shown until there is room for the new one, which is not ordered again."""
    folder = work / "disk"
    with small_disk(folder) as disk, ordering(work, folder=folder) as (edge, pebble, backend):
        edge.route("x.test", backend.url)
        edge.wait_until_served("x.test")
        old = edge.serial("x.test")
        with Gate(edge.http_port) as gate:
            pebble.names.set_a("x.test", gate.ADDRESS)
            assert edge.oo("certs", "renew", "x.test").returncode == 0
            assert gate.asked.wait(SOON)
            disk.fill(edge.process.pid)
            gate.open()
            wait_until(lambda: "cannot be stored" in edge.log(), f"it has no room\n{edge.log()}", SOON)
            assert edge.serial("x.test") == old
            assert edge.serves("x.test")
            time.sleep(2 * LOOK)
            assert edge.serial("x.test") == old
            disk.clear(edge.process.pid)
            edge.wait_for_another("x.test", old)
            assert orders(pebble) == 2


def renewed_when_the_authority_says(work: pathlib.Path) -> None:
    """A window that is over (RFC 9773) means now, and the order says what it replaces."""
    with ordering(work, pebble={"version": "newest", "validity": 300}) as (edge, pebble, backend):
        edge.route("x.test", backend.url)
        edge.wait_until_served("x.test")
        shown = edge.shown("x.test")
        assert shown is not None
        now = datetime.datetime.now(datetime.UTC)
        pem = shown.public_bytes(Encoding.PEM).decode()
        pebble.set_renewal_window(
            pem,
            now - datetime.timedelta(minutes=2),
            now - datetime.timedelta(minutes=1),
            explanationURL="https://ca.test/because",
        )
        edge.wait_for_another("x.test", shown.serial_number, 75)
        assert "is a replacement of" in pebble.log()
        assert "https://ca.test/because" in edge.log()


SCENARIOS: Mapping[str, Callable[[pathlib.Path], None]] = {
    scenario.__name__: scenario
    for scenario in (
        renewed_under_load,
        down_when_saved,
        fails_then_works,
        first_directory_hangs,
        stopped_while_it_hangs,
        clock_moves_on,
        killed_in_the_middle,
        killed_beside_another,
        disk_full,
        renewed_when_the_authority_says,
    )
}


@pytest.fixture(scope="module")
def under_way_all(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[None]]]:
    """All of them that were selected, begun."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = [
        str(item.callspec.params["name"]) for item in here if item.originalname == test_in_time.__name__
    ]
    with ThreadPoolExecutor(len(wanted)) as pool:
        yield {name: pool.submit(SCENARIOS[name], tmp_path_factory.mktemp(name)) for name in wanted}


@pytest.mark.parametrize("name", SCENARIOS)
def test_in_time(name, under_way_all):
    under_way_all[name].result()
