"""One client's records that carry nothing: they hold up nobody else, and have an end."""

from __future__ import annotations

import fcntl
import pathlib
import ssl
import struct
import termios
import time
from collections.abc import Iterable

from OpenSSL._util import ffi, lib
from twisted.internet.error import ConnectionLost

from onebackend_proxy.tls.transport import MAX_EMPTY_READS, MAX_READS, RECORD

from .crafting import CLIENT_HELLO, HANDSHAKE, Records12, Records13, keylogged
from .loopback import PATIENCE, Client, LoopbackTests, Served

ALERT_12 = 5 + 8 + 2 + 16
"""Bytes of an encrypted alert of TLS 1.2 with AES-GCM."""


class FloodTests(LoopbackTests):
    """A client that sends what we made, and another one beside it."""

    def setUp(self) -> None:
        super().setUp()
        self.keys = pathlib.Path(self._folder.name) / "keys"

    def crafted(self, version: ssl.TLSVersion) -> tuple[Client, Served]:
        """A client whose keys are known; nothing that it sent waits."""
        self.keys.unlink(missing_ok=True)
        client, served = self.open(context=keylogged(version, self.keys))
        self.settle(client)
        return client, served

    def crafted_13(self) -> tuple[Client, Served, Records13]:
        client, served = self.crafted(ssl.TLSVersion.TLSv1_3)
        return client, served, Records13(client, self.keys)

    def crafted_12(self) -> tuple[Client, Served, Records12]:
        client, served = self.crafted(ssl.TLSVersion.TLSv1_2)
        return client, served, Records12(client, self.keys)

    def waiting(self, served: Served) -> int:
        """Bytes that OpenSSL has not taken from the kernel."""
        answer = fcntl.ioctl(served.transport.socket.fileno(), termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def send_all(self, client: Client, served: Served, data: bytes) -> int:
        """All of it into the kernel's buffers, and nothing read; how much waits there."""
        wanted = self.waiting(served) + len(data)
        assert client.sock.send(data) == len(data)
        end = time.monotonic() + PATIENCE
        while self.waiting(served) < wanted:
            assert time.monotonic() < end, "it never comes"
        return wanted

    def send_each(self, client: Client, served: Served, pieces: Iterable[bytes]) -> None:
        """The server sees each piece by itself."""
        for piece in pieces:
            self.send_all(client, served, piece)
            self.turn()
            if served.lost is not None:
                break

    def assert_served_in_between(self, flooded: Served, other: Client, beside: Served) -> None:
        """A word of another client is answered while most of the flood waits."""
        before = self.waiting(flooded)
        other.send(b"hello")
        end = time.monotonic() + PATIENCE
        while not self.waiting(beside):
            assert time.monotonic() < end, "it never comes"
        for _ in range(2):
            self.turn()
        assert beside.data == b"hello"
        assert self.waiting(flooded) > before / 2
        assert flooded.lost is None


class TestKeyUpdates(FloodTests):
    """TLS 1.3 (RFC 8446, 4.6.3)."""

    def test_one_turn_takes_few_and_others_are_served_in_between(self) -> None:
        other, beside = self.open()
        for requested in (False, True):
            client, served, records = self.crafted_13()
            updates = [records.key_update(requested) for _ in range(800)]
            before = self.send_all(client, served, b"".join(updates))
            self.turn()
            assert 0 < before - self.waiting(served) <= MAX_READS * len(updates[0])
            self.assert_served_in_between(served, other, beside)
            beside.data = b""

    def test_who_sends_nothing_else_is_closed(self) -> None:
        client, served, records = self.crafted_13()
        self.send_each(client, served, [records.record(b"x")])
        self.until(lambda: served.data == b"x")
        self.send_all(client, served, b"".join(records.key_update() for _ in range(MAX_EMPTY_READS - 1)))
        self.until(lambda: not self.waiting(served))
        self.settle()
        assert served.lost is None
        self.send_all(client, served, records.key_update())
        self.until(lambda: served.lost is not None)
        assert served.lost is not None and served.lost.check(ConnectionLost)

    def test_those_between_real_data_do_not_count_up(self) -> None:
        client, served, records = self.crafted_13()
        for number in range(1, 5):
            updates = [records.key_update() for _ in range(MAX_EMPTY_READS - 2)]
            self.send_all(client, served, b"".join((*updates, records.record(b"x"))))
            self.until(lambda number=number: len(served.data) == number)  # type: ignore[misc]
        for _ in range(3 * MAX_EMPTY_READS):
            self.send_each(client, served, (records.key_update(), records.record(b"x")))
        self.until(lambda: len(served.data) == 4 + 3 * MAX_EMPTY_READS)
        assert served.lost is None

    def test_what_follows_them_at_once_is_read_without_more(self) -> None:
        client, served, records = self.crafted_13()
        self.send_all(
            client, served, records.key_update() + records.key_update() + records.record(b"request")
        )
        self.until(lambda: served.data == b"request")
        served.transport.write(b"answer")
        assert client.read() == b"answer"


class TestRenegotiations(FloodTests):
    """TLS 1.2: each hello is answered by an alert, so that the number of answers is that of hellos read."""

    def answers(self, client: Client) -> int:
        """How many came since the last look."""
        before = len(client.wire)
        client.pump()
        size = len(client.wire) - before
        assert size % ALERT_12 == 0
        return size // ALERT_12

    def test_one_turn_takes_few_and_others_are_served_in_between(self) -> None:
        for hellos in (1, 4000):
            other, beside = self.open()
            client, served, records = self.crafted_12()
            count = 800 if hellos == 1 else 3
            made = [records.record(CLIENT_HELLO * hellos, HANDSHAKE) for _ in range(count)]
            before = self.send_all(client, served, b"".join(made))
            self.turn()
            assert self.answers(client) <= MAX_READS
            assert before - self.waiting(served) <= MAX_READS * len(made[0])
            self.assert_served_in_between(served, other, beside)

    def test_who_sends_nothing_else_is_closed(self) -> None:
        for hellos in (1, 4000):
            client, served, records = self.crafted_12()
            count = MAX_EMPTY_READS + 500 if hellos == 1 else 3
            made = [records.record(CLIENT_HELLO * hellos, HANDSHAKE) for _ in range(count)]
            self.send_all(client, served, b"".join(made))
            answers = 0
            while served.lost is None:
                self.turn()
                answers += self.answers(client)
                assert answers < MAX_EMPTY_READS
            assert served.lost.check(ConnectionLost)
            assert answers > MAX_EMPTY_READS / 2

    def test_a_client_that_does_not_read_the_answers(self) -> None:
        client, served, records = self.crafted_12()
        client.reading = False
        self.send_all(client, served, b"".join(records.record(CLIENT_HELLO, HANDSHAKE) for _ in range(1500)))
        self.until(lambda: served.lost is not None)

    def test_one_that_is_refused_does_not_end_the_connection(self) -> None:
        client, served, records = self.crafted_12()
        self.send_all(client, served, records.record(CLIENT_HELLO, HANDSHAKE) + records.record(b"request"))
        self.until(lambda: served.data == b"request")
        assert served.lost is None


class TestEmptyRecords(FloodTests):
    """Application data of no bytes at all (RFC 8446, 5.1)."""

    def test_they_have_an_end(self) -> None:
        other, beside = self.open()
        for client, served, records in (self.crafted_13(), self.crafted_12()):
            self.send_all(client, served, b"".join(records.record(b"") for _ in range(3000)))
            self.until(lambda served=served: served.lost is not None)  # type: ignore[misc]
        other.send(b"hello")
        self.until(lambda: beside.data == b"hello")

    def test_a_few_are_nothing(self) -> None:
        for client, served, records in (self.crafted_13(), self.crafted_12()):
            for number in range(1, 100):
                self.send_all(client, served, records.record(b"") + records.record(b"x"))
                self.until(lambda served=served, number=number: len(served.data) == number)  # type: ignore[misc]


class TestSlowRecords(FloodTests):
    """One that comes in small pieces: each is a read that brings nothing."""

    def byte_by_byte(self, client: Client, served: Served, record: bytes) -> None:
        self.send_each(client, served, (record[place : place + 1] for place in range(len(record))))

    def test_by_the_byte(self) -> None:
        for client, served, records in (self.crafted_13(), self.crafted_12()):
            for number in range(1, 4):
                self.byte_by_byte(client, served, records.record(b"x" * 900))
                self.until(lambda served=served, number=number: len(served.data) == 900 * number)  # type: ignore[misc]

    def test_a_whole_one_in_small_segments(self) -> None:
        client, served, records = self.crafted_13()
        record = records.record(b"x" * RECORD)
        step = 64
        self.send_each(
            client, served, (record[place : place + step] for place in range(0, len(record), step))
        )
        self.until(lambda: len(served.data) == RECORD)

    def test_for_ever_is_too_long(self) -> None:
        client, served, records = self.crafted_13()
        record = records.record(b"x" * RECORD)
        self.byte_by_byte(client, served, record)
        assert served.lost is not None and served.lost.check(ConnectionLost)
        assert served.data == b""


class TestErrorsOfOthers(FloodTests):
    """OpenSSL has a queue of errors, which is the thread's: before 4.0 those of others looked like ours."""

    def leave_an_error(self) -> None:
        bio = lib.BIO_new(lib.BIO_s_mem())
        assert lib.d2i_X509_bio(bio, ffi.NULL) == ffi.NULL and lib.ERR_peek_error()
        lib.BIO_free(bio)

    def test_they_break_no_connection(self) -> None:
        client, served, records = self.crafted_13()
        record = records.record(b"request")
        self.send_all(client, served, record[:10])
        self.leave_an_error()
        self.turn()
        assert served.lost is None
        self.leave_an_error()
        self.send_all(client, served, record[10:])
        self.until(lambda: served.data == b"request")
        self.leave_an_error()
        served.transport.write(b"answer")
        assert client.read() == b"answer"
        assert served.lost is None
