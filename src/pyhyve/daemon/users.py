"""The file of users who may log in with a password: one ``name credential`` a line."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from pyhyve.rpc.scram import Credential, derive_credential, saslprep
from pyhyve.support.errors import InputError, UserError
from pyhyve.support.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Users"]

_log = logging.getLogger(__name__)
FILE_NAME: Final = "users"


class Users:
    """The users of one file. It is read when it changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._known: dict[str, Credential] = {}

    def find(self, name: str) -> Credential | None:
        """Return what is kept of a user's password, or None for nobody."""
        self._read()
        return self._known.get(name)

    def _read(self) -> None:
        try:
            status = self.path.stat()
        except OSError:
            self._stamp, self._known = None, {}
            return
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return
        known = {}
        for number, line in enumerate(self.path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            name, _, credential = line.partition(" ")
            if not name or name.startswith("#"):
                continue
            try:
                known[unquote(name)] = Credential.parse(credential)
            except ValueError:
                _log.warning("%s, line %d: no credential; ignored", self.path, number)
        self._stamp, self._known = stamp, known

    def change(self, name: str, password: str | None) -> None:
        """Set a user's password, or (None) remove the user. Raises UserError."""
        self._read()
        try:
            prepared = saslprep(name)
            credential = None if password is None else derive_credential(password)
        except ValueError as error:
            msg = f"user {name!r}: {error}"
            raise InputError(msg) from error
        if not prepared:
            msg = "a user needs a name"
            raise InputError(msg)
        known = {**self._known}
        if credential is None:
            if prepared not in known:
                msg = f"{self.path}: no user {name!r}"
                raise UserError(msg)
            del known[prepared]
        else:
            known[prepared] = credential
        lines = [f"{quote(each, safe='@+')} {kept}\n" for each, kept in sorted(known.items())]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, "".join(lines).encode(), synced=True)
