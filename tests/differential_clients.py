"""Whatever a client sends, the service gets what was asked, and the client its answers in order."""

from __future__ import annotations

import re
from typing import Any

import attrs

from onebackend_proxy.headers import is_known_method

from .differential import LIMITS, PEER, Front, Service, answers_to, cuts_of, is_error, nothing_fails
from .logged import Entry
from .properties import pieces
from .readings import Message, Unreadable, all_read, despite_trailers, h11_request, httptools_request
from .wire import Wire


@attrs.frozen
class ClientRun:
    """What one client sends, cut at these offsets, and what is odd about those around it."""

    data: bytes
    cuts: tuple[int, ...] = ()
    fast: bool = True
    manner: str = "whole"
    late: bool = False
    """The service is reached, and answers, only once everything was sent."""
    slow: bool = False
    """The client takes nothing after the first piece, until everything was sent."""
    slow_service: bool = False
    """The service takes nothing after the head, until everything was sent."""
    end: str = "leaves"
    """``leaves``, ``half`` (closes its own half) or ``stays`` (until the proxy closes)."""

    @classmethod
    def decoded(cls, data: bytes) -> ClientRun:
        """What a fuzzer's input stands for: two bytes of circumstances, then the client's."""
        flags, seed, sent = data[0], data[1], data[2:]
        return cls(
            sent,
            cuts_of(seed, len(sent)),
            bool(flags & 1),
            MANNERS[flags >> 1 & 3],
            bool(flags & 8),
            bool(flags & 16),
            bool(flags & 32),
            ENDS[(flags >> 6) % 3],
        )

    def encoded(self, seed: int = 0) -> bytes:
        """The input that stands for it, but for the cuts, which `seed` makes."""
        flags = self.fast | MANNERS.index(self.manner) << 1 | self.late << 3 | self.slow << 4
        flags |= self.slow_service << 5 | ENDS.index(self.end) << 6
        return bytes((flags, seed)) + self.data


MANNERS = ("whole", "early", "half", "switch")
ENDS = ("leaves", "half", "stays")


@attrs.frozen
class Asked:
    """A request as h11 reads it in a client's bytes."""

    message: Message
    raw: bytes


_SPACED_LINE = re.compile(rb"([^ \r\n]+) +([^ \r\n]+) +(HTTP/1\.[01]\r\n)")


def _asked(data: bytes) -> tuple[list[Asked], bytes, bool]:
    """What h11 admits of a client's bytes, what is behind that, and whether it refuses it.

    The proxy admits two things more, which are made into what h11 reads: up to four empty lines before a
    request (RFC 9112, 2.2), and more than one space between the parts of its first line (RFC 9112, 3).
    """
    asked: list[Asked] = []
    while True:
        before = data
        for _ in range(4):
            data = data.removeprefix(b"\r\n")
        if _SPACED_LINE.match(data):
            data = _SPACED_LINE.sub(rb"\1 \2 \3", data, count=1)
        if not data:
            return asked, b"", False
        try:
            message, rest = _admitted(data)
        except Unreadable:
            return asked, data, True
        if message is None or not message.complete:
            return asked, data, False
        asked.append(Asked(message, before[: len(before) - len(rest)]))
        data = rest


def _admitted(data: bytes) -> tuple[Message | None, bytes]:
    """A request as h11 reads it; one with no Host or too many as if it had a wrong one.

    Where the request ends does not depend on that, and the resource plane reads on behind it.
    """
    try:
        return despite_trailers(h11_request, data)
    except Unreadable as error:
        if "Host:" not in str(error):
            raise
        head, end, rest = data.partition(b"\r\n\r\n")
        return despite_trailers(
            h11_request, re.sub(rb"(?i)\r\nhost:[^\r\n]*", b"", head) + b"\r\nHost: -" + end + rest
        )


_FIRST_LINE = re.compile(rb"[^ \r\n]+ [^ \r\n]+ HTTP/1\.[01]\r\n")
_PLAIN_HOST = re.compile(rb"[A-Za-z0-9][A-Za-z0-9.-]{0,60}(:[0-9]{1,4})?")
_PLAIN_TARGET = re.compile(rb"(http://[a-z.]{1,60})?/[!-\"$-~]{0,200}")
_PLAIN_CHUNKS = re.compile(rb"(?:[0-9a-fA-F]{1,8}\r\n.*?\r\n)*0\r\n\r\n", re.DOTALL)


def _why_refused(asked: Asked) -> list[str]:
    """In what the proxy may be stricter than h11 about this request; nothing, if it must serve it."""
    message = asked.message
    method, target, version = message.start
    raw_head, _end, raw_body = asked.raw.partition(b"\r\n\r\n")
    lengths, codings = message.all(b"content-length"), message.all(b"transfer-encoding")
    reasons = {
        # Of what was made plain for h11; twisted.web takes neither.
        "first line": not _FIRST_LINE.match(asked.raw),
        # h11 ends lines at LF alone and joins folded ones.
        "lines": re.search(rb"(?<!\r)\n|\n[ \t]", raw_head) or not _end,
        # h11 takes control characters in values.
        "characters": re.search(rb"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]|\r(?!\n)", raw_head),
        "method": not is_known_method(method) or method in (b"CONNECT", b"TRACE"),
        "version": version not in (b"1.0", b"1.1"),
        # h11 counts Hosts in HTTP/1.1 only, and never looks into one.
        "host": len(message.all(b"host")) != 1 or not _PLAIN_HOST.fullmatch(message.all(b"host")[0]),
        # It may lead out of the service.
        "path": re.search(rb"\.\.|%|;|//", target),
        "target": not _PLAIN_TARGET.fullmatch(target),
        # h11 prefers Transfer-Encoding, and takes one length said twice.
        "framing": len(re.findall(rb"(?i)\n(?:content-length|transfer-encoding):", raw_head)) > 1
        or (codings and version == b"1.0")
        or re.search(rb"(?i)\ncontent-length:[^\r\n]*,", raw_head)
        or any(len(length) > 8 for length in lengths),
        "expectation": message.tokens(b"expect") not in ([b""], [b"100-continue"]),
        "upgrade with a body": message.all(b"upgrade") and (lengths or codings),
        "loop": b"".join(message.all(b"via")).count(b"onebackend-proxy") > 4,
        "limits": len(raw_head) + 4 > LIMITS.head_size
        or len(message.fields) > LIMITS.head_fields
        or len(target) > LIMITS.target_size
        or len(message.body) > LIMITS.body_limit
        # Of twisted.web's channel.
        or any(len(name) > 200 for name, _value in message.fields),
        # h11 takes more of sizes and their extensions, and folded trailers.
        "chunks": codings and not _PLAIN_CHUNKS.fullmatch(raw_body),
    }
    return [name for name, holds in reasons.items() if holds]


@attrs.frozen
class Outcome:
    """What a client saw: all it got, and how that ended."""

    sent: bytes
    closed: bool
    """The proxy closed the connection, in order."""
    aborted: bool
    early_end: bool
    """It did so before the client did anything but send."""
    web: bool
    """twisted.web's channel had the connection in the end."""


def run_client(run: ClientRun) -> None:
    """Send it all, and hold what came of it to the rules."""
    front = Front(run.fast, run.manner, run.slow_service)
    with nothing_fails():
        wire = front.connect()
        _send(run, front, wire)
        early_end = wire.closed
        if run.end == "stays":
            for _ in range(200):
                front.clock.advance(1)
                front.settle()
            assert wire.closed or any(spoken.tunnel for spoken in front.service.connections)
        elif run.end == "half":
            wire.half_closes()
            front.settle()
        ended = wire.disconnecting or wire.write_closed
        # The fast plane hands a connection over with its first request for a built-in service.
        web = getattr(wire.protocol, "_handed_over", wire.protocol) is not None
        outcome = Outcome(wire.take(), ended and not wire.aborted, wire.aborted, early_end, web)
        wire.peer_closes()
        front.settle()
        _check_next(front)
        front.assert_quiet()
    _check_service(front.service)
    _check_answers(run, front.service, outcome)
    # Of the one that came next.
    *told, _last = front.told
    _check_log(told, outcome)


def _send(run: ClientRun, front: Front, wire: Wire) -> None:
    for count, piece in enumerate(pieces(run.data, list(run.cuts))):
        wire.receive(piece)
        assert _held(wire.protocol) <= LIMITS.head_size + len(piece)
        if count == 0 and run.slow and wire.producer is not None:
            wire.fill()
        if not run.late:
            front.settle()
    front.settle()
    for spoken in front.service.connections:
        if spoken.wire.full and spoken.wire.connected:
            spoken.wire.drain()
    front.settle()
    if wire.full and wire.connected:
        wire.drain()
    front.settle()
    assert wire.closed or not wire._undelivered, "the client waits for ever"


def _check_next(front: Front) -> None:
    """Whoever comes next is served as if nothing had been."""
    service = front.service
    before = list(service.requests)
    wire = front.connect()
    wire.receive(b"GET /svc/next HTTP/1.1\r\nHost: a\r\n\r\n")
    front.settle()
    for spoken in service.connections:
        if spoken.wire.full and spoken.wire.connected:
            spoken.wire.drain()
    [answer], rest = answers_to(wire.take(), [b"GET"], False)
    assert answer.body == b"answer %04d" % len(before) and answer.complete and not rest
    [asked] = service.requests[len(before) :]
    assert asked.start[:2] == (b"GET", b"/svc/next")
    service.requests = before
    wire.peer_closes()
    front.settle()


def _check_service(service: Service) -> None:
    """What each upstream connection carried is the same requests to both readers, to the last byte."""
    for spoken in service.connections:
        other, other_rest = all_read(spoken.record, httptools_request)
        if spoken.tunnel:
            # What follows is another protocol's.
            requests = spoken.record[: len(spoken.record) - len(other_rest)]
            assert all_read(requests, h11_request) == (other, b"") and other[-1].switches
            continue
        read, rest = all_read(spoken.record, h11_request)
        again: list[Message] = list(other)
        while other_rest and other[-1].switches:
            # The service did not switch: it reads on, and so does httptools where it is told to.
            other, other_rest = all_read(other_rest, httptools_request)
            again += other
        assert read == again, f"two readings: {read} and {again}"
        assert rest == other_rest
        assert not rest or spoken.wire.closed, f"left over: {rest!r}"
        for message in read:
            _check_request(message)


def _check_request(message: Message) -> None:
    """One request is fit for any server."""
    assert message.start[2] == b"1.1"
    [host] = message.all(b"host")
    assert re.fullmatch(rb"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", host)
    assert len(message.all(b"content-length")) + len(message.all(b"transfer-encoding")) <= 1
    assert message.all(b"x-forwarded-for") == message.all(b"x-real-ip") == [PEER.encode()]
    assert len(message.all(b"x-request-id")) == len(message.all(b"x-forwarded-host")) == 1
    assert not [name for name, _value in message.fields if b"_" in name or name == b"proxy"]
    hop = set(message.tokens(b"connection")) - {b""}
    assert hop <= {b"te", b"upgrade"}, hop
    assert not (message.all(b"upgrade") and message.body)
    assert not {name for name, _value in message.trailers} & {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"set-cookie",
        b"authorization",
    }


def _same_request(asked: Asked, seen: Message) -> None:
    """The service got what the client asked, and nothing made of other bytes."""
    method, target, _version = asked.message.start
    absolute = re.fullmatch(rb"(?i)https?://([^/?]*)(.*)", target)
    if absolute is not None:
        target = absolute[2] if absolute[2][:1] == b"/" else b"/" + absolute[2]
        assert seen.all(b"host") == [absolute[1]]
    else:
        assert seen.all(b"host") == asked.message.all(b"host")
    assert seen.start[:2] == (method, target)
    assert seen.body == asked.message.body
    ours = {
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"via",
    }
    ours |= {b"host", b"te", b"connection", b"content-length", b"upgrade", b"expect"}
    strange = [field for field in seen.fields if field[0] not in ours and field not in asked.message.fields]
    assert not strange, f"nobody sent {strange}"


def _held(protocol: Any) -> int:
    """Bytes that a channel of the fast plane holds of what is no body yet."""
    chunks = getattr(protocol, "_chunks", None)
    return max(len(getattr(protocol, "_held", b"")), len(chunks._held) if chunks is not None else 0)


def _check_answers(run: ClientRun, service: Service, outcome: Outcome) -> None:
    aborted, closed = outcome.aborted, outcome.closed
    asked, behind, refused = _asked(run.data)
    # An answer to HEAD has no body, also where the rest of its request was refused; but twisted.web refuses a
    # wrong version before we are told the method.
    methods = [
        b"GET" if outcome.web and version not in (b"1.0", b"1.1") else method
        for method, _target, version in (each.message.start for each in asked)
    ]
    methods.append(b"HEAD" if re.match(rb"(?:\r\n)*HEAD[ \r]", behind) else b"GET")
    try:
        answers, rest = answers_to(outcome.sent, methods, closed)
    except Unreadable:
        # twisted.web refuses a wrong first line before we are told the method.
        assert outcome.web and methods.pop() == b"HEAD"
        answers, rest = answers_to(outcome.sent, methods, closed)
    finals = [answer for answer in answers if answer.status >= 200 or answer.status == 101]
    # twisted.web drops lines of a trailer section that are no fields, and reads on; so it does behind raw
    # bytes in a target, once we have refused them.
    lax = outcome.web and refused and re.search(rb"(?i)chunked|^[^\r\n]*[^\x20-\x7e\r\n]", behind)
    marked = 0
    for number, answer in enumerate(finals):
        is_last = number == len(finals) - 1
        head = number < len(methods) and methods[number] == b"HEAD"
        if lax and number == len(asked):
            return
        if not answer.complete:
            # Begun before the request was complete, and given up with it: only a reset says so.
            # Or the client closed its half, and sees that the answer is not whole.
            assert is_last and run.manner == "half" and (aborted or not closed or run.end == "half")
            continue
        if answer.all(b"x-backend"):
            assert answer.all(b"x-backend") == [b"%d" % marked], "answers out of order"
            if marked < len(service.requests):
                assert number < len(asked), "the service got a request that h11 does not see"
                _same_request(asked[number], service.requests[marked])
            else:
                assert is_last and run.manner in ("early", "half")
            marked += 1
        elif is_error(answer, head):
            _check_error(asked[number : number + 1], answer, is_last, outcome)
        if b"close" in answer.tokens(b"connection") and answer.status != 101:
            assert is_last and (closed or aborted)
        if answer.status == 101:
            _check_tunnel(run, asked[number], service, rest)
            return
    assert rest == b""
    assert len(service.requests) <= marked or aborted or (run.end == "half" and run.manner == "half")
    last_closes = finals and b"close" in finals[-1].tokens(b"connection")
    if last_closes or aborted:
        return
    if len(finals) < len(asked):
        # h11 sees the end of a head in LF alone.
        why = _why_refused(asked[len(finals)])
        assert "lines" in why or "chunks" in why, f"{len(asked)} requests, {len(finals)} answers"
    else:
        assert len(finals) == len(asked)
        # twisted.web looks at a field when the next line has come.
        assert not refused or lax or (outcome.web and b"\r\n\r\n" not in behind), f"h11 refuses {behind!r}"


def _check_error(asked: list[Asked], answer: Message, is_last: bool, outcome: Outcome) -> None:
    """An error of ours is due, and the last answer unless it is only about the path."""
    assert answer.status < 500 or answer.status in (501, 505), answer
    if b"close" in answer.tokens(b"connection"):
        assert is_last
    else:
        # It is about the path, or about a body that has come whole: what follows can be understood.
        assert answer.status in (404, 413) and (asked or outcome.web), answer
    if asked and answer.status == 404:
        assert not re.match(rb"(?:https?://[^/]*)?/svc(?:[/?]|$)", asked[0].message.start[1])
    elif asked and outcome.early_end:
        why = _why_refused(asked[0])
        assert why, f"refused for nothing: {asked[0].raw!r}: {answer.status} {answer.body!r}"


def _check_log(told: list[Entry], outcome: Outcome) -> None:
    """Each answer has its line in the access log, and each request given up one with what was sent of it."""
    statuses = re.findall(rb"HTTP/1\.1 ([1-5][0-9]{2}) [^\r\n]*\r\n", outcome.sent)
    answered = [int(status) for status in statuses if status[:1] != b"1" or status == b"101"]
    logged = [entry.status for entry in told]
    assert logged[: len(answered)] == answered, (logged, answered)
    assert set(logged[len(answered) :]) <= {499}, (logged, answered)


def _check_tunnel(run: ClientRun, asked: Asked, service: Service, rest: bytes) -> None:
    """The tunnel carries what stands behind the request, byte for byte, and its answer's rest."""
    assert run.fast and asked.message.start[0] == b"GET" and not asked.message.body
    [spoken] = [spoken for spoken in service.connections if spoken.tunnel]
    through = spoken.unread
    assert run.data.endswith(through) and asked.raw[-4:] + through == run.data[-len(through) - 4 :]
    assert rest == b"switched"
