"""Frames that virsh 9.0 and libvirtd 9.0 exchanged (tests/conformance/rpc/capture.py records them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyhyve.rpc.errors import ErrorCode, ErrorMessage
from pyhyve.rpc.frames import Frame, FrameReader
from pyhyve.rpc.procedures import BY_NUMBER
from pyhyve.rpc.spec import MessageType, Program, Status

CAPTURED = sorted(Path(__file__).with_name("captured").glob("*.txt"))


def frames_of(path: Path) -> list[tuple[str, bytes, Frame]]:
    found = []
    for line in path.read_text(encoding="ascii").splitlines():
        sender, _, text = line.partition(" ")
        data = bytes.fromhex(text)
        (frame,) = FrameReader().feed(data)
        found.append((sender, data, frame))
    return found


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.stem)
def test_captured_frames_survive_decoding_and_encoding(path: Path) -> None:
    for sender, data, frame in frames_of(path):
        assert frame.encode() == data
        if frame.program == Program.KEEPALIVE:
            assert not frame.payload
            continue
        row = BY_NUMBER[frame.program, frame.procedure]
        if frame.type is MessageType.CALL:
            assert sender == "c"
            assert row.args_codec.encode(*row.args_codec.decode(frame.payload)) == frame.payload, row.name
        elif frame.type is MessageType.MESSAGE:
            assert sender == "d"
            assert row.args_codec.encode(*row.args_codec.decode(frame.payload)) == frame.payload, row.name
        elif frame.status is Status.ERROR:
            assert ErrorMessage.decode(frame.payload).encode() == frame.payload
        elif frame.type is MessageType.REPLY:
            assert row.ret_codec.encode(*row.ret_codec.decode(frame.payload)) == frame.payload, row.name


def test_captured_conversations_cover_many_procedures() -> None:
    names = {
        BY_NUMBER[frame.program, frame.procedure].name
        for path in CAPTURED
        for _, _, frame in frames_of(path)
        if frame.program != Program.KEEPALIVE
    }
    assert len(names) > 60
    assert {"CONNECT_LIST_ALL_DOMAINS", "DOMAIN_GET_INFO", "CONNECT_GET_ALL_DOMAIN_STATS"} <= names


def test_captured_domain_list_reads_as_virsh_shows_it() -> None:
    path = next(path for path in CAPTURED if path.stem == "domains")
    row = next(r for r in BY_NUMBER.values() if r.name == "CONNECT_LIST_ALL_DOMAINS")
    replies = [
        frame
        for sender, _, frame in frames_of(path)
        if sender == "d" and frame.procedure == row.number and frame.type is MessageType.REPLY
    ]
    result = row.ret_codec.decode(replies[0].payload)
    assert [(domain.name, domain.id) for domain in result.domains] == [("test", 1)]
    assert result.ret == 1


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("no-domain", ErrorCode.NO_DOMAIN),
        ("no-network", ErrorCode.NO_NETWORK),
        ("no-pool", ErrorCode.NO_STORAGE_POOL),
        ("not-paused", ErrorCode.INTERNAL_ERROR),
        ("host", ErrorCode.NO_SUPPORT),
    ],
)
def test_captured_errors_carry_their_codes(name: str, code: ErrorCode) -> None:
    path = next(path for path in CAPTURED if path.stem == name)
    errors = [
        ErrorMessage.decode(frame.payload)
        for sender, _, frame in frames_of(path)
        if sender == "d" and frame.status is Status.ERROR
    ]
    assert code in {error.code for error in errors}
    assert all(error.message for error in errors)
