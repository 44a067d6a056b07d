from __future__ import annotations

import logging
import stat
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.users import Users
from pyhyve.support.errors import InputError, UserError

if TYPE_CHECKING:
    from pathlib import Path


def test_users_are_kept_changed_and_removed(tmp_path: Path) -> None:
    users, reader = Users(tmp_path / "etc" / "users"), Users(tmp_path / "etc" / "users")
    assert reader.find("alice") is None
    users.change("alice", "one")
    users.change("b ob", "two")
    first = reader.find("alice")
    assert first is not None
    assert reader.find("b ob") is not None
    users.change("alice", "three")
    assert reader.find("alice") not in {None, first}
    users.change("alice", None)
    assert reader.find("alice") is None
    assert stat.S_IMODE(users.path.stat().st_mode) == 0o600
    with pytest.raises(UserError, match="no user 'alice'"):
        users.change("alice", None)


def test_lines_that_are_none_are_ignored_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    users = Users(tmp_path / "users")
    users.change("alice", "one")
    users.path.write_text("# comment\n\nmallory nonsense\n" + users.path.read_text())
    with caplog.at_level(logging.WARNING):
        assert users.find("alice") is not None
    assert users.find("mallory") is None
    assert "line 3: no credential" in caplog.text


@pytest.mark.parametrize(("name", "password"), [("", "x"), ("a\x07", "x"), ("a", "x\x07")])
def test_names_and_passwords_that_cannot_be_are_refused(tmp_path: Path, name: str, password: str) -> None:
    with pytest.raises(InputError):
        Users(tmp_path / "users").change(name, password)
