"""TLS in the transport itself, over real sockets: nothing in clear, nothing lost, nothing for ever."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import subprocess
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from onebackend_proxy.tls.transport import RECORD, SecuredServer

from ..wire import Producer
from .loopback import Client, LoopbackTests, Served, versions

MARKER = b"MARKER-that-must-never-be-seen-in-clear"
BIG = MARKER * 50_000


class TestData(LoopbackTests):
    """Both ways, much of it, at any speed."""

    def test_a_big_upload(self) -> None:
        client, served = self.open()
        client.send(BIG)
        self.until(lambda: len(served.data) == len(BIG), client)
        assert served.data == BIG
        assert max(served.reads) <= RECORD

    def test_a_big_download(self) -> None:
        client, served = self.open()
        served.transport.write(BIG)
        assert client.read_exactly(len(BIG)) == BIG

    def test_both_at_once(self) -> None:
        client, served = self.open()
        served.transport.write(BIG)
        client.send(BIG)
        assert client.read_exactly(len(BIG)) == BIG
        self.until(lambda: len(served.data) == len(BIG), client)
        assert served.data == BIG

    def test_pieces_of_all_sizes_in_order(self) -> None:
        client, served = self.open()
        wanted = b""
        for size in (0, 1, RECORD - 1, RECORD, RECORD + 1, 3, 8 * RECORD, 8 * RECORD + 1, 200_000):
            piece = bytes((size % 251,)) * size
            wanted += piece
            if size % 2:
                served.transport.write(piece)
            else:
                served.transport.writeSequence([piece[: size // 2], piece[size // 2 :]])
        assert client.read_exactly(len(wanted)) == wanted

    def test_pieces_while_the_client_is_slow(self) -> None:
        client, served = self.open()
        client.reading = False
        wanted = b""
        for number in range(300):
            piece = bytes((number % 251,)) * (number * 37 % 20_000)
            wanted += piece
            served.transport.write(piece)
            if number % 50 == 0:
                self.settle(turns=2)
        assert served.transport.waiting > 0
        client.reading = True
        assert client.read_exactly(len(wanted)) == wanted
        self.until(lambda: served.transport.waiting == 0, client)

    def test_a_client_that_does_not_read_holds_up_the_producer(self) -> None:
        client, served = self.open()
        client.reading = False
        producer = Producer()
        served.transport.registerProducer(producer, True)
        sent = 0
        while not producer.paused:
            served.transport.write(b"x" * 65536)
            self.settle(turns=2)
            sent += 65536
            assert sent < 64 << 20
        assert served.transport.waiting <= 3 * 65536
        client.reading = True
        assert client.read_exactly(sent) == b"x" * sent
        self.until(lambda: not producer.paused, client)

    def test_a_server_that_does_not_read_holds_up_the_client(self) -> None:
        client, served = self.open()
        served.transport.pauseProducing()
        size = 16 << 20
        client.send(b"x" * size)
        self.settle(client, turns=200)
        assert served.data == b"" and client.unsent > 0
        served.transport.resumeProducing()
        self.until(lambda: len(served.data) == size, client)

    def test_pausing_in_the_middle_of_what_has_come(self) -> None:
        self.listen()
        self.factory.received = lambda served, data: served.transport.pauseProducing()
        client, served = self.open()
        client.send(b"x" * (4 * RECORD))
        for number in range(1, 5):
            self.until(lambda number=number: len(served.reads) == number, client)  # type: ignore[misc]
            self.settle(client)
            assert len(served.reads) == number
            served.transport.resumeProducing()
        assert len(served.data) == 4 * RECORD

    def test_aborting_in_the_middle_of_what_has_come(self) -> None:
        self.listen()
        self.factory.received = lambda served, data: served.transport.abortConnection()
        client, served = self.open()
        client.send(b"x" * (4 * RECORD))
        self.until(lambda: served.lost is not None, client)
        assert len(served.reads) == 1
        assert served.lost is not None and served.lost.check(ConnectionAborted)

    def test_a_pull_producer(self) -> None:
        client, served = self.open()
        transport = served.transport
        pieces = [b"%04d" % number * 1000 for number in range(100)]
        left = list(pieces)

        class Pulled:
            def resumeProducing(self) -> None:
                if left:
                    transport.write(left.pop(0))
                else:
                    transport.unregisterProducer()
                    transport.loseConnection()

            def stopProducing(self) -> None:
                """Nothing to stop."""

        transport.registerProducer(Pulled(), False)
        assert client.read_all() == b"".join(pieces)

    def test_the_reactor_is_not_needed_for_what_fits(self) -> None:
        client, served = self.open()
        served.transport.write(b"at once")
        assert not self.reactor.getWriters()
        client._turn = lambda: None
        assert client.read() == b"at once"


class TestTheEnd(LoopbackTests):
    """Closed in order, in halves, or not."""

    def test_we_close(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client, served = self.open(context=versions(version))
            served.transport.write(b"last")
            served.transport.loseConnection()
            assert client.read_all() == b"last"
            self.until(lambda served=served: served.lost is not None, client)  # type: ignore[misc]
            assert served.lost is not None and served.lost.check(ConnectionDone)

    def test_what_waits_is_sent_first(self) -> None:
        client, served = self.open()
        client.reading = False
        served.transport.write(BIG)
        served.transport.loseConnection()
        self.settle(client)
        assert served.lost is None
        client.reading = True
        assert client.read_all() == BIG

    def test_the_goodbye_is_not_lost_where_the_kernel_is_full(self) -> None:
        """At some size the last record fills what the kernel has for it, and leaves no room for more."""
        for end in ("loseConnection", "loseWriteConnection"):
            for pieces in range(12, 60):
                client, served = self.open()
                served.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
                client.reading = False
                for _ in range(pieces):
                    served.transport.write(b"x" * 1400)
                getattr(served.transport, end)()
                self.settle(turns=3)
                client.reading = True
                assert client.read_all() == b"x" * 1400 * pieces
                served.transport.abortConnection()
                client.sock.close()
                self.settle(turns=2)

    def test_the_client_closes(self) -> None:
        client, served = self.open()
        client.send(b"last")
        client.say_goodbye()
        self.until(lambda: served.lost is not None, client)
        assert served.data == b"last"
        assert served.lost is not None and served.lost.check(ConnectionDone)

    def test_the_client_closes_and_the_protocol_knows_halves(self) -> None:
        self.listen()
        self.factory.made = lambda served: directlyProvides(served, IHalfCloseableProtocol)
        client, served = self.open()
        client.say_goodbye()
        self.until(lambda: served.half, client)
        served.transport.write(b"still")
        served.transport.loseConnection()
        self.until(lambda: served.lost is not None)
        assert client.sock.recv(100)

    def test_a_connection_that_is_cut_is_no_end(self) -> None:
        client, served = self.open()
        client.send(b"half of")
        self.settle(client)
        client.break_off()
        self.until(lambda: served.lost is not None)
        assert served.data == b"half of"
        assert served.lost is not None and served.lost.check(ConnectionLost)

    def test_we_abort(self) -> None:
        client, served = self.open()
        served.transport.write(b"half of")
        served.transport.abortConnection()
        assert client.read() == b"half of"
        with self.assertRaises(ssl.SSLEOFError):
            client.read()
        assert served.lost is not None and served.lost.check(ConnectionAborted)

    def test_a_reset(self) -> None:
        client, served = self.open()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
        self.until(lambda: served.lost is not None)
        assert served.lost is not None and served.lost.check(ConnectionLost)

    def test_one_that_is_not_read_from_is_seen_to_break(self) -> None:
        client, served = self.open()
        served.transport.pauseProducing()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
        self.until(lambda: served.lost is not None)

    def test_our_half_first_while_the_client_still_sends(self) -> None:
        """Lingering: what still comes is read, so that no reset overtakes the answer."""
        client, served = self.open()
        served.transport.write(b"answer")
        served.transport.loseWriteConnection()
        assert client.read_all() == b"answer"
        client.send(b"x" * 100_000)
        self.until(lambda: len(served.data) == 100_000, client)
        served.transport.loseConnection()
        self.until(lambda: served.lost is not None, client)

    def test_our_half_waits_for_what_was_written(self) -> None:
        client, served = self.open()
        client.reading = False
        served.transport.write(BIG)
        served.transport.loseWriteConnection()
        client.reading = True
        assert client.read_all() == BIG

    def test_broken_tls_in_the_middle(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for junk in (b"GET / HTTP/1.1\r\n\r\n" * 4, b"\x17\x03\x03\x00\x40" + b"j" * 64, b"\0" * 40):
                client, served = self.open(context=versions(version))
                client.send(b"good")
                self.settle(client)
                client.sock.send(junk)
                self.until(lambda served=served: served.lost is not None, client)  # type: ignore[misc]
                assert served.data == b"good"
                assert served.lost is not None and served.lost.check(ConnectionLost)
        # An error of one is none of the next: OpenSSL keeps them in a queue of the thread's.
        client, served = self.open()
        client.send(b"fine")
        self.until(lambda: served.data == b"fine", client)

    def test_an_error_of_one_does_not_disturb_another(self) -> None:
        good, served = self.open()
        bad, broken = self.open()
        bad.sock.send(b"\x17\x03\x03\x00\x40" + b"j" * 64)
        good.send(b"one")
        self.until(lambda: broken.lost is not None and served.data == b"one", good)
        served.transport.write(b"two")
        assert good.read() == b"two"

    def test_writing_into_a_broken_connection(self) -> None:
        client, served = self.open()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
        for _ in range(3):
            served.transport.write(BIG)
        self.until(lambda: served.lost is not None)
        served.transport.write(b"nobody")
        served.transport.loseConnection()
        served.transport.abortConnection()
        self.settle()

    def test_the_reactor_ends(self) -> None:
        client, served = self.open()
        waiting = self.client()
        waiting.sock.send(b"\x16")
        self.settle(client)
        for reader in self.reactor.removeAll():
            reader.connectionLost(Failure(ConnectionLost()))
        self.port = None
        assert served.lost is not None


class TestOverUnix(TestData):
    """The same over a Unix socket."""

    unix = True


class TestTheEndOverUnix(TestTheEnd):
    """The same over a Unix socket."""

    unix = True
    # There is no reset, and no queue with a size in bytes.
    test_a_reset: ClassVar[Any] = None
    test_one_that_is_not_read_from_is_seen_to_break: ClassVar[Any] = None


class _Watched:
    """A socket whose `send` is told of."""

    def __init__(self, sock: socket.socket, sent: list[bytes]) -> None:
        self._sock = sock
        self._sent = sent

    def send(self, data: bytes, *flags: int) -> int:
        self._sent.append(data)
        return self._sock.send(data, *flags)

    sendall = sendto = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class TestNothingInClear(LoopbackTests):
    """Whatever a protocol writes, and whenever: no byte of it is on the wire as it is.

    `Client.wire` is every byte that came over the socket.
    """

    def assert_hidden(self, client: Client, received: bytes, size: int = len(MARKER)) -> None:
        assert len(received) >= size
        assert received == MARKER * (len(received) // len(MARKER))
        assert len(client.wire) > len(received)
        assert MARKER not in client.wire
        # Not a part of it either.
        assert MARKER[:12] not in client.wire and MARKER[-12:] not in client.wire

    def test_when_the_connection_is_made(self) -> None:
        self.listen()
        self.factory.made = lambda served: served.transport.write(MARKER)
        client, _served = self.open()
        self.assert_hidden(client, client.read_exactly(len(MARKER)), len(MARKER))

    def test_before_the_handshake_nothing_is_sent_at_all(self) -> None:
        client = self.client()
        transports: list[Any] = []
        plain = SecuredServer._look

        def look(transport: Any) -> Any:
            transports.append(transport)
            transport.write(MARKER)
            transport.writeSequence([MARKER])
            return plain(transport)

        with patch.object(SecuredServer, "_look", look):
            client.sock.send(b"\x16")
            self.settle(client)
        assert transports and client.wire == b""

    def test_large_writes_that_wait(self) -> None:
        client, served = self.open()
        client.reading = False
        served.transport.write(BIG)
        served.transport.writeSequence([MARKER] * 1000)
        self.settle(client)
        assert served.transport.waiting
        client.reading = True
        size = len(BIG) + 1000 * len(MARKER)
        self.assert_hidden(client, client.read_exactly(size), size)

    def test_after_a_pause_with_producers_and_at_the_end(self) -> None:
        for streaming in (True, False):
            client, served = self.open()
            transport = served.transport

            class Written:
                left = 50

                def resumeProducing(self, transport: Any = transport) -> None:
                    if self.left:
                        self.left -= 1
                        transport.write(MARKER * 2000)
                    else:
                        transport.unregisterProducer()
                        transport.write(MARKER)
                        transport.loseConnection()
                        transport.write(MARKER)

                pauseProducing = stopProducing = lambda self: None

            producer = Written()
            transport.registerProducer(producer, streaming)
            if streaming:
                while producer.left:
                    producer.resumeProducing()
                producer.resumeProducing()
            received = client.read_all()
            self.assert_hidden(client, received, (50 * 2000 + 1) * len(MARKER))

    def test_while_reading_is_stopped_and_after_half_the_end(self) -> None:
        client, served = self.open()
        served.transport.pauseProducing()
        served.transport.write(MARKER)
        served.transport.resumeProducing()
        served.transport.write(MARKER)
        served.transport.loseWriteConnection()
        served.transport.write(MARKER)
        self.settle(client)
        served.transport.write(MARKER)
        served.transport.loseConnection()
        received = client.read_all()
        self.assert_hidden(client, received, 2 * len(MARKER))

    def test_after_broken_tls(self) -> None:
        self.listen()
        client, served = self.open()
        client.sock.send(b"\0" * 100)
        for _ in range(5):
            served.transport.write(MARKER)
            self.turn()
            client.pump()
        self.until(lambda: served.lost is not None)
        served.transport.write(MARKER)
        assert MARKER not in client.wire

    def test_the_socket_is_never_sent_to(self) -> None:
        """OpenSSL writes to the descriptor; Python's socket is used for alerts before the handshake only."""
        sent: list[bytes] = []
        client, served = self.open()
        served.transport.socket = _Watched(served.transport.socket, sent)
        served.transport.write(MARKER)
        served.transport.write(BIG)
        served.transport.writeSequence([MARKER, MARKER])
        served.transport.loseConnection()
        received = client.read_all()
        self.assert_hidden(client, received, len(BIG) + 3 * len(MARKER))
        assert sent == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
class TestInTheMiddle(LoopbackTests):
    """What a client may ask for in the middle of a connection; only openssl's own knows how."""

    def s_client(self, version: str) -> tuple[subprocess.Popen[bytes], Served]:
        """The program, and what serves it: lines of its input are sent, but ``K`` and ``R``."""
        self.listen()
        address = f"127.0.0.1:{self.port.getHost().port}"
        process = subprocess.Popen(
            ["openssl", "s_client", "-connect", address, "-servername", "x.com", version, "-no_ign_eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.until(lambda: self.factory.built)
        return process, self.factory.built[0]

    def type(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        """Type a line, and give the program a moment: it must be its own read."""
        assert process.stdin is not None
        process.stdin.write(line + b"\n")
        for _ in range(20):
            self.reactor.iterate(0.005)

    def shown(self, process: subprocess.Popen[bytes], word: bytes) -> bytes:
        """What the program has shown up to this word."""
        shown = bytearray()
        assert process.stdout is not None
        stdout = process.stdout

        def reads() -> bool:
            shown.extend(stdout.read() or b"")
            return word in shown

        self.until(reads)
        return bytes(shown)

    def test_new_keys(self) -> None:
        """TLS 1.3, RFC 8446, 4.6.3."""
        process, served = self.s_client("-tls1_3")
        for number in range(3):
            self.type(process, b"K")
            self.type(process, b"word%d" % number)
            self.until(lambda number=number: b"word%d\n" % number in served.data)  # type: ignore[misc]
            served.transport.write(b"answer%d\n" % number)
            assert b"KEYUPDATE" in self.shown(process, b"answer%d\n" % number)
        assert served.data == b"word0\nword1\nword2\n"

    def test_no_renegotiation(self) -> None:
        """TLS 1.2: a costly thing that nobody needs. The client gives up, and others do not notice."""
        process, served = self.s_client("-tls1_2")
        other, beside = self.open()
        self.type(process, b"before")
        self.until(lambda: served.data == b"before\n")
        self.type(process, b"R")
        assert b"no renegotiation" in self.shown(process, b"no renegotiation")
        self.until(lambda: served.lost is not None)
        other.send(b"still")
        self.until(lambda: beside.data == b"still", other)
