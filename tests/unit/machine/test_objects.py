"""User-creatable objects: what is refused, and how secrets are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.hardware.objects import ObjectSet

if TYPE_CHECKING:
    from pathlib import Path


def secret(**options: Any) -> bytes:
    return bytes(ObjectSet().add({"qom-type": "secret", "id": "s", **options}).value)


def test_secret_is_text_or_base64_in_place_or_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"aGVs\nbG8=\n")
    assert secret(data="hello") == b"hello"
    assert secret(data="aGVsbG8=", format="base64") == b"hello"
    assert secret(file=str(path)) == b"aGVs\nbG8=\n"
    assert secret(file=str(path), format="base64") == b"hello"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Either 'file' or 'data' must be provided"),
        ({"data": "x", "file": "x"}, "mutually exclusive"),
        ({"data": "a!", "format": "base64"}, "Base64 data contains invalid characters"),
        ({"data": "abc", "format": "base64"}, "padding"),
        ({"file": "/nowhere"}, "Unable to read /nowhere: No such file or directory"),
        ({"data": "x", "keyid": "master", "iv": "y"}, "keyid is not supported"),
        ({"data": "x", "iv": "y"}, "iv is not supported"),
    ],
)
def test_secret_that_cannot_be_read_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(ChangeError, match=said):
        secret(**options)
