"""Names of disks, sets of CPUs, key codes, chains of images."""

from __future__ import annotations

import pytest

from pyhyve.daemon.domains.definition.chains import ChainImage, chain_of, find_in_chain, with_chain
from pyhyve.daemon.domains.definition.characters import complete_channel
from pyhyve.daemon.domains.definition.cpusets import cpuset_from_map, cpuset_to_map, format_cpuset, parse_cpuset
from pyhyve.daemon.domains.definition.names import disk_index, disk_name, disk_prefix
from pyhyve.daemon.domains.keycodes import to_qnum
from pyhyve.daemon.errors import LibvirtError
from pyhyve.xml.character import Channel, CharSource, CharTarget
from pyhyve.xml.disk import Disk, DiskDriver, DiskSource, DiskTarget


@pytest.mark.parametrize(("name", "index"), [("vda", 0), ("sdz", 25), ("hdaa", 26), ("xvdzz", 701), ("vdaaa", 702)])
def test_disk_names_count_like_columns_of_a_sheet(name: str, index: int) -> None:
    assert disk_index(name) == index
    assert disk_name(index, disk_prefix(name)) == name


@pytest.mark.parametrize("name", ["", "vd", "zzz", "vdA", "vda ", "vd1"])
def test_other_names_are_none(name: str) -> None:
    assert disk_index(name) == -1


@pytest.mark.parametrize(
    ("written", "read", "normal"),
    [("0-3,^2", {0, 1, 3}, "0-1,3"), ("5", {5}, "5"), ("1, 0 ,2", {0, 1, 2}, "0-2"), ("0,2,4", {0, 2, 4}, "0,2,4")],
)
def test_cpu_sets_are_read_and_written(written: str, read: set[int], normal: str) -> None:
    assert parse_cpuset(written) == read
    assert format_cpuset(read) == normal
    assert cpuset_from_map(cpuset_to_map(read, 2)) == read


@pytest.mark.parametrize("written", ["", "a", "1-", "^1", "1,,2", "99999", "0-99999999999"])
def test_what_is_no_cpu_set_is_refused(written: str) -> None:
    with pytest.raises(LibvirtError):
        parse_cpuset(written)


def test_map_leaves_out_what_does_not_fit() -> None:
    assert cpuset_to_map({0, 9}, 1) == b"\x01"


@pytest.mark.parametrize(
    ("codeset", "code", "number"),
    [(0, 30, 30), (0, 103, 0xC8), (0, 111, 0xD3), (1, 0x1E, 0x1E), (7, 4, 30), (7, 76, 0xD3), (9, 0xDB, 0xDB)],
)
def test_keys_become_qemus_numbers(codeset: int, code: int, number: int) -> None:
    assert to_qnum(codeset, code) == number


@pytest.mark.parametrize(("codeset", "code"), [(0, 0), (0, 500), (1, 0), (3, 30), (7, 1000)])
def test_keys_without_a_number_have_none(codeset: int, code: int) -> None:
    assert to_qnum(codeset, code) is None


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/run/pyhyve/qemu/3-a b/org.x", False),
        ("/home/u/d/run/qemu/-1-a/org.x", False),
        ("/var/lib/libvirt/qemu/channel/target/domain-7-old/org.x", False),
        ("/var/lib/libvirt/qemu/channel/target/old.org.x", False),
        ("/var/lib/libvirt/qemu/channel/target/org.x", False),
        ("/var/lib/libvirt/qemu/channel/target/domain-7-old/another", True),
        ("/var/lib/libvirt/qemu/org.x", True),
        ("/srv/qemu/mine/org.x", True),
        ("/run/pyhyve/qemu/0123456789abcdef/org.x", False),
        ("/srv/org.x", True),
    ],
)
def test_socket_that_was_chosen_at_a_start_is_chosen_again_at_the_next(path: str, kept: bool) -> None:
    given = Channel(
        type="unix", source=CharSource(mode="bind", path=path), target=CharTarget(type="virtio", name="org.x")
    )
    assert (complete_channel(given, ()).source is not None) is kept


def image(number: int, path: str, form: str = "qcow2") -> ChainImage:
    return ChainImage("file", DiskSource(file=path, index=number), form)


def test_chain_survives_being_put_into_a_disk() -> None:
    disk = Disk(type="file", driver=DiskDriver(name="qemu", type="raw"), target=DiskTarget(dev="vda", bus="virtio"))
    chain = [image(3, "/top"), image(2, "/middle"), image(1, "/base", "raw")]
    assert chain_of(with_chain(disk, chain)) == chain


def test_images_are_found_by_path_and_by_number() -> None:
    chain = [image(3, "/top"), image(2, "/middle")]
    assert find_in_chain(chain, "vda", "/middle") == 1
    assert find_in_chain(chain, "vda", "vda[3]") == 0
    assert find_in_chain(chain, "vda", "vda[9]") is None
    assert find_in_chain(chain, "vda", "vda[x]") is None
    assert find_in_chain(chain, "vda", "/other") is None
