"""Cutting a client's bytes into frames, and counting those that cost it little."""

from __future__ import annotations

from typing import Any

import pytest
from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.downstream.http2_frames import (
    EMPTY_COST,
    MAX_FRAME,
    MAX_SETTINGS,
    PATIENCE,
    PREFACE,
    RESET_COST,
    SETTINGS_COST,
    Fault,
    FrameReader,
    Patience,
)

from ..properties import OFTEN, pieces

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """A frame on the wire."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


BEGIN = PREFACE + frame(SETTINGS)


def reader(open_streams: tuple[int, ...] = (1,), block_limit: int = 1000) -> FrameReader:
    """A reader that has had the preface, with all its patience."""
    made = FrameReader(open_streams, (), Patience(), block_limit)
    made.add(BEGIN)
    assert made.next() == BEGIN
    made._patience.left = PATIENCE
    return made


def taken(of: FrameReader, data: bytes) -> list[bytes]:
    """All whole frames once these bytes came."""
    of.add(data)
    return list(iter(of.next, b""))


def test_whole_frames_come_out_one_by_one() -> None:
    frames = [frame(PING, b"12345678"), frame(DATA, b"x" * 100, 0, 1), frame(HEADERS, b"", END_HEADERS, 3)]
    made = reader()
    assert taken(made, b"".join(frames)) == frames
    assert repr(made) == "<FrameReader: 0 bytes held>"
    assert not made.in_frame and not made.in_head


def test_what_it_waits_for() -> None:
    made = FrameReader((), (), Patience(), 1000)
    made.add(BEGIN[:30])
    assert made.next() == b"" and (made.in_head, made.in_frame) == (True, True)
    assert taken(made, BEGIN[30:]) == [BEGIN] and not made.in_head
    data = frame(DATA, b"hello", 0, 5)
    assert taken(made, data[:8]) == [] and made.in_frame and made.body_of == 0
    assert taken(made, data[8:12]) == [] and not made.in_frame and made.body_of == 5
    assert taken(made, data[12:]) == [data] and made.body_of == 0
    assert taken(made, frame(HEADERS, b"x", 0, 7)) and made.in_head and not made.in_frame
    assert taken(made, frame(CONTINUATION, b"x", END_HEADERS, 7)) and not made.in_head


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n", ErrorCodes.PROTOCOL_ERROR),
        (b"PRX", ErrorCodes.PROTOCOL_ERROR),
        (PREFACE + frame(PING, b"12345678"), ErrorCodes.PROTOCOL_ERROR),
        (PREFACE + frame(SETTINGS, flags=ACK), ErrorCodes.PROTOCOL_ERROR),
        (BEGIN + (MAX_FRAME + 1).to_bytes(3, "big") + b"\0" * 6, ErrorCodes.FRAME_SIZE_ERROR),
        (BEGIN + frame(SETTINGS, b"\0" * 6 * (MAX_SETTINGS + 1)), ErrorCodes.ENHANCE_YOUR_CALM),
        (BEGIN + frame(HEADERS, b"x" * 1001, END_HEADERS, 1), ErrorCodes.ENHANCE_YOUR_CALM),
        (
            BEGIN + frame(HEADERS, b"x" * 600, 0, 1) + frame(CONTINUATION, b"x" * 600, 0, 1),
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
    ],
)
def test_what_ends_the_connection(data: bytes, code: ErrorCodes) -> None:
    made = FrameReader((), (), Patience(), 1000)
    made.add(data)
    with pytest.raises(Fault) as caught:
        list(iter(made.next, b""))
    assert caught.value.code == code
    assert caught.value.reason


@pytest.mark.parametrize(
    ("data", "cost"),
    [
        (frame(PING, b"12345678"), 1),
        (frame(PRIORITY, b"\0" * 5, 0, 9), 1),
        (frame(WINDOW_UPDATE, b"\0\0\0\1", 0, 1), 1),
        (frame(0xFA, b"who knows"), 1),
        (frame(SETTINGS), SETTINGS_COST),
        (frame(SETTINGS, flags=ACK), 1),
        (frame(RST_STREAM, b"\0\0\0\x08", 0, 1), RESET_COST),
        (frame(RST_STREAM, b"\0\0\0\x08", 0, 3), 1),
        (frame(DATA, b"x", 0, 1), 0),
        (frame(DATA, b"", END_STREAM, 1), 0),
        (frame(DATA, b"", 0, 1), EMPTY_COST),
        (frame(DATA, b"\x03\0\0\0", PADDED, 1), EMPTY_COST),
        (frame(DATA, b"\x03x\0\0\0", PADDED, 1), 0),
        (frame(DATA, b"x", 0, 3), EMPTY_COST),
        (frame(HEADERS, b"", END_HEADERS, 3), 0),
        (frame(HEADERS, b"", 0, 3) + frame(CONTINUATION, b"", END_HEADERS, 3), 1),
    ],
)
def test_what_frames_cost(data: bytes, cost: int) -> None:
    made = reader()
    taken(made, data)
    assert made._patience.left == PATIENCE - cost


def test_patience_ends_and_comes_back() -> None:
    patience = Patience()
    patience.spend(PATIENCE, "x")
    with pytest.raises(Fault, match="too many x"):
        patience.spend(1, "x")
    patience.earn(PATIENCE * 2)
    assert patience.left == PATIENCE


def test_a_goaway_is_kept_from_h2() -> None:
    ping = frame(PING, b"12345678")
    bye = frame(GOAWAY, b"\0" * 8 + b"why")
    made = reader()
    assert taken(made, ping + bye + ping) == [ping, ping]
    assert made.went_away
    made = reader()
    assert taken(made, bye) == [] and made.went_away and not made.in_frame


def test_a_goaway_that_is_none_is_for_h2_to_refuse() -> None:
    for bad in (frame(GOAWAY, b"\0" * 7), frame(GOAWAY, b"\0" * 8, 0, 1)):
        made = reader()
        assert taken(made, bad) == [bad] and not made.went_away
    made = reader()
    block, bye = frame(HEADERS, b"x", 0, 1), frame(GOAWAY, b"\0" * 8)
    assert taken(made, block + bye) == [block, bye] and not made.went_away


FRAMES = st.builds(
    frame,
    st.integers(0, 12),
    st.binary(max_size=40),
    st.integers(0, 255),
    st.integers(0, 7),
)


def run(several: list[bytes]) -> Any:
    """What comes of these pieces, and how it ends."""
    made = FrameReader((1,), (3,), Patience(), 100)
    out: list[bytes] = []
    for piece in several:
        made.add(piece)
        try:
            out.extend(iter(made.next, b""))
        except Fault as fault:
            return b"".join(out), fault.code, fault.reason
    return b"".join(out), made.went_away, made.in_head, made.in_frame, made.body_of, made._patience.left


@OFTEN
@given(st.lists(FRAMES, max_size=12), st.binary(max_size=8), st.lists(st.integers(0, 1000), max_size=8))
def test_any_split_gives_the_same(frames: list[bytes], rest: bytes, cuts: list[int]) -> None:
    data = BEGIN + b"".join(frames) + rest
    assert run(pieces(data, cuts)) == run([data])


@OFTEN
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_make_it_fail_otherwise(data: bytes, begun: bool) -> None:
    run([BEGIN + data if begun else data])
