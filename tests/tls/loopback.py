"""Our end of TLS over real sockets, on a reactor that turns when a test says so, and clients made of `ssl`.

A client keeps every byte that it got from the wire (`wire`): a test can look for what must not be there.
"""

from __future__ import annotations

import pathlib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXServerEndpoint
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from onebackend_proxy.headers import Network
from onebackend_proxy.records import Certificate
from onebackend_proxy.tls.authority import LocalAuthority
from onebackend_proxy.tls.contexts import Contexts
from onebackend_proxy.tls.endpoint import TlsEndpoint

from .making import now, record, root

PATIENCE = 10.0
"""Seconds after which a test gives up waiting; nothing that works takes so long."""
T = TypeVar("T")


class Served(Protocol):
    """The protocol behind the handshake; it keeps what came, and a test says what it does."""

    transport: Any

    def __init__(self, made: Callable[[Served], object], received: Callable[[Served, bytes], object]) -> None:
        self._made = made
        self._received = received
        self.data = b""
        self.reads: list[int] = []
        self.lost: Failure | None = None
        self.half = False

    def connectionMade(self) -> None:
        self._made(self)

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.reads.append(len(data))
        self._received(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.lost is None, "told twice"
        self.lost = reason

    def readConnectionLost(self) -> None:
        """Only where a test makes it half-closeable."""
        self.half = True

    def writeConnectionLost(self) -> None:
        """As above."""


class ServedFactory(Factory):
    """Keeps what it built; with `protocols` it offers them by ALPN."""

    noisy = False

    def __init__(self, protocols: Iterable[bytes] = ()) -> None:
        self.built: list[Served] = []
        self.protocols = list(protocols)
        self.made: Callable[[Served], object] = lambda protocol: None
        self.received: Callable[[Served, bytes], object] = lambda protocol, data: None
        self.refuses = False
        if self.protocols:
            directlyProvides(self, IProtocolNegotiationFactory)

    def acceptableProtocols(self) -> list[bytes]:
        return self.protocols

    def buildProtocol(self, addr: Any) -> Served | None:
        if self.refuses:
            return None
        self.built.append(Served(self.made, self.received))
        return self.built[-1]


class Certificates:
    """A store of certificates with their keys, and the contexts made from it.

    While `held` is a list, loading waits: the Deferreds are in it. `loads` are the ids asked for.
    """

    def __init__(self, *records: Certificate, owned: Callable[[str], bool] = lambda host: True, **more: Any):
        self.with_keys: dict[str, Certificate] = {}
        self.loads: list[str] = []
        self.held: list[Deferred[Certificate | None]] | None = None
        self.clock = Clock()
        self.clock.advance(now().timestamp())
        self.authorities = 0
        self._authority: LocalAuthority | None = None
        self.contexts = Contexts(self.clock.seconds, self._load, self._local, owned, **more)
        self.publish(*records)

    def publish(self, *records: Certificate) -> None:
        """From now on there are these."""
        self.with_keys = {record.id: record for record in records}
        self.contexts.publish(attrs.evolve(record, private_key="") for record in records)

    def _load(self, id: str) -> Deferred[Certificate | None]:
        self.loads.append(id)
        if self.held is not None:
            self.held.append(Deferred())
            return self.held[-1]
        return succeed(self.with_keys.get(id))

    def _local(self) -> Deferred[LocalAuthority]:
        self.authorities += 1
        if self._authority is None:
            self._authority = LocalAuthority.make(now())
        return succeed(self._authority)

    @property
    def local_root(self) -> str:
        """The local authority's root, in PEM."""
        assert self._authority is not None
        return self._authority.root_pem


def client_context(*roots: str) -> ssl.SSLContext:
    """As strict as a browser, and trusts `making.root` or these roots."""
    return ssl.create_default_context(cadata="".join(roots) or root().pem)


def versions(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that speaks this version only."""
    context = client_context()
    context.minimum_version = context.maximum_version = version
    return context


class Client:
    """One client, whose bytes move when the reactor turns."""

    def __init__(
        self,
        turn: Callable[[], None],
        sock: socket.socket,
        context: ssl.SSLContext,
        name: str | None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._turn = turn
        self.sock = sock
        sock.setblocking(False)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name, session=session)
        self._unsent = b""
        self.wire = b""
        self.eof = False
        self.reset = False
        self.reading = True

    def pump(self) -> None:
        """Send what OpenSSL has to say, and give it what has come."""
        self._unsent += self._out.read()
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = b""
        while self.reading and not self.eof:
            try:
                data = self.sock.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError:
                self.reset = True
                data = b""
            if data:
                self.wire += data
                self._in.write(data)
            else:
                self.eof = True
                self._in.write_eof()

    @property
    def unsent(self) -> int:
        """Bytes that the server's kernel has not taken."""
        return len(self._unsent) + self._out.pending

    def until(self, work: Callable[[], T]) -> T:
        """Do it as soon as enough has come."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                return work()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self.pump()
                self._turn()
            finally:
                self.pump()
        raise AssertionError("nothing comes any more")

    def handshake(self) -> Client:
        """Shake hands; raises what `ssl` raises."""
        self.until(self.tls.do_handshake)
        return self

    def begin(self) -> bytes:
        """Make the ClientHello, and leave it to the test to send."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self._out.read()

    def send(self, data: bytes) -> Client:
        """Encrypt and send; what does not fit goes out while the reactor turns."""
        self.tls.write(data)
        self.pump()
        return self

    def read(self, size: int = 1 << 16) -> bytes:
        """Some of what the server sent; b"" after its close_notify, `ssl.SSLEOFError` if there was none."""
        return self.until(lambda: self.tls.read(size))

    def read_exactly(self, size: int) -> bytes:
        """So many bytes."""
        data = bytearray()
        while len(data) < size:
            piece = self.read(size - len(data))
            assert piece, f"closed after {len(data)} bytes"
            data += piece
        return bytes(data)

    def read_all(self) -> bytes:
        """Everything up to the server's close_notify."""
        data = bytearray()
        while piece := self.read():
            data += piece
        return bytes(data)

    def say_goodbye(self) -> None:
        """Send close_notify."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        self.pump()

    def break_off(self) -> None:
        """Close without a word of TLS."""
        self.sock.close()

    @property
    def alerts(self) -> list[bytes]:
        """Alerts that came in clear: level and description."""
        found, data = [], self.wire
        while len(data) >= 5:
            size = int.from_bytes(data[3:5], "big")
            if data[0] == 21 and size == 2:
                found.append(data[5:7])
            data = data[5 + size :]
        return found


class LoopbackTests(SynchronousTestCase):
    """A reactor of its own, one certificate for ``x.com``, and a listening endpoint when a test wants it."""

    unix = False
    trusted: tuple[Network, ...] = ()

    def setUp(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)
        self.reactor: Any = EPollReactor()
        # Of the handshake's time-out only: sockets need no time.
        self.clock = Clock()
        self.addCleanup(self._end)
        self.factory = ServedFactory()
        self.certificates = Certificates(record("x.com", "*.x.com"))
        self.sockets: list[socket.socket] = []
        self.port: Any = None
        self.logged: list[str] = []
        observer = cast(ILogObserver, lambda event: self.logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _end(self) -> None:
        for sock in self.sockets:
            sock.close()
        for _ in range(5):
            self.turn()
        self.stop_listening()
        for reader in self.reactor.removeAll():
            reader.connectionLost(Failure(ConnectionDone()))
        self.reactor._poller.close()

    def turn(self) -> None:
        """One turn of the reactor; it waits for nothing."""
        self.reactor.iterate(0)

    def until(self, condition: Callable[[], object], *clients: Client) -> None:
        """Turn until it is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it never is"
            for client in clients:
                client.pump()
            self.reactor.iterate(0.002)

    def settle(self, *clients: Client, turns: int = 20) -> None:
        """Turn so often that all that can happen has."""
        for _ in range(turns):
            for client in clients:
                client.pump()
            self.turn()

    def listen(self, *protocols: bytes, timeout: float = 10.0) -> None:
        """Open the endpoint, with a new factory that offers these protocols by ALPN."""
        self.stop_listening()
        self.factory = ServedFactory(protocols)
        self.path = str(pathlib.Path(self._folder.name) / "socket")
        inner: Any = (
            UNIXServerEndpoint(self.reactor, self.path)
            if self.unix
            else TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1")
        )
        endpoint = TlsEndpoint(self.clock, inner, self.certificates.contexts, timeout, self.trusted)
        self.port = self.successResultOf(endpoint.listen(self.factory))

    def stop_listening(self) -> None:
        """Close the endpoint; its connections go on."""
        if self.port is not None:
            self.port.connectionLost(Failure(ConnectionDone()))
            self.port = None

    def connect(self) -> socket.socket:
        """A connection, over which nothing was said yet."""
        if self.port is None:
            self.listen()
        if self.unix:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.path)
        else:
            sock = socket.create_connection(("127.0.0.1", self.port.getHost().port))
        sock.setblocking(False)
        self.sockets.append(sock)
        return sock

    def client(
        self,
        name: str | None = "x.com",
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
    ) -> Client:
        """A client that asks for this name, and has said nothing yet."""
        return self.client_over(self.connect(), name, context, session)

    def client_over(
        self,
        sock: socket.socket,
        name: str | None = "x.com",
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
    ) -> Client:
        """The same over a connection that is there."""
        return Client(self.turn, sock, context or client_context(), name, session)

    def open(
        self, name: str | None = "x.com", context: ssl.SSLContext | None = None
    ) -> tuple[Client, Served]:
        """A client that has shaken hands, and the protocol that serves it."""
        before = len(self.factory.built)
        client = self.client(name, context).handshake()
        self.until(lambda: len(self.factory.built) > before, client)
        return client, self.factory.built[-1]

    def everything(self, sock: socket.socket) -> bytes:
        """What comes on a plain socket up to its end."""
        data = bytearray()
        ended: list[bool] = []

        def read() -> bool:
            try:
                while piece := sock.recv(1 << 16):
                    data.extend(piece)
                ended.append(True)
            except BlockingIOError:
                pass
            return bool(ended)

        self.until(read)
        return bytes(data)
