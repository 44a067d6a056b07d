from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.domains.migration.cookie import Cookie, form_cookie, parse_cookie
from pyhyve.daemon.domains.migration.safety import file_system_of
from pyhyve.daemon.domains.migration.transport import Place, parse_place
from pyhyve.daemon.domains.migration.wish import onward, wish_from_params
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from pathlib import Path

UUID = "a0a0a0a0-1111-4222-8333-444444444444"


def text(field: str, value: str) -> TypedParam:
    return TypedParam(field, ParamType.STRING, value)


def test_cookie_says_the_same_after_its_way() -> None:
    cookie = Cookie(
        "m", UUID, "host", UUID, "<domain>\n  <name>m</name>\n</domain>\n", {"downtime": 7}, 49153, {"vda": 1}
    )
    data = form_cookie(cookie)
    assert data.endswith(b"</qemu-migration>\n\0")
    assert parse_cookie(data) == cookie
    assert parse_cookie(b"") is None


def test_cookie_of_libvirtd_is_read_and_what_is_not_known_left_out() -> None:
    data = f"""<qemu-migration><name>m</name><uuid>{UUID}</uuid><hostname>h</hostname><hostuuid>{UUID}</hostuuid>
    <feature name='x'/><statistics><started>1</started><downtime>44</downtime></statistics></qemu-migration>\0"""
    cookie = parse_cookie(data.encode())
    assert cookie is not None
    assert cookie.statistics == {"downtime": 44}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<qemu-migration/>", "not NULL terminated"),
        (b"<qemu-migration/>\0", "missing name element"),
        (b"<qemu\0", "cannot read the migration cookie"),
        (b"\xff\xfe\0", "cannot read the migration cookie"),
    ],
)
def test_damaged_cookie_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(LibvirtError, match=message):
        parse_cookie(data)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("tcp://host", Place("tcp", "host")),
        ("tcp:host:49152", Place("tcp", "host", 49152)),
        ("tcp://[::1]:5", Place("tcp", "::1", 5)),
        ("unix:///run/x", Place("unix", path="/run/x")),
    ],
)
def test_migration_uri_leads_to_a_place(uri: str, place: Place) -> None:
    assert parse_place(uri) == place


@pytest.mark.parametrize("uri", ["foo://x", "tcp://", "unix://", "host", "tcp://h:99999", "rdma://h"])
def test_migration_uri_that_leads_nowhere_is_refused(uri: str) -> None:
    with pytest.raises(LibvirtError):
        parse_place(uri)


def test_wish_is_what_flags_and_parameters_say() -> None:
    params = [
        text("migrate_uri", "tcp://h"),
        text("destination_name", "n"),
        text("migrate_disks", "vda"),
        text("migrate_disks", "vdb"),
        text("compression", "xbzrle"),
        TypedParam("bandwidth", ParamType.ULLONG, 10),
        TypedParam("compression.xbzrle.cache", ParamType.ULLONG, 4096),
    ]
    wish = wish_from_params(params, 1 | 1 << 11)
    assert (wish.uri, wish.name, wish.disks, wish.bandwidth_mib) == ("tcp://h", "n", ("vda", "vdb"), 10)
    assert wish.numbers == (("xbzrle-cache-size", 4096),)
    assert wish.xbzrle
    assert not wish.multi_threaded


@pytest.mark.parametrize(
    ("params", "flags", "message"),
    [
        ([text("nonsense", "x")], 0, "parameter 'nonsense' not supported"),
        ([], 1 << 6 | 1 << 7, "mutually exclusive"),
        ([], 1 << 10, "persistent flag"),
        ([], 1 << 2 | 1 << 15, "post-copy is not supported with tunnelled"),
        ([text("compression", "zip")], 1 << 11, "Unsupported compression method 'zip'"),
        ([TypedParam("parallel.connections", ParamType.INT, 2)], 0, "Turn parallel migration on"),
        ([TypedParam("bandwidth", ParamType.ULLONG, 1 << 44)], 0, "bandwidth must be less than"),
    ],
)
def test_wish_that_cannot_be_is_refused(params: list[TypedParam], flags: int, message: str) -> None:
    with pytest.raises(LibvirtError, match=message):
        wish_from_params(params, flags)


def test_parameters_of_the_next_step_replace_those_of_this() -> None:
    params = onward([text("migrate_uri", "old"), text("x", "y")], migrate_uri="new", destination_xml=None)
    assert params == [text("x", "y"), text("migrate_uri", "new")]


def test_file_system_is_that_of_the_longest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:1 / /srv rw shared:1 - nfs4 host:/x rw\n"
        "3 2 0:2 / /srv/with\\040space rw - ocfs2 /dev/sdb rw\n"
    )
    assert file_system_of("/srv/a.img", mounts) == "nfs4"
    assert file_system_of("/srv/with space/a.img", mounts) == "ocfs2"
    assert file_system_of("/srvother/a.img", mounts) == "ext4"
