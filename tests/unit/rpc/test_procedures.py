from __future__ import annotations

from collections import Counter

import pytest

from pyhyve.rpc.procedure import EVENT, READ
from pyhyve.rpc.procedures import BY_NAME, BY_NUMBER, procedure
from pyhyve.rpc.spec import Program
from pyhyve.rpc.table import ROWS


def test_table_has_every_procedure_once() -> None:
    counts = Counter(row.program for row in ROWS)
    assert counts == {Program.REMOTE: 443, Program.QEMU: 7, Program.LXC: 1}
    assert len(BY_NUMBER) == len(BY_NAME) == len(ROWS)
    assert {row.number for row in ROWS if row.program is Program.REMOTE} == set(range(1, 444))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.program.name}-{row.name}")
def test_field_lists_of_every_procedure_compile(row: object) -> None:
    from pyhyve.rpc import codec
    from pyhyve.rpc.procedures import Procedure

    assert isinstance(row, Procedure)
    for fields in (row.args_codec, row.ret_codec):
        codec._encoder(fields.fields)
        codec._decoder(fields.fields)
        assert len({field.name for field in fields.fields}) == len(fields.fields)


def test_events_answer_nothing_and_may_be_seen_by_readers() -> None:
    events = [row for row in ROWS if EVENT in row.traits]
    assert len(events) == 51
    assert all(not row.ret and READ in row.traits for row in events)


def test_permissions_are_words() -> None:
    assert procedure("DOMAIN_CREATE").permissions == ("domain:start",)
    assert READ in procedure("DOMAIN_GET_INFO").traits
    assert READ not in procedure("DOMAIN_CREATE").traits
