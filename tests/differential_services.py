"""Whatever a service sends, the client gets its answer, a whole error, or one that is visibly broken off."""

from __future__ import annotations

import re

import attrs
from twisted.internet.error import ConnectionLost

from .differential import LIMITS, Front, Line, Spoken, answers_to, cuts_of, is_error, nothing_fails
from .properties import pieces
from .readings import Message, Unreadable, despite_trailers, h11_answer
from .wire import Wire


@attrs.frozen
class ServiceRun:
    """What a service sends in answer to one good request, cut at these offsets, and how that ends."""

    data: bytes
    cuts: tuple[int, ...] = ()
    fast: bool = True
    asks: int = 0
    """Which of `REQUESTS` it answers."""
    end: str = "closes"
    """``closes``, ``resets``, ``stays`` (until a time-out where the answer is not complete), or ``half``: the
    client closes its half, then it closes."""
    slow: bool = False
    """The client takes nothing until everything was sent."""
    reused: bool = False
    """The connection has carried another request before, which was answered well."""

    @classmethod
    def decoded(cls, data: bytes) -> ServiceRun:
        """What a fuzzer's input stands for: two bytes of circumstances, then the service's."""
        flags, seed, sent = data[0], data[1], data[2:]
        return cls(
            sent,
            cuts_of(seed, len(sent)),
            bool(flags & 1),
            (flags >> 1 & 7) % len(REQUESTS),
            SERVICE_ENDS[flags >> 4 & 3],
            bool(flags & 64),
            bool(flags & 128),
        )

    def encoded(self, seed: int = 0) -> bytes:
        """The input that stands for it, but for the cuts, which `seed` makes."""
        flags = (
            self.fast | self.asks << 1 | SERVICE_ENDS.index(self.end) << 4 | self.slow << 6 | self.reused << 7
        )
        return bytes((flags, seed)) + self.data


SERVICE_ENDS = ("closes", "resets", "stays", "half")
REQUESTS = (
    b"GET /svc/a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /svc/a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /svc/a HTTP/1.0\r\nHost: a\r\n\r\n",
    b"GET /svc/a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST /svc/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
)


NEXT = b"GET /svc/next HTTP/1.1\r\nHost: a\r\n\r\n"


def run_service(run: ServiceRun) -> None:
    """Ask, let the service send all this, ask again, and hold what came of it to the rules."""
    front = Front(run.fast)
    with nothing_fails():
        client = front.connect()
        service = _asked(run, front, client)
        for piece in pieces(run.data, list(run.cuts)):
            service.receive(piece)
            front.clock.advance(0)
            assert len(service.protocol._held) <= LIMITS.answer_head_size + len(piece)
        if run.slow and client.connected:
            client.drain()
            front.clock.pump([0, 0])
        _end_service(run, front, client, service)
        # Where it is asked once more, on another connection, it answers as it should.
        front.settle()
        sent = client.take()
        closed = (client.disconnecting or client.write_closed) and not client.aborted
        done = _check_answer(run, sent, closed, client.aborted)
        if done:
            _check_kept(run, service)
        _check_next(front, client if done and client.connected and not client.closed else front.connect())
        client.peer_closes()
        front.settle()
        front.assert_quiet()


def _asked(run: ServiceRun, front: Front, client: Line) -> Wire:
    """Send the request; returns the connection that it came to the service on."""
    if run.reused:
        client.receive(NEXT)
        front.settle()
        assert client.take().endswith(b"answer 0000")
    client.receive(REQUESTS[run.asks])
    if run.slow:
        client.fill()
    front.clock.advance(0)
    if not run.reused:
        front.service.connections.append(Spoken(front.network.accept()))
    [spoken] = front.service.connections
    assert spoken.wire.take()
    return spoken.wire


def _end_service(run: ServiceRun, front: Front, client: Line, service: Wire) -> None:
    if run.end == "half":
        client.half_closes()
        front.clock.advance(0)
    if run.end == "stays":
        seconds = 0
        while len(front.exchanges) and seconds < 65:
            front.clock.advance(1)
            seconds += 1
    elif service.connected:
        service.peer_closes(ConnectionLost() if run.end == "resets" else None)
    front.clock.pump([0, 0])


def _check_kept(run: ServiceRun, service: Wire) -> None:
    """A connection that is not to be used again, or that has said more than it was asked, is closed."""
    read = _service_reading(run, REQUESTS[run.asks].partition(b" ")[0], True)
    if read is None or not read[0]:
        return
    [*_interim, answer], rest = read
    options = answer.tokens(b"connection")
    if rest or b"close" in options or (answer.start[1] == b"1.0" and b"keep-alive" not in options):
        assert service.closed or not service.connected, f"kept with {rest!r} left over"


def _check_next(front: Front, client: Line) -> None:
    """Whoever comes next gets an answer to what was asked, not what is left of this one."""
    number = len(front.service.requests)
    client.receive(NEXT)
    front.settle()
    [answer], rest = answers_to(client.take(), [b"GET"], False)
    assert answer.complete and answer.body == b"answer %04d" % number and not rest, answer
    client.peer_closes()
    front.settle()


def _service_reading(run: ServiceRun, method: bytes, bodiless: bool) -> tuple[list[Message], bytes] | None:
    """What h11 reads in the service's bytes up to the first answer's end; None if it refuses them."""
    messages: list[Message] = []
    data = run.data
    if bodiless:
        # How a body would be framed that there is not, h11 wants to understand all the same.
        data = re.sub(rb"(?i)\r\ntransfer-encoding:[^\r\n]*", b"", data)
    try:
        while data:
            reader = h11_answer(method, run.end in ("closes", "half"))
            message, data = despite_trailers(reader, data)
            if message is None:
                break
            messages.append(message)
            if message.status >= 200 or message.status == 101:
                break
    except Unreadable:
        return None
    return messages, data


def _check_answer(run: ServiceRun, sent: bytes, closed: bool, aborted: bool) -> bool:
    """The client's answer is the service's, or a whole error of ours, or visibly broken off."""
    method, _target, version = REQUESTS[run.asks].partition(b"\r\n")[0].split(b" ")
    answers, rest = answers_to(sent, [method], closed)
    finals = [answer for answer in answers if answer.status >= 200 or answer.status == 101]
    assert len(finals) <= 1
    assert len(answers) - len(finals) <= LIMITS.interim_answers
    assert version == b"HTTP/1.1" or answers == finals
    if not finals:
        assert rest == b"" and (run.end in ("stays", "half") or aborted), f"no answer: {sent!r}"
        return False
    [answer] = finals
    assert answer is answers[-1]
    if answer.status == 101:
        assert run.fast and run.asks == 3
        return False
    assert rest == b""
    if not answer.complete:
        assert aborted or run.end == "half", "a broken answer must not end in order"
        return False
    if answer.all(b"x-backend") and b"x-backend" not in run.data.lower():
        # It closed a connection that was idle, or might have been: nothing of the request was answered there.
        assert run.reused and not run.data and method in (b"GET", b"HEAD")
        return True
    read = _service_reading(run, method, method == b"HEAD" or answer.status in (204, 304))
    if answer.all(b"cache-control") != [b"no-store"] or answer.status not in (502, 504):
        assert read is not None, f"h11 refuses what the client got as {answer}"
        [whole] = [message for message in read[0] if message.status >= 200]
        assert whole.complete, f"the client got a whole answer out of {whole}"
        assert (whole.status, whole.body) == (answer.status, answer.body)
    else:
        is_error(answer, method == b"HEAD")
    return True
