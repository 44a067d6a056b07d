"""Small good images of every format that can be created here, and where their metadata lies."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from pyhyve.image.contract import BackingReference, CreateRequest, ImageError, OpenRequest
from pyhyve.image.opening import parse_create_options
from pyhyve.image.qcow2.image import Qcow2Image
from pyhyve.image.registry import find_format
from pyhyve.image.storage import FileObjectStorage, Storage

from . import foreign

SIZE = 1 << 20
VARIANTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("qcow2", {"cluster_size": "512"}),
    ("qcow2", {"cluster_size": "4096"}),
    ("qcow2", {"cluster_size": "4096", "compat": "v2"}),
    ("qcow2", {"cluster_size": "4096", "compression_type": "zstd", "refcount_bits": "64"}),
    ("qcow2", {"cluster_size": "16384", "extended_l2": "on", "refcount_bits": "1"}),
    ("qcow2", {"cluster_size": "1024", "lazy_refcounts": "on", "refcount_bits": "8"}),
    ("qcow", {}),
)
METADATA_SPAN = 64


@dataclass(frozen=True, slots=True)
class Seed:
    """A good image; `places` are offsets of bytes worth damaging."""

    name: str
    format_name: str
    data: bytes
    places: tuple[int, ...]


class Siblings:
    """Files beside an image, in memory: formats made of several files find theirs, every other name is missing."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.made: dict[str, io.BytesIO] = {}
        self._files = files or {}

    def create(self, name: str) -> Storage:
        """A new file."""
        self.made[name] = io.BytesIO()
        return FileObjectStorage(self.made[name], name, writable=True)

    def open(self, name: str, writable: bool) -> Storage:
        """An existing file."""
        if name not in self._files:
            msg = f"Could not open '{name}': No such file or directory"
            raise ImageError(msg)
        return FileObjectStorage(io.BytesIO(self._files[name]), name, writable=writable)


def metadata_places(data: bytes) -> tuple[int, ...]:
    """Offsets near the front, near the end, and in every block that looks like a table (mostly zero, not all)."""
    places = list(range(min(len(data), 600))) + list(range(max(0, len(data) - 600), len(data)))
    for start in range(0, len(data), 512):
        block = data[start : start + 512]
        zeroes = block.count(0)
        if len(block) // 2 < zeroes < len(block):
            places += [start + at for at, value in enumerate(block) if value][:METADATA_SPAN]
    return tuple(sorted(set(places)))


def make_seed(format_name: str, options: dict[str, str]) -> Seed:
    """Create an image in memory and write a little of everything into it."""
    image_format = find_format(format_name)
    if image_format.create is None:
        msg = f"{format_name} images cannot be created"
        raise ImageError(msg)
    memory, siblings, chance = io.BytesIO(), Siblings(), random.Random(1)
    storage = FileObjectStorage(memory, "seed", writable=True)
    backing = (
        BackingReference("base", "raw") if image_format.supports_backing and options.get("compat") == "v2" else None
    )
    parsed = parse_create_options(format_name, options)
    image_format.create(CreateRequest(storage, SIZE, parsed, backing, siblings.create))
    image = image_format.open(OpenRequest(storage, writable=True, open_sibling=siblings.open))
    image.pwrite(chance.randbytes(20_000), 3000)
    image.pwrite(b"text " * 5000, 400_000)
    image.write_zeroes(200_000, 100_000)
    if image_format.supports_compressed and (format_name != "vmdk" or "subformat" in options):
        unit = image.cluster_size_bytes or 512
        image.write_compressed(b"squeeze " * (unit // 2), 600_000 // unit * unit)
    if isinstance(image, Qcow2Image) and options.get("refcount_bits") != "1":
        image.pwrite_vm_state(b"state" * 10_000, 0)
        image.create_snapshot("before", date_ns=1_000_000_002, vm_state_size_bytes=50_000)
        image.pwrite(b"after", 5000)
    image.flush()
    image.close()
    data = memory.getvalue()
    return Seed(f"{format_name} {options}", format_name, data, metadata_places(data))


def all_seeds() -> list[Seed]:
    """Every variant above, and of other hypervisors' formats."""
    seeds = [make_seed(name, options) for name, options in (*VARIANTS, *foreign.VARIANTS)]
    seeds += [Seed(name, kind, data, metadata_places(data)) for name, kind, data in foreign.built()]
    plain = next(seed for seed in seeds if seed.format_name == "vhdx")
    data = foreign.with_log(plain.data)
    return [*seeds, Seed("vhdx with a log", "vhdx", data, metadata_places(data))]
