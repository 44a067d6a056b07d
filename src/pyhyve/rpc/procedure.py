"""What a row of the procedure table is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Final

from pyhyve.rpc.codec import Codec, codec
from pyhyve.rpc.spec import Program

__all__ = ["DOWNLOAD", "EVENT", "FDS_IN", "FDS_OUT", "HIGH", "LXC", "QEMU", "READ", "UPLOAD", "Procedure", "Trait"]


class Trait(Flag):
    """Properties of a procedure."""

    NONE = 0
    HIGH = auto()
    """Never waits for a guest: served although every worker is busy."""
    READ = auto()
    """Allowed on a read-only connection."""
    EVENT = auto()
    """Sent by the daemon without being asked; its arguments are the message."""
    UPLOAD = auto()
    """Opens a stream from client to daemon."""
    DOWNLOAD = auto()
    """Opens a stream from daemon to client (a console's goes both ways)."""
    FDS_IN = auto()
    """The call brings file descriptors."""
    FDS_OUT = auto()
    """The reply brings file descriptors."""


HIGH: Final = Trait.HIGH
READ: Final = Trait.READ
EVENT: Final = Trait.EVENT
UPLOAD: Final = Trait.UPLOAD
DOWNLOAD: Final = Trait.DOWNLOAD
FDS_IN: Final = Trait.FDS_IN
FDS_OUT: Final = Trait.FDS_OUT
QEMU: Final = Program.QEMU
LXC: Final = Program.LXC


@dataclass(frozen=True, slots=True, eq=False)
class Procedure:
    """One procedure: number, name, what goes in and what comes back. Each is one row: rows are compared by identity.

    ``args`` and ``ret`` are field lists (:mod:`pyhyve.rpc.xdr_types`); ``acl`` the permissions it needs whatever its
    flags, as ``object:permission`` words.
    """

    number: int
    name: str
    args: str = ""
    ret: str = ""
    traits: Trait = Trait.NONE
    acl: str = ""
    program: Program = Program.REMOTE
    permissions: tuple[str, ...] = field(init=False, repr=False)
    """Permissions needed, as ``object:permission``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "permissions", tuple(self.acl.split()))

    @property
    def args_codec(self) -> Codec:
        """Codec of the arguments (of an event: of its message)."""
        return codec(self.args)

    @property
    def ret_codec(self) -> Codec:
        """Codec of the answer."""
        return codec(self.ret)
