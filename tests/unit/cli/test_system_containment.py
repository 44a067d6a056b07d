"""What `-sandbox` asks for."""

from __future__ import annotations

import pytest

from pyhyve.cli.system_containment import Sandbox, parse_sandbox
from pyhyve.support.errors import InputError

OF_LIBVIRT = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("off", Sandbox.NONE),
        ("on", Sandbox.CALLS_AND_FILES),
        ("enable=on,files=allow", Sandbox.CALLS),
        (OF_LIBVIRT, Sandbox.CALLS),
        (f"{OF_LIBVIRT},files=deny", Sandbox.CALLS_AND_FILES),
        ("off,files=deny", Sandbox.NONE),
    ],
)
def test_sandbox_limits_files_unless_a_manager_asks(value: str, wanted: Sandbox) -> None:
    assert parse_sandbox(value) is wanted


@pytest.mark.parametrize("value", ["maybe", "on,spawn=allow", "on,files=", "on,files=some", "on,colour=red"])
def test_bad_sandbox_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="-sandbox"):
        parse_sandbox(value)
