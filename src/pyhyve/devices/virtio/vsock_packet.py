"""Packets of virtual sockets, and one connection's state with its credit (VIRTIO 1.2, 5.10.6). No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from pyhyve.devices.virtio.spec import VSOCK_HOST_CID, VsockOp, VsockType
from pyhyve.support.enums import Enum, auto

if TYPE_CHECKING:
    import socket

_HEADER = Struct("<QQIIIHHIII")
BUFFER_BYTES = 256 << 10
"""What the guest may send ahead of the host's program reading it."""
_MASK = 0xFFFFFFFF


class VsockHeader(NamedTuple):
    """`struct virtio_vsock_hdr`."""

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    length: int
    type: int
    op: int
    flags: int
    buffer_bytes: int
    """The sender's room for data."""
    taken: int
    """Bytes that the sender's program has read so far, modulo 2**32."""

    @classmethod
    def parse(cls, data: bytes | memoryview) -> VsockHeader:
        """The header at the start of `data`, which is long enough."""
        return cls(*_HEADER.unpack_from(data))

    def pack(self) -> bytes:
        """As the driver reads it."""
        return _HEADER.pack(*self)


class ConnectionState(Enum):
    """Where a connection is in its life."""

    OFFERED = auto()
    """The host asked; the guest has not answered."""
    OPEN = auto()
    CLOSED = auto()


@dataclass(slots=True, eq=False)
class Connection:
    """One stream between a port of the guest and a Unix socket. Counters are modulo 2**32."""

    guest_cid: int
    guest_port: int
    host_port: int
    socket: socket.socket
    state: ConnectionState
    peer_buffer_bytes: int = 0
    peer_taken: int = 0
    sent: int = 0
    """Bytes given to the guest."""
    received: int = 0
    """Bytes the guest sent."""
    written: int = 0
    """Those of them that reached the socket."""
    announced: int = 0
    """What the guest was last told of `written`."""
    pending: bytearray = field(default_factory=bytearray)
    """Bytes from the guest that the socket does not take yet."""
    greeting: bytes = b""
    """What the host's program is told when the guest accepts."""
    guest_sends: bool = True
    guest_receives: bool = True
    host_sends: bool = True
    reading: bool = False
    """Whether its socket is watched for data."""
    queued: bool = False
    """Whether it waits for buffers of the guest to read into."""

    @property
    def key(self) -> tuple[int, int]:
        """Its place in the table of connections."""
        return self.guest_port, self.host_port

    @property
    def takes_data(self) -> bool:
        """Whether data from the host's program can go to the guest."""
        return self.state is ConnectionState.OPEN and self.guest_receives and self.host_sends

    @property
    def credit(self) -> int:
        """Bytes the guest has room for."""
        return max(0, self.peer_buffer_bytes - ((self.sent - self.peer_taken) & _MASK))

    def update_credit(self, header: VsockHeader) -> None:
        """Every packet carries the sender's room."""
        self.peer_buffer_bytes, self.peer_taken = header.buffer_bytes, header.taken

    def header(self, op: VsockOp, *, length: int = 0, flags: int = 0) -> VsockHeader:
        """A packet from the host to the guest."""
        self.announced = self.written
        return VsockHeader(
            VSOCK_HOST_CID,
            self.guest_cid,
            self.host_port,
            self.guest_port,
            length,
            VsockType.STREAM,
            op,
            flags,
            BUFFER_BYTES,
            self.written,
        )

    @property
    def owes_credit(self) -> bool:
        """Whether the guest should hear of room it does not know of: it might wait for it."""
        return (self.written - self.announced) & _MASK >= BUFFER_BYTES // 4


def refusal(header: VsockHeader) -> VsockHeader:
    """The RST that answers a packet nobody expects."""
    return VsockHeader(
        header.target_cid,
        header.source_cid,
        header.target_port,
        header.source_port,
        0,
        header.type,
        VsockOp.RST,
        0,
        0,
        0,
    )
