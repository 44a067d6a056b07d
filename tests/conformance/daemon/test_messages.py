"""Our words for error codes and functions against libvirt's library."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.dispatch import supported
from pyhyve.daemon.errors import _TEMPLATES, api_name, message_template

if TYPE_CHECKING:
    from pyhyve.rpc.errors import ErrorCode


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    path = ctypes.util.find_library("virt")
    if path is None:
        pytest.skip("no libvirt.so (Debian package libvirt0)")
    return ctypes.CDLL(path)


@pytest.mark.parametrize("code", sorted(_TEMPLATES))
def test_template_is_the_librarys(library: ctypes.CDLL, code: ErrorCode) -> None:
    words = library.virErrorMsg
    words.restype, words.argtypes = ctypes.c_char_p, [ctypes.c_int, ctypes.c_char_p]
    assert message_template(code) == words(code, b"detail").decode()


def test_functions_exist_in_the_library(library: ctypes.CDLL) -> None:
    import pyhyve.daemon.parts  # noqa: F401 - registers the handlers

    internal = ("AUTH_", "CONNECT_SUPPORTS_FEATURE", "CONNECT_SET_IDENTITY", "QEMU_", "LXC_")
    names = [name for name in supported() if not name.startswith(internal) and "_CALLBACK_" not in name]
    assert len(names) > 10
    assert [name for name in names if not hasattr(library, api_name(name))] == []
