from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.service import parse_address
from pyhyve.daemon.settings import Limits, Settings, read_settings
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "daemon.toml"
    path.write_text(text)
    return read_settings(path)


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "daemon.toml") == Settings()


def test_the_example_in_the_documentation_is_read(tmp_path: Path) -> None:
    from pyhyve.daemon import settings

    assert settings.__doc__ is not None
    example = settings.__doc__.split("::\n", 1)[1]
    text = "\n".join(line.removeprefix("    ") for line in example.splitlines())
    made = read(tmp_path, text)
    assert made.limits == Limits()
    assert made.listen.tls == ("0.0.0.0:16514",)
    assert made.unix.group == "libvirt"
    assert made.tcp.auth == "sasl"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[listen]\nudp = []", "udp is not one of"),
        ("listen = 1", "listen is a table"),
        ("[listen]\ntcp = 'x'", "tcp is a list of texts"),
        ("[listen]\nunix = 1", "unix: 1 is not a bool"),
        ("[limits]\nclients = 0", "a number above 0"),
        ("[limits]\nclients = true", "a number above 0"),
        ("[tcp]\nauth = 'magic'", "tcp.auth: 'magic' is not one of"),
        ("[unix]\nmode = '0999'", "no mode such as 0770"),
        ("[unix]\nmode = '07777'", "no mode such as 0770"),
        ("x", "daemon.toml"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:99", ("127.0.0.1", 99)),
        ("localhost", ("localhost", 16509)),
        ("", ("", 16509)),
        (":99", ("", 99)),
        ("[::1]:99", ("::1", 99)),
        ("[::1]", ("::1", 16509)),
    ],
)
def test_addresses_are_understood(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 16509) == address


@pytest.mark.parametrize("text", ["host:", "host:x", "host:0", "host:65536"])
def test_addresses_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="not an address"):
        parse_address(text, 16509)
