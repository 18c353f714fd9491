"""An edge that orders its certificates at a real pebble, and what stands in its way."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cryptography import x509

from ..pebble import Pebble, start_pebble
from .edge import Edge, connected, trusting
from .proxy_process import ADMIN_PASSWORD, environment
from .raw_backend import RawBackend
from .waiting import free_port, wait_until

SOON = 20.0
"""Seconds in which an order is complete, on a machine that has much else to do."""
OO = [sys.executable, "-c", "from onebackend_proxy.cli.main import main; main()"]


class AcmeEdge(Edge):
    """An edge whose certificates come from the directories that `order_from` names, and that trusts them."""

    def __init__(self, work: pathlib.Path, *options: str, **settings: Any) -> None:
        super().__init__(work, *options, **settings)
        self.roots.write_text("")

    def start(self) -> AcmeEdge:
        """Start it and wait until it answers."""
        super().start()
        return self

    @property
    def ports(self) -> dict[str, int]:
        """Where an authority looks for proofs, as `start_pebble` wants it."""
        return {"http_port": self.http_port, "tls_port": self.https_port}

    def order_from(self, *directories: str, ca_file: pathlib.Path | None = None) -> None:
        """Once started it orders at these."""
        self.options += ("--acme-directory", ",".join(directories))
        if ca_file:
            self.options += ("--acme-ca-file", str(ca_file))

    def trust(self, pebble: Pebble) -> None:
        """From now on `roots` is what this pebble issues by; it has another root each time that it starts."""
        self.roots.write_text(pebble.root())

    def oo(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What `oo` says on the proxy's own machine."""
        variables = environment(
            OB_SERVER_URL=self.url, OB_FOLDER=str(self.folder), OB_ADMIN_PASSWORD=ADMIN_PASSWORD
        )
        return subprocess.run([*OO, *words], env=variables, capture_output=True, text=True, timeout=150)

    def serves(self, host: str, path: str = "/") -> bool:
        """Whether curl gets 200 over https, and believes the certificate."""
        return self.curl(f"https://{host}{path}", check=False).status == 200

    def wait_until_served(self, *hosts: str, seconds: float = SOON) -> None:
        """Until each of them is."""
        for host in hosts:
            wait_until(lambda: self.serves(host), f"https://{host}/ is served\n{self.log()}", seconds)  # noqa: B023

    def shown(self, host: str) -> x509.Certificate | None:
        """The certificate that a new connection is shown and believes, if there is one."""
        try:
            with connected(self.https_port, host, trusting(self.roots)) as connection:
                der = connection.getpeercert(binary_form=True)
        except ssl.SSLError:
            return None
        assert der
        return x509.load_der_x509_certificate(der)

    def serial(self, host: str) -> int:
        """The serial number of the certificate that is shown for this host, which must be good."""
        found = self.shown(host)
        assert found is not None, f"nothing good is shown for {host}"
        return found.serial_number

    def wait_for_another(self, host: str, serial: int, seconds: float = SOON) -> int:
        """Until another certificate is shown than the one with this serial; its own."""

        def another() -> int:
            now = self.serial(host)
            return now if now != serial else 0

        return wait_until(another, f"another certificate for {host}\n{self.log()}", seconds)

    def trouble(self, host: str) -> dict[str, Any] | None:
        """What the API tells of failed orders for this name."""
        listed = self.api.ok("POST", "/proxy-svc/certs", {"failing": True})["failing"]
        found: list[dict[str, Any]] = [each for each in listed if each["name"] == host]
        return found[0] if found else None

    def wait_for_trouble(self, host: str, seconds: float = SOON) -> dict[str, Any]:
        """Until an order for this name has failed; what is told of it."""
        return wait_until(lambda: self.trouble(host), f"{host} fails\n{self.log()}", seconds) or {}


def retry_at(trouble: dict[str, Any]) -> float:
    """When it will be tried again, in Unix seconds."""
    return datetime.datetime.fromisoformat(trouble["retryAt"]).timestamp()


@contextlib.contextmanager
def ordering(
    work: pathlib.Path,
    *options: str,
    start: bool = True,
    before: Sequence[str] = (),
    pebble: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[tuple[AcmeEdge, Pebble, RawBackend]]:
    """An edge, the pebble that it orders from (`start_pebble` with these), and a backend that says ok.

    In the end it must stop well. With `start` false the test starts it. `before` are directories that it
    tries first.
    """
    edge = AcmeEdge(work, *options, **settings)
    folder = work / "pebble"
    folder.mkdir()
    wanted = {**edge.ports, **(pebble or {})}
    with contextlib.ExitStack() as stack:
        authority = stack.enter_context(start_pebble(folder, **wanted))
        backend = stack.enter_context(RawBackend())
        stack.callback(edge.kill)
        edge.order_from(*before, authority.directory, ca_file=authority.ca_file)
        edge.trust(authority)
        try:
            if start:
                edge.start()
            yield edge, authority, backend
            edge.stop()
        except Exception as error:
            error.add_note(f"--- the proxy's log ends with:\n{edge.log()[-6000:]}")
            error.add_note(f"--- pebble's log ends with:\n{authority.log()[-3000:]}")
            raise


@contextlib.contextmanager
def joining(other: AcmeEdge, pebble: Pebble) -> Iterator[AcmeEdge]:
    """A second edge on the folder of the first, which orders from the same pebble and must stop well, too."""
    other.order_from(pebble.directory, ca_file=pebble.ca_file)
    other.trust(pebble)
    try:
        yield other.start()
        other.stop()
    except Exception as error:
        error.add_note(f"--- the other proxy's log ends with:\n{other.log()[-6000:]}")
        raise
    finally:
        other.kill()


def orders(pebble: Pebble) -> int:
    """How many orders it has taken, in all its lives."""
    return pebble.log().count("Added order ")


def asked_for(pebble: Pebble) -> set[str]:
    """The hosts at which it has looked for an HTTP-01 answer."""
    return set(re.findall(r"validate w/ HTTP: http://([^:/]+)", pebble.log()))


def all_at_once(edge: AcmeEdge, host: str, count: int = 20, patience: float = 30.0) -> list[int]:
    """So many clients shake hands for this host at the same time; the serials that they saw and believed.

    0 stands for each that was refused.
    """
    serials: list[int] = []
    ready = threading.Barrier(count)

    def shake() -> None:
        ready.wait()
        try:
            with connected(edge.https_port, host, trusting(edge.roots), patience) as connection:
                der = connection.getpeercert(binary_form=True)
            serials.append(x509.load_der_x509_certificate(der or b"").serial_number)
        except (OSError, ssl.SSLError):
            serials.append(0)

    threads = [threading.Thread(target=shake) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return serials


class Gate:
    """Stands before the edge's port 80 at another address, and lets nobody through until `open`.

    For names that pebble's DNS has point there, an order is in the middle as long as the test wants.
    """

    ADDRESS = "127.0.0.2"

    def __init__(self, port: int) -> None:
        self._port = port
        self.asked = threading.Event()
        self._opened = threading.Event()
        self._listener = socket.create_server((self.ADDRESS, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        """Let through who waits, and who comes."""
        self._opened.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.asked.set()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._opened.wait(60)
            with socket.create_connection(("127.0.0.1", self._port), timeout=10) as edge:
                # One request, all of it there by now; then whoever is first closes.
                edge.sendall(client.recv(65536))
                while data := edge.recv(65536):
                    client.sendall(data)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.set()
        self._listener.close()


@contextlib.contextmanager
def hung_directory() -> Iterator[str]:
    """The URL of a directory that takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/dir"


def closed_port() -> int:
    """A port where nobody listens."""
    return free_port()


def seconds_since(began: float) -> str:
    """For people."""
    return f"{time.monotonic() - began:.2f} s"
