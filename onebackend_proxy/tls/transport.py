"""TLS in the transport itself: OpenSSL works on the socket, and nothing of ours stands between them.

Twisted's own TLS is a protocol over a transport, with a buffer in memory on each side; here a read and a
write are one call of OpenSSL's each. There is no transport below that could send anything in clear: what a
protocol has is this one, and all that it writes passes `SSL_write`.

The first thing a client says is looked at while it still lies in the kernel (MSG_PEEK), so that the
certificate is chosen before OpenSSL has seen a byte. That may take its time, and nothing is read meanwhile.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from typing import Protocol as Shape

import attrs
from OpenSSL import SSL

# The public methods raise an exception for each read that finds nothing, and copy more than once.
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, ISSLTransport
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ..proxy_protocol import MAX_HEADER, BrokenHeader, read_header
from ..records import Certificate
from ..transports import Immediate, ImmediateServer, ImmediateUnixServer
from .certificates import covers
from .client_hello import (
    INTERNAL_ERROR,
    MAX_HELLO,
    NO_APPLICATION_PROTOCOL,
    BadHello,
    ClientHello,
    alert_bytes,
    read_client_hello,
)

RECORD = 16 * 1024
"""Bytes of plain text in one record at most (RFC 8446, 5.1): a read of so many leaves none in OpenSSL."""
MAX_READS = 4
"""Whole records read in one go."""
MAX_EMPTY_READS = 1024
"""Reads in a row that bring nothing: who sends no more than KeyUpdates, or records by the byte, is closed."""
MAX_UNDER_WAY = 4096
"""Handshakes under way at one endpoint, at some 50 KiB each; for one more the oldest is given up."""
ORDER_PATIENCE = 120.0
"""Seconds that a client may wait while its certificate is ordered; then it gets what there is."""
LOOK_FOR_LEAVERS = 1.0
"""Seconds between looks at those who wait so: nothing is read from them, but they may have gone."""
LOOK_AGAIN = 0.05
"""Seconds between looks at a ClientHello that is not whole, where the kernel cannot tell of more."""

_HTTP_IN_CLEAR = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b'Content-Length: 62\r\n\r\n{"error": "this port speaks https, and the request was http"}\n'
)
_METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ")

# How far a connection has come.
_HELLO, _CHOOSING, _HANDSHAKE, _OPEN, _NAMING = range(5)

# One for all connections: what is read is copied out before anything else is read.
_buffer = _ffi.new("char[]", RECORD)


@attrs.frozen(eq=False)
class Chosen:
    """A context, and the certificate that it shows.

    With `protocols`, one of these is chosen and none of the port's: it is a proof (RFC 8737), the connection
    is made from the context itself, and ends with the handshake.
    """

    context: SSL.Context
    certificate: Certificate
    protocols: tuple[bytes, ...] = ()


@attrs.frozen(eq=False)
class Ordered:
    """The certificate is being ordered: when `done` fires there may be one. Who leaves cancels it."""

    done: Deferred[None]


class Choice(Shape):
    """What decides on a connection before its handshake."""

    @property
    def protocols(self) -> tuple[bytes, ...]:
        """Application protocols spoken here, the best first; none if ALPN is not."""

    def base(self) -> SSL.Context:
        """The context that connections are made from: versions, ciphers and tickets are its own."""

    def choose(
        self, hello: ClientHello, address: str, may_order: bool
    ) -> Chosen | Deferred[Chosen] | Ordered:
        """The context for a client that came to this local `address`; `BadHello` where there is none."""

    def refused(self, reason: str) -> None:
        """A connection ended before its handshake was complete."""


class UnderWay:
    """The handshakes of one endpoint that are not complete, and who waits until there are none.

    Those that wait for an order are apart: they are no reason to wait, and are bounded by who orders.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        # In the order in which they began.
        self._all: dict[Handshaking, None] = {}
        self._waiting: list[Deferred[None]] = []
        self._for_orders: dict[Handshaking, None] = {}
        self._look: Any = None

    def add(self, handshaking: Handshaking) -> None:
        """One began."""
        if len(self._all) >= MAX_UNDER_WAY:
            next(iter(self._all)).give_up("there were too many at once")
        self._all[handshaking] = None

    def wait_for_order(self, handshaking: Handshaking) -> None:
        """One does not go on before its certificate is ordered; it was discarded for now."""
        self._for_orders[handshaking] = None
        if self._look is None:
            self._look = self._reactor.callLater(LOOK_FOR_LEAVERS, self._look_for_leavers)

    def _look_for_leavers(self) -> None:
        self._look = self._reactor.callLater(LOOK_FOR_LEAVERS, self._look_for_leavers)
        poll = select.poll()
        by_number = {each.transport.fileno(): each for each in self._for_orders}
        for number in by_number:
            poll.register(number, select.POLLRDHUP)
        for number, _event in poll.poll(0):
            by_number[number].give_up("the client left while its certificate was ordered")

    def end_waits(self) -> None:
        """Let all that wait for an order go on without."""
        for each in list(self._for_orders):
            each.end_wait()

    def discard(self, handshaking: Handshaking) -> None:
        """One has ended."""
        self._all.pop(handshaking, None)
        self._for_orders.pop(handshaking, None)
        if self._look is not None and not self._for_orders:
            self._look.cancel()
            self._look = None
        if self._waiting and not self._all:
            # Not before whoever has the connection then knows of it.
            self._reactor.callLater(0, self._tell)

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def none(self, seconds: float) -> Deferred[None]:
        """Fires when none is left, or after `seconds`."""
        waiter: Deferred[None] = Deferred()
        if self._all:
            self._waiting.append(waiter)
            return waiter.addTimeout(seconds, self._reactor, onTimeoutCancel=lambda *_: None)
        waiter.callback(None)
        return waiter


class Handshaking(Protocol):
    """Stands in the place of a connection's protocol until its handshake is complete."""

    transport: Any

    def __init__(
        self,
        choice: Choice,
        build: Callable[[Any], IProtocol | None],
        timeout: float,
        reactor: Any,
        under_way: UnderWay,
        named: bool = False,
    ) -> None:
        self.choice = choice
        self.build = build
        self._timeout = timeout
        self._reactor = reactor
        self._under_way = under_way
        # Whether who has connected is a proxy of ours, and may say who the client is.
        self._named = named
        self._late: Any = None
        self._ordered: Deferred[None] | None = None

    def connectionMade(self) -> None:
        """A client has `timeout` seconds to complete its handshake."""
        if self._named:
            self.transport.expect_name()
        self._begin()

    def _begin(self) -> None:
        self._under_way.add(self)
        self._late = self._reactor.callLater(self._timeout, self._too_late)

    def _too_late(self) -> None:
        self._late = None
        self.give_up("it took too long")

    def wait_for_order(self, done: Deferred[None], then: Callable[[], None]) -> None:
        """The certificate is being ordered: `then` is called when that has ended, or took too long.

        From then on the handshake has its time anew. For a client that has gone nothing is called.
        """
        self.done()
        self._under_way.wait_for_order(self)
        self._ordered = done
        self._late = self._reactor.callLater(ORDER_PATIENCE, self._waited_too_long)
        done.addBoth(self._order_ended, then)

    def _waited_too_long(self) -> None:
        self._late = None
        self.end_wait()

    def end_wait(self) -> None:
        """Go on without what was ordered."""
        if self._ordered is not None:
            self._ordered.cancel()

    def _order_ended(self, result: object, then: Callable[[], None]) -> None:
        if self._ordered is not None:
            self._ordered = None
            self.done()
            self._begin()
            then()

    def give_up(self, reason: str) -> None:
        """End the connection now."""
        self.choice.refused(f"the handshake was given up: {reason}")
        self.done()
        self.transport.abortConnection()

    def done(self) -> None:
        """The handshake is complete, or the connection is gone."""
        self._under_way.discard(self)
        if self._late is not None:
            self._late.cancel()
            self._late = None
        ordered, self._ordered = self._ordered, None
        if ordered is not None:
            ordered.cancel()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """See `twisted.internet.interfaces.IProtocol`."""
        self.done()


@implementer(ISSLTransport)
class _Secured(Immediate):
    """An accepted connection that speaks TLS; its protocol is a `Handshaking` until that is complete."""

    negotiatedProtocol: bytes | None = None
    """What ALPN chose."""
    tls_version = b""
    """What is spoken, such as ``TLSv1.3``, once it is."""
    certificate: Certificate | None = None
    """The one shown to this client."""
    _stage = _HELLO
    _proves = False
    _reading = True
    _seen = 0
    _empty_reads = 0
    _unblock_by_write = False
    _goodbye = False
    _connection: SSL.Connection | None = None
    _ssl: Any = None
    protocol: Any

    # Before the handshake is complete.

    def _step(self) -> ConnectionDone | ConnectionLost | None:
        if self._stage == _HELLO:
            return self._look()
        if self._stage == _NAMING:
            return self._look_for_name()
        return self._shake() if self._stage == _HANDSHAKE else None

    def expect_name(self) -> None:
        """Who has connected is a trusted proxy, and may say first who the client is."""
        self._stage = _NAMING

    def _look_for_name(self) -> ConnectionDone | ConnectionLost | None:
        """Take a header of the PROXY protocol from before the ClientHello, and nothing else."""
        data = self._peek(MAX_HEADER)
        if not isinstance(data, bytes):
            return data
        try:
            header = read_header(data)
        except BrokenHeader as error:
            proxy = getattr(self.getPeer(), "host", "")
            self.protocol.choice.refused(f"the PROXY header of {proxy} cannot be read: {error}")
            return CONNECTION_DONE
        if header is None:
            return self._wait_for_more(len(data))
        self._saw_all()
        if header.size and len(self.socket.recv(header.size)) != header.size:
            return CONNECTION_LOST
        if header.client is not None:
            self.named(*header.client)
        self._stage = _HELLO
        return self._look()

    def _look(self) -> ConnectionDone | ConnectionLost | None:
        """Look at what the client says first, and leave it where it is."""
        data = self._peek(MAX_HELLO)
        if not isinstance(data, bytes):
            return data
        try:
            hello = read_client_hello(data)
        except BadHello as error:
            return self._refuse(error, data)
        if hello is None:
            return self._wait_for_more(len(data))
        self._saw_all()
        self._stage = _CHOOSING
        return self._choose(hello)

    def _peek(self, size: int) -> bytes | ConnectionDone | ConnectionLost | None:
        """At most so many bytes of what is there, or why there are none; None if they may come yet."""
        try:
            data = self.socket.recv(size, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        return data or CONNECTION_DONE

    def _saw_all(self) -> None:
        """Be told of single bytes again."""
        if self._seen:
            self._seen = 0
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _choose(self, hello: ClientHello, may_order: bool = True) -> ConnectionDone | ConnectionLost | None:
        choice = self.protocol.choice
        offered, ours = hello.protocols, choice.protocols
        try:
            if offered and ours and set(offered).isdisjoint(ours) and not hello.wants_proof:
                raise BadHello(NO_APPLICATION_PROTOCOL, "no application protocol in common")
            chosen = choice.choose(hello, getattr(self.getHost(), "host", ""), may_order)
        except BadHello as error:
            return self._refuse(error, b"")
        if isinstance(chosen, Chosen):
            return self._begin(chosen)
        self.stopReading()
        if isinstance(chosen, Ordered):
            self.protocol.wait_for_order(chosen.done, partial(self._choose_again, hello))
        else:
            chosen.addCallbacks(self._chosen, self._not_chosen)
        return None

    def _choose_again(self, hello: ClientHello) -> None:
        self.startReading()
        why = self._choose(hello, may_order=False)
        if why is not None:
            self.connectionLost(Failure(why))

    def _wait_for_more(self, size: int) -> ConnectionDone | None:
        """So many bytes are not all of it: be told when there are more, not that there are some."""
        if size > self._seen and self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self._seen = size
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size + 1)
            return None
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        if poll.poll(0):
            # It has closed its half: no more will come.
            return CONNECTION_DONE
        self.stopReading()
        self.reactor.callLater(LOOK_AGAIN, self._look_again)
        return None

    def _look_again(self) -> None:
        if self.connected and not self.disconnecting:
            self.startReading()

    def _refuse(self, error: BadHello, data: bytes) -> ConnectionDone:
        self.protocol.choice.refused(str(error))
        in_clear = data.startswith(_METHODS)
        with contextlib.suppress(OSError):
            # Read, or the close would overtake the answer.
            self.socket.recv(MAX_HELLO)
            self.socket.send(_HTTP_IN_CLEAR if in_clear else alert_bytes(error.alert))
        return CONNECTION_DONE

    def _chosen(self, chosen: Chosen) -> None:
        if self.connected:
            self.startReading()
            why = self._begin(chosen)
            if why is not None:
                self.connectionLost(Failure(why))

    def _not_chosen(self, failure: Failure) -> None:
        if self.connected:
            error = failure.value
            if not isinstance(error, BadHello):
                error = BadHello(INTERNAL_ERROR, f"no certificate could be had: {error}")
            self.connectionLost(Failure(self._refuse(error, b"")))

    def _begin(self, chosen: Chosen) -> ConnectionDone | ConnectionLost | None:
        """Let OpenSSL have the socket. The context is set before it has seen a byte, never in a callback."""
        choice = self.protocol.choice
        self.certificate = chosen.certificate
        self._proves = bool(chosen.protocols)
        base = chosen.context if self._proves else choice.base()
        connection = self._connection = SSL.Connection(base, self.socket)
        connection.set_app_data(chosen.protocols or choice.protocols)
        connection.set_context(chosen.context)
        connection.set_accept_state()
        ssl = self._ssl = connection._ssl
        # Else one read goes on for as long as a client sends records that carry nothing.
        _lib.SSL_clear_mode(ssl, _lib.SSL_MODE_AUTO_RETRY)
        self._stage = _HANDSHAKE
        return self._shake()

    def _shake(self) -> ConnectionDone | ConnectionLost | None:
        _lib.ERR_clear_error()
        result = _lib.SSL_do_handshake(self._ssl)
        if result == 1:
            return self._open()
        why = self._why(result)
        if why is not None:
            self.protocol.choice.refused("the handshake failed")
        return why

    def _open(self) -> ConnectionDone | ConnectionLost | None:
        """The handshake is complete: now the connection is the other protocol's."""
        assert self._connection is not None
        self._stage = _OPEN
        self.negotiatedProtocol = self._connection.get_alpn_proto_negotiated() or None
        self.tls_version = self._connection.get_protocol_version_name().encode("ascii")
        if self._proves:
            # Nothing is said on it (RFC 8737, 4); until it is closed, the handshake's time runs on.
            self.loseConnection()
            return None
        handshaking = self.protocol
        handshaking.done()
        protocol = handshaking.build(self.getPeer())
        if protocol is None:
            self.loseConnection()
            return None
        self.protocol = protocol
        protocol.makeConnection(self)
        # A request may have come with the client's last words of the handshake.
        return self.doRead() if self._reading and self._ssl is not None else None

    # From then on.

    def doRead(self) -> ConnectionDone | ConnectionLost | None:  # type: ignore[override]
        """See `twisted.internet.interfaces.IReadDescriptor`."""
        if self._stage != _OPEN:
            return self._step()
        size = _lib.SSL_read(self._ssl, _buffer, RECORD)
        if 0 < size < RECORD:
            # Most often all that there is.
            self._empty_reads = 0
            self.protocol.dataReceived(_ffi.unpack(_buffer, size))
            return None
        return self._read_on(size)

    def _read_on(self, size: int) -> ConnectionDone | ConnectionLost | None:
        """The first read has brought so much: a whole record, behind which there may be more, or nothing."""
        ssl = self._ssl
        for number in range(MAX_READS):
            if number:
                size = _lib.SSL_read(ssl, _buffer, RECORD)
            if size <= 0 and _lib.SSL_get_error(ssl, size) == _lib.SSL_ERROR_SSL:
                # Again, with nothing in OpenSSL's queue of errors that may be somebody else's.
                _lib.ERR_clear_error()
                size = _lib.SSL_read(ssl, _buffer, RECORD)
            if size <= 0:
                self._empty_reads += 1
                return self._why(size) if self._empty_reads < MAX_EMPTY_READS else CONNECTION_LOST
            self._empty_reads = 0
            self.protocol.dataReceived(_ffi.unpack(_buffer, size))
            if size < RECORD or not self._reading or self._ssl is None:
                break
        return None

    def _why(self, result: int) -> ConnectionDone | ConnectionLost | None:
        """Why OpenSSL did not do it: None if it is to be called again, when the socket is ready."""
        error = _lib.SSL_get_error(self._ssl, result)
        if error == _lib.SSL_ERROR_WANT_READ:
            return None
        if error == _lib.SSL_ERROR_WANT_WRITE:
            # It has something of its own to say first, and the socket is readable all the while.
            self._unblock_by_write = True
            super().stopReading()
            self.startWriting()
            return None
        _lib.ERR_clear_error()
        return CONNECTION_DONE if error == _lib.SSL_ERROR_ZERO_RETURN else CONNECTION_LOST

    def doWrite(self) -> Any:
        """See `twisted.internet.interfaces.IWriteDescriptor`."""
        if self._unblock_by_write:
            self._unblock_by_write = False
            ending = self.disconnecting or (self._writeDisconnecting and not self._writeDisconnected)
            if not (self.dataBuffer or self._tempDataBuffer or ending):
                self.stopWriting()
            if not self._reading:
                # Nobody wants to read any more.
                return None
            super().startReading()
            return self.doRead()
        return super().doWrite()

    def _send_now(self, data: bytes) -> int:
        ssl = self._ssl
        if 0 < len(data) <= RECORD and ssl is not None and self._stage == _OPEN:
            # Most often all that there is to it.
            sent = _lib.SSL_write(ssl, data, len(data))
            if sent > 0:
                return int(sent)
        sent = self.writeSomeData(data)
        # Broken: the reactor's own attempt finds it out again, and acts on it.
        return sent if isinstance(sent, int) else 0

    def writeSomeData(self, data: Any) -> int | ConnectionLost:
        """See `twisted.internet.abstract.FileDescriptor`: encrypt and send as much as the kernel takes."""
        ssl = self._ssl
        if ssl is None or self._stage != _OPEN:
            return CONNECTION_LOST
        whole = min(len(data), self.SEND_LIMIT)
        if not whole:
            return 0
        plain = _ffi.from_buffer(data)
        done = 0
        while done < whole:
            _lib.ERR_clear_error()
            sent = _lib.SSL_write(ssl, plain + done, min(whole - done, RECORD))
            if sent <= 0:
                error = _lib.SSL_get_error(ssl, sent)
                if error in (_lib.SSL_ERROR_WANT_WRITE, _lib.SSL_ERROR_WANT_READ):
                    break
                _lib.ERR_clear_error()
                return CONNECTION_LOST
            done += sent
        return done

    def startReading(self) -> None:
        """See `twisted.internet.abstract.FileDescriptor`."""
        self._reading = True
        super().startReading()

    def stopReading(self) -> None:
        """See `twisted.internet.abstract.FileDescriptor`."""
        self._reading = False
        super().stopReading()

    # The end.

    def _said_goodbye(self) -> bool:
        """Tell the client that this is the end, and not a break (RFC 8446, 6.1).

        False if the kernel has no room for that now: it is called again when there is.
        """
        ssl = self._ssl
        if self._goodbye or ssl is None or self._stage != _OPEN:
            return True
        _lib.ERR_clear_error()
        result = _lib.SSL_shutdown(ssl)
        if result < 0 and _lib.SSL_get_error(ssl, result) == _lib.SSL_ERROR_WANT_WRITE:
            self.startWriting()
            return False
        _lib.ERR_clear_error()
        self._goodbye = True
        return True

    def _postLoseConnection(self) -> Any:
        return super()._postLoseConnection() if self._said_goodbye() else None

    def _closeWriteConnection(self) -> None:
        if self._said_goodbye():
            super()._closeWriteConnection()
        else:
            self._writeDisconnected = False

    def connectionLost(self, reason: Failure) -> None:
        """See `twisted.internet.interfaces.IReadDescriptor`; OpenSSL must not see the number again."""
        self._ssl = None
        self._connection = None
        super().connectionLost(reason)

    def covers(self, host: str) -> bool:
        """Whether the certificate shown is for this canonical host."""
        return self.certificate is not None and covers(self.certificate, host)

    def getPeerCertificate(self) -> None:
        """See `twisted.internet.interfaces.ISSLTransport`: clients are not asked for certificates."""


class SecuredServer(_Secured, ImmediateServer):
    """An accepted TCP connection that speaks TLS."""


class SecuredUnixServer(_Secured, ImmediateUnixServer):
    """An accepted connection to a Unix socket that speaks TLS."""
