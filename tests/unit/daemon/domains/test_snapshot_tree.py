"""The tree of a domain's snapshots."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pyhyve.daemon.domains import snapshot_create, snapshots
from pyhyve.daemon.domains.snapshots import SnapshotTree, form_tree, parse_snapshot, parse_tree
from pyhyve.daemon.errors import LibvirtError
from pyhyve.xml.snapshot import DomainSnapshot, SnapshotDisk, SnapshotDisks, SnapshotMemory, SnapshotParent

ROOTS, LEAVES, NO_LEAVES, INACTIVE, ACTIVE, INTERNAL, EXTERNAL = 1, 4, 8, 32, 64, 256, 512


def snapshot(name: str, parent: str | None = None, **changes: Any) -> DomainSnapshot:
    values: dict[str, Any] = {"state": "running", "creation_time": 1, **changes}
    return DomainSnapshot(name=name, parent=SnapshotParent(name=parent) if parent else None, **values)


def family() -> SnapshotTree:
    """a has b and c, b has d."""
    items = [snapshot("a"), snapshot("b", "a", state="shutoff"), snapshot("c", "a"), snapshot("d", "b")]
    return SnapshotTree({item.name or "": item for item in items}, "d")


def domain(tree: SnapshotTree) -> Any:
    return SimpleNamespace(uuid=b"u", registry=SimpleNamespace(snapshots=SimpleNamespace(of=lambda _: tree)))


def test_removed_snapshot_leaves_its_children_to_its_parent() -> None:
    tree = family()
    tree.remove("b")
    assert tree.children("a") == ["c", "d"]
    tree.remove("d")
    assert tree.current == "a"


def test_new_snapshot_grows_from_the_current_one() -> None:
    tree = family()
    tree.add(snapshot("e"), current=True)
    assert snapshots.parent_name(tree.items["e"]) == "d"
    assert tree.current == "e"


def test_descendants_come_after_what_they_grew_from() -> None:
    assert family().descendants("a") == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("flags", "start", "names"),
    [
        (0, None, ["a", "b", "c", "d"]),
        (ROOTS, None, ["a"]),
        (LEAVES, None, ["c", "d"]),
        (NO_LEAVES, None, ["a", "b"]),
        (INACTIVE, None, ["b"]),
        (ACTIVE, None, ["a", "c", "d"]),
        (0, "a", ["b", "c"]),
        (ROOTS, "a", ["b", "c", "d"]),
        (EXTERNAL, None, []),
        (INTERNAL, None, ["a", "b", "c", "d"]),
        (16, None, []),
    ],
)
def test_snapshots_are_listed_by_flags(flags: int, start: str | None, names: list[str]) -> None:
    assert snapshots.listed(domain(family()), flags, start) == names


def test_snapshot_with_a_part_outside_the_images_is_external() -> None:
    assert snapshots.is_external(snapshot("x", memory=SnapshotMemory(snapshot="external", file="/m")))
    assert snapshots.is_external(
        snapshot("x", disks=SnapshotDisks(disk=(SnapshotDisk(name="vda", snapshot="external"),)))
    )
    assert not snapshots.is_external(snapshot("x", disks=SnapshotDisks(disk=(SnapshotDisk(name="a", snapshot="no"),))))


def test_tree_survives_being_kept() -> None:
    tree = family()
    again = parse_tree(form_tree(tree))
    assert again.items == tree.items
    assert again.current == "d"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"current": null, "snapshots": {"a": "<foo/>"}}'])
def test_damaged_tree_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        parse_tree(data)


def test_unknown_snapshot_is_said_to_be_missing() -> None:
    with pytest.raises(LibvirtError, match="no domain snapshot with matching name 'zz'"):
        snapshots.find(domain(family()), "zz")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<foo/>", "expecting root element of 'domainsnapshot', not 'foo'"),
        ("<domainsnapshot><disks><disk/></disks></domainsnapshot>", "name"),
        ("nonsense", "Start tag expected"),
    ],
)
def test_documents_that_are_none_are_refused(text: str, said: str) -> None:
    with pytest.raises(LibvirtError, match=said):
        parse_snapshot(text)


_IDENTITY = "d80cfff7-720c-4e85-b7a3-20de7080694a"
_WITH_CARD = (
    f"<domain type='qemu'><name>d</name><uuid>{_IDENTITY}</uuid><memory unit='KiB'>65536</memory>"
    "<os><type arch='x86_64'>hvm</type></os><devices><interface type='user'><mac address='52:54:00:0a:00:01'/>"
    "<address type='pci' bus='0' slot='3' function='0'/></interface></devices></domain>"
)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("bus='0'", "bus='zz'", "XML error: .*'zz'"),
        ("unit='KiB'", "unit='zz'", "XML error: unknown suffix 'zz'"),
        ("slot='3'", "slot='4'", "PCI address 0000:00:04.0 does not match source 0000:00:03.0"),
    ],
)
def test_snapshot_is_redefined_with_a_document_its_state_fits(before: str, after: str, message: str) -> None:
    def described(text: str) -> str:
        return (
            f"<domainsnapshot><name>a</name><state>running</state><creationTime>1</creationTime>{text}</domainsnapshot>"
        )

    known = parse_snapshot(described(_WITH_CARD))
    held = domain(SnapshotTree({"a": known}, "a"))
    held.uuid_text = _IDENTITY
    with pytest.raises(LibvirtError, match=message):
        asyncio.run(snapshot_create.create(held, described(_WITH_CARD.replace(before, after)), 1))
    assert snapshots.tree_of(held).items == {"a": known}
