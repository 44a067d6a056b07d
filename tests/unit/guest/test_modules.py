from __future__ import annotations

import lzma
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyhyve.guest.deb import PackageError
from pyhyve.guest.modules import ModuleTree, alias_index, dependency_index, modinfo, parse
from pyhyve.support.errors import InputError


def module(**fields: str | list[str]) -> bytes:
    """An ELF-64 file with a .modinfo section."""
    values = {key: [value] if isinstance(value, str) else value for key, value in fields.items()}
    info = b"".join(f"{key}={value}".encode() + b"\0" for key, many in values.items() for value in many)
    names = b"\0.modinfo\0.shstrtab\0"
    info_offset = 64
    names_offset = info_offset + len(info)
    table = names_offset + len(names)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)

    def section(name: int, kind: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)

    sections = bytes(64) + section(1, 1, info_offset, len(info)) + section(10, 3, names_offset, len(names))
    return header + info + names + sections


FILES = {
    "kernel/drivers/virtio/virtio_pci.ko": module(
        # Listed so that the first one needs the second: the order on the page is not the order to load in.
        depends="virtio_ring,virtio,virtio_pci_modern_dev",
        alias="pci:v00001AF4d*sv*sd*bc*sc*i*",
    ),
    "kernel/drivers/virtio/virtio.ko": module(depends="virtio_ring"),
    "kernel/drivers/virtio/virtio_ring.ko": module(depends=""),
    "kernel/drivers/virtio/virtio_pci_modern_dev.ko": module(depends=""),
    "kernel/fs/ext4/ext4.ko.xz": lzma.compress(
        module(depends="jbd2", softdep="pre: crc32c", alias=["fs-ext4", "ext3"])
    ),
    "kernel/fs/jbd2/jbd2.ko.xz": lzma.compress(module(depends="")),
    "kernel/crypto/crc32c.ko": module(depends=""),
    "kernel/char/virtio-rng.ko": module(depends="rng-core"),
}


def tree() -> ModuleTree:
    return ModuleTree(FILES, ["kernel/drivers/char/hw_random/rng-core.ko"])


def test_modinfo_reads_every_pair() -> None:
    assert modinfo(module(license="GPL", alias=["a", "b=c"])) == [("license", "GPL"), ("alias", "a"), ("alias", "b=c")]


def test_parse_decompresses() -> None:
    ext4 = parse("kernel/fs/ext4/ext4.ko.xz", FILES["kernel/fs/ext4/ext4.ko.xz"])
    assert (ext4.path, ext4.depends, ext4.softdeps) == ("kernel/fs/ext4/ext4.ko", ("jbd2",), ("crc32c",))


def test_closure_puts_what_is_needed_first() -> None:
    names = [found.name for found in tree().closure(["virtio_pci", "ext4"], required=True)]
    assert names.index("virtio_ring") < names.index("virtio") < names.index("virtio_pci")
    assert names.index("jbd2") < names.index("ext4")
    assert "crc32c" in names


def test_closure_accepts_what_the_kernel_has_built_in() -> None:
    assert [found.name for found in tree().closure(["virtio-rng", "rng_core"], required=True)] == ["virtio_rng"]


def test_closure_refuses_an_unknown_module_only_when_required() -> None:
    assert tree().closure(["nonsense"], required=False) == []
    with pytest.raises(InputError, match="module nonsense"):
        tree().closure(["nonsense"], required=True)


def test_closure_ends_on_modules_that_need_each_other() -> None:
    loop = ModuleTree({"a.ko": module(depends="b"), "b.ko": module(depends="a")}, [])
    assert {found.name for found in loop.closure(["a"], required=True)} == {"a", "b"}


def test_dependency_index_is_in_modprobes_order() -> None:
    lines = dependency_index(tree().closure(["virtio_pci"], required=True)).splitlines()
    (line,) = [line for line in lines if line.startswith("kernel/drivers/virtio/virtio_pci.ko:")]
    # modprobe inserts from last to first: virtio_ring must come after virtio, which needs it.
    needs = [path.rpartition("/")[2] for path in line.split()[1:]]
    assert sorted(needs) == ["virtio.ko", "virtio_pci_modern_dev.ko", "virtio_ring.ko"]
    assert needs.index("virtio.ko") < needs.index("virtio_ring.ko")


def test_alias_index_names_the_driver() -> None:
    index = alias_index(tree().closure(["ext4"], required=True))
    assert "alias fs-ext4 ext4\n" in index
    assert "alias ext3 ext4\n" in index


@given(data=st.binary(max_size=300))
@example(data=bytes(34) + b"\xff" * 40)  # sections further away than any file
def test_modinfo_refuses_garbage(data: bytes) -> None:
    with pytest.raises(PackageError):
        modinfo(b"\x7fELF\x02\x01" + data)


@given(cut=st.integers(min_value=0, max_value=600))
def test_modinfo_refuses_a_truncated_module(cut: int) -> None:
    whole = module(license="GPL", depends="a,b")
    if cut < len(whole):
        with pytest.raises(PackageError):
            modinfo(whole[:cut])
