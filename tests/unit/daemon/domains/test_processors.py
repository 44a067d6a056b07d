"""Processors a machine began with, and those that were plugged in."""

from __future__ import annotations

import pytest

from pyhyve.daemon.domains.definition.parse import parse_domain
from pyhyve.daemon.domains.definition.processors import at_most, at_start, now, with_plugged
from pyhyve.xml.element import format_element, replace

_DOMAIN = (
    "<domain type='qemu'><name>d</name><memory>65536</memory><vcpu{}>4</vcpu>{}"
    "<os><type arch='x86_64'>hvm</type></os></domain>"
)


@pytest.mark.parametrize(
    ("current", "vcpus", "expected"),
    [
        ("", "", 4),
        (" current='2'", "", 2),
        (
            " current='2'",
            "<vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='yes' hotpluggable='yes'/>",
            1,
        ),
        (
            " current='1'",
            "<vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='no' hotpluggable='yes'/>",
            1,
        ),
        (" current='2'", "<vcpu id='0' enabled='yes'/>", 2),
    ],
)
def test_machine_begins_with_what_cannot_be_unplugged(current: str, vcpus: str, expected: int) -> None:
    held = parse_domain(_DOMAIN.format(current, f"<vcpus>{vcpus}</vcpus>" if vcpus else ""))
    assert at_start(held) == expected


def test_plugged_processors_are_remembered() -> None:
    held = parse_domain(_DOMAIN.format(" current='1'", ""))
    assert (at_most(held), now(held)) == (4, 1)
    assert held.vcpu is not None
    plugged = with_plugged(replace(held, vcpu=replace(held.vcpu, current=3)), at_start(held), 3)
    assert (now(plugged), at_start(plugged)) == (3, 1)
    text = format_element(plugged)
    assert "<vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>" in text
    assert "<vcpu id='2' enabled='yes' hotpluggable='yes' order='3'/>" in text
    assert "<vcpu id='3' enabled='no' hotpluggable='yes'/>" in text
