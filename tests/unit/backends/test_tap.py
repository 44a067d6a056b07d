from __future__ import annotations

import errno
import os

import pytest

from pyhyve.backends import tap
from pyhyve.backends.net import NetError


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", ".", ".."])
def test_name_that_no_interface_has_is_refused(name: str) -> None:
    with pytest.raises(NetError, match="not an interface name"):
        tap.Tap(name)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EPERM, "no permission .*--net user"),
        (errno.ENOENT, "/dev/net/tun is missing"),
        (errno.EBUSY, "already in use by another machine"),
        (errno.EINVAL, "other settings"),
        (errno.ENFILE, "Too many open files in system"),
    ],
)
def test_refusal_is_explained_in_one_line(code: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str, *, several: bool) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tap, "_open_queue", refuse)
    with pytest.raises(NetError, match=f"^tap tap0: .*{says}") as caught:
        tap.Tap("tap0")
    assert "\n" not in str(caught.value)


def test_mtu_of_an_interface() -> None:
    assert tap.interface_mtu("lo") == 65536
    assert tap.interface_mtu("no-such-interface") is None
