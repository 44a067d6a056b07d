from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.rpc.frames import Frame, FrameError, FrameReader
from pyhyve.rpc.spec import FRAME_MAX, MessageType, Program, Status

CALL = Frame(Program.REMOTE, 16, MessageType.CALL, 7, payload=b"abcd")


def test_frame_encodes_as_the_protocol_says() -> None:
    assert CALL.encode().hex() == ("0000002020008086000000010000001000000000000000070000000061626364")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 50))
def test_frames_arrive_whole_whatever_the_pieces(payloads: list[bytes], step: int) -> None:
    frames = [Frame(Program.REMOTE, 1, MessageType.STREAM, n, Status.CONTINUE, p) for n, p in enumerate(payloads)]
    data = b"".join(frame.encode() for frame in frames)
    reader = FrameReader()
    got = [frame for start in range(0, len(data), step) for frame in reader.feed(data[start : start + step])]
    assert got == frames
    assert reader.pending_size == 0


def test_descriptors_follow_on_bytes_of_their_own() -> None:
    frame = Frame(Program.REMOTE, 309, MessageType.CALL_WITH_FDS, 1, payload=b"", fds=(5, 6))
    data = frame.encode()
    assert int.from_bytes(data[:4], "big") == len(data) == 32
    reader = FrameReader()
    assert list(reader.feed(data)) == []
    assert list(reader.feed(b"\0", [5])) == []
    assert list(reader.feed(b"\0" + CALL.encode(), [6])) == [frame, CALL]


def test_descriptors_nobody_took_are_given_back_for_closing() -> None:
    reader = FrameReader()
    assert list(reader.feed(b"\0\0", [9])) == []
    assert reader.close() == [9]


@pytest.mark.parametrize("length", [0, 4, 27, FRAME_MAX + 1, 0xFFFFFFFF])
def test_impossible_lengths_are_refused_at_once(length: int) -> None:
    with pytest.raises(FrameError, match="cannot have"):
        list(FrameReader().feed(length.to_bytes(4, "big")))


def test_unknown_types_missing_and_excess_descriptors_are_refused() -> None:
    data = bytearray(CALL.encode())
    data[19] = 9
    with pytest.raises(FrameError, match="type 9"):
        list(FrameReader().feed(bytes(data)))
    announced = Frame(1, 1, MessageType.CALL_WITH_FDS, 1, fds=(1,)).encode()
    with pytest.raises(FrameError, match="did not come"):
        list(FrameReader().feed(announced + b"\0"))
    with pytest.raises(FrameError, match="at most 32"):
        list(FrameReader().feed(announced[:28] + b"\0\0\1\0"))
    with pytest.raises(FrameError, match="more descriptors"):
        list(FrameReader().feed(b"", range(33)))
    with pytest.raises(FrameError, match="at most"):
        Frame(1, 1, MessageType.CALL, 1, payload=bytes(FRAME_MAX)).encode()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 31), st.integers(0, 255))
def test_mutated_frames_never_do_worse_than_frame_errors(position: int, value: int) -> None:
    data = bytearray(CALL.encode())
    data[position] = value
    try:
        list(FrameReader().feed(bytes(data)))
    except FrameError:
        return
