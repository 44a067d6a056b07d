"""Numbers of "Virtual I/O Device (VIRTIO) Version 1.2" (OASIS, committee specification 01, July 2022)."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum, IntFlag


class DeviceType(IntEnum):
    """Device types (section 5)."""

    NET = 1
    BLOCK = 2
    CONSOLE = 3
    RNG = 4
    BALLOON = 5
    SCSI = 8
    VSOCK = 19


class Status(IntFlag):
    """The device status field (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


class Feature(IntFlag):
    """Feature bits that belong to no device type (6)."""

    ANY_LAYOUT = 1 << 27
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40


class DescFlag(IntFlag):
    """Descriptor flags: split (2.7.5) and packed (2.8.1) rings."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4
    AVAIL = 1 << 7
    USED = 1 << 15


AVAIL_NO_INTERRUPT = 1
"""Flag of the available ring: the driver wants no used buffer notification (2.7.7)."""
USED_NO_NOTIFY = 1
"""Flag of the used ring: the device wants no available buffer notification (2.7.10)."""


class EventFlag(IntEnum):
    """Flags of the packed ring's event suppression structures (2.8.10)."""

    ENABLE = 0
    DISABLE = 1
    DESC = 2


MAX_QUEUE_SIZE = 32768
"""Largest queue (2.7, 2.8.10.1)."""
DESCRIPTOR_BYTES = 16
MAX_CHAIN_BYTES = 1 << 32
"""A chain's buffers may not sum to more than this (2.7.5)."""

ISR_QUEUE = 1
"""ISR status: a queue has used buffers (4.1.4.5)."""
ISR_CONFIG = 2
"""ISR status: the configuration changed (4.1.4.5)."""
NO_VECTOR = 0xFFFF
"""VIRTIO_MSI_NO_VECTOR (4.1.5.1.2)."""

PCI_VENDOR = 0x1AF4
PCI_DEVICE_BASE = 0x1040
"""PCI device ID of a modern device: this plus its type (4.1.2)."""
PCI_REVISION = 1


class PciCap(IntEnum):
    """`cfg_type` of the vendor capabilities (4.1.4)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


class CommonReg(IntEnum):
    """Offsets in the common configuration structure (4.1.4.3)."""

    DEVICE_FEATURE_SELECT = 0x00
    DEVICE_FEATURE = 0x04
    DRIVER_FEATURE_SELECT = 0x08
    DRIVER_FEATURE = 0x0C
    CONFIG_MSIX_VECTOR = 0x10
    NUM_QUEUES = 0x12
    DEVICE_STATUS = 0x14
    CONFIG_GENERATION = 0x15
    QUEUE_SELECT = 0x16
    QUEUE_SIZE = 0x18
    QUEUE_MSIX_VECTOR = 0x1A
    QUEUE_ENABLE = 0x1C
    QUEUE_NOTIFY_OFF = 0x1E
    QUEUE_DESC = 0x20
    QUEUE_DRIVER = 0x28
    QUEUE_DEVICE = 0x30
    QUEUE_NOTIFY_DATA = 0x38
    QUEUE_RESET = 0x3A


COMMON_BYTES = 0x3C
"""Size of the common configuration structure (4.1.4.3)."""

MMIO_MAGIC = 0x74726976
"""Little-endian "virt" (4.2.2)."""
MMIO_VENDOR_ID = 0x48595059
"""Little-endian "PYHY": the vendor is the implementer's to choose (4.2.2)."""


class MmioReg(IntEnum):
    """Register offsets of virtio over MMIO, modern (4.2.2) and legacy (4.2.4)."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    GUEST_PAGE_SIZE = 0x028
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_ALIGN = 0x03C
    QUEUE_PFN = 0x040
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_SEL = 0x0AC
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    QUEUE_RESET = 0x0C0
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


class BlockFeature(IntFlag):
    """Feature bits of the block device (5.2.3)."""

    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    GEOMETRY = 1 << 4
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class BlockRequestType(IntEnum):
    """Request types of the block device (5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class BlockStatus(IntEnum):
    """Result byte of a block request (5.2.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


SECTOR_BYTES = 512
BLOCK_ID_BYTES = 20
WRITE_ZEROES_UNMAP = 1
"""Flag of a discard or write-zeroes segment (5.2.6)."""


class NetFeature(IntFlag):
    """Feature bits of the network device (5.1.3)."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    CTRL_GUEST_OFFLOADS = 1 << 2
    MTU = 1 << 3
    MAC = 1 << 5
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    GUEST_UFO = 1 << 10
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    HOST_UFO = 1 << 14
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_RX = 1 << 18
    CTRL_VLAN = 1 << 19
    CTRL_RX_EXTRA = 1 << 20
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    CTRL_MAC_ADDR = 1 << 23
    SPEED_DUPLEX = 1 << 63


NET_STATUS_LINK_UP = 1
NET_STATUS_ANNOUNCE = 2
NET_HEADER_BYTES = 12
"""`struct virtio_net_hdr` with `num_buffers`, as VERSION_1 always has it (5.1.6)."""
NET_LEGACY_HEADER_BYTES = 10
"""The same of a legacy driver without MRG_RXBUF (5.1.6.1)."""
NET_HDR_NEEDS_CSUM = 1
NET_HDR_DATA_VALID = 2


class NetCtrlClass(IntEnum):
    """Classes of control commands (5.1.6.5)."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4
    GUEST_OFFLOADS = 5


class NetCtrlRx(IntEnum):
    """Commands of NetCtrlClass.RX (5.1.6.5.1)."""

    PROMISC = 0
    ALLMULTI = 1
    ALLUNI = 2
    NOMULTI = 3
    NOUNI = 4
    NOBCAST = 5


class NetCtrlMac(IntEnum):
    """Commands of NetCtrlClass.MAC (5.1.6.5.2)."""

    TABLE_SET = 0
    ADDR_SET = 1


class NetCtrlVlan(IntEnum):
    """Commands of NetCtrlClass.VLAN (5.1.6.5.3)."""

    ADD = 0
    DEL = 1


NET_CTRL_MQ_VQ_PAIRS_SET = 0
NET_CTRL_ANNOUNCE_ACK = 0
NET_CTRL_GUEST_OFFLOADS_SET = 0
NET_OK = 0
NET_ERR = 1


class ConsoleFeature(IntFlag):
    """Feature bits of the console device (5.3.3)."""

    SIZE = 1 << 0
    MULTIPORT = 1 << 1
    EMERG_WRITE = 1 << 2


class ConsoleEvent(IntEnum):
    """Events of the console's control queues (5.3.6.2)."""

    DEVICE_READY = 0
    DEVICE_ADD = 1
    DEVICE_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


class BalloonFeature(IntFlag):
    """Feature bits of the memory balloon (5.5.3)."""

    MUST_TELL_HOST = 1 << 0
    STATS_VQ = 1 << 1
    DEFLATE_ON_OOM = 1 << 2
    FREE_PAGE_HINT = 1 << 3
    PAGE_POISON = 1 << 4
    PAGE_REPORTING = 1 << 5


class BalloonStat(IntEnum):
    """Tags of the balloon's memory statistics (5.5.6.4)."""

    SWAP_IN = 0
    SWAP_OUT = 1
    MAJFLT = 2
    MINFLT = 3
    MEMFREE = 4
    MEMTOT = 5
    AVAIL = 6
    CACHES = 7
    HTLB_PGALLOC = 8
    HTLB_PGFAIL = 9


BALLOON_PAGE_BYTES = 4096


class VsockType(IntEnum):
    """Kinds of sockets (5.10.6)."""

    STREAM = 1
    SEQPACKET = 2


class VsockOp(IntEnum):
    """Operations of a virtual socket's packets (5.10.6)."""

    INVALID = 0
    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


VSOCK_SHUTDOWN_RECEIVE = 1
VSOCK_SHUTDOWN_SEND = 2
"""Flags of VsockOp.SHUTDOWN: what the sender of the packet will not do any more."""
VSOCK_HOST_CID = 2
VSOCK_HEADER_BYTES = 44
