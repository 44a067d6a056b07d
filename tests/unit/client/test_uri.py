from __future__ import annotations

from pathlib import Path

import pytest

from pyhyve.client.errors import LibvirtError
from pyhyve.client.uri import Target, Tls, parse_uri
from pyhyve.rpc.errors import ErrorCode


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("qemu:///system?socket=/s", Target("qemu:///system", (Path("/s"),))),
        ("test+unix:///default?socket=/s", Target("test:///default", (Path("/s"),))),
        (
            "qemu:///system",
            Target("qemu:///system", (Path("/run/libvirt/virtqemud-sock"), Path("/run/libvirt/libvirt-sock"))),
        ),
        (
            "qemu:///session",
            Target("qemu:///session", (Path("/r/libvirt/virtqemud-sock"), Path("/r/libvirt/libvirt-sock"))),
        ),
        ("qemu+tcp://h/system", Target("qemu:///system", address=("h", 16509))),
        ("qemu+tcp://[::1]:99/system?name=test:///default", Target("test:///default", address=("::1", 99))),
        ("qemu://h/system", Target("qemu:///system", address=("h", 16514), tls=Tls())),
        (
            "qemu+tls://u@h:5/system?pkipath=/p&no_verify=1",
            Target("qemu:///system", address=("h", 5), tls=Tls(Path("/p"), verify=False), user="u"),
        ),
        ("esx+unix:///x?no_verify=1&keep=a%20b&socket=/s", Target("esx:///x?keep=a%20b", (Path("/s"),))),
    ],
)
def test_uri_leads_to_its_target(uri: str, target: Target) -> None:
    assert parse_uri(uri, environment={"XDG_RUNTIME_DIR": "/r"}) == target


def test_read_only_has_sockets_of_its_own() -> None:
    assert parse_uri("qemu:///system", read_only=True).sockets[1] == Path("/run/libvirt/libvirt-sock-ro")


@pytest.mark.parametrize("uri", ["", "/system", "qemu+unix://host/system", "qemu+libssh2://h/system", "qemu://h:x/y"])
def test_uri_that_leads_nowhere_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(LibvirtError) as caught:
        parse_uri(uri)
    assert caught.value.code == ErrorCode.INVALID_ARG
    assert "\n" not in str(caught.value)


def test_ssh_uri_leads_to_a_program() -> None:
    target = parse_uri("qemu+ssh://me@h:22/system?keyfile=/k&socket=/run/a b/sock")
    assert target.name == "qemu:///system"
    assert target.command[:3] == ("ssh", "-T", "-e")
    assert target.command[4:10] == ("-p", "22", "-l", "me", "-i", "/k")
    assert target.command[-3:-1] == ("--", "h")
    # quoted once for sh -c and once for the shell that ssh runs it with
    assert target.command[-1] == "sh -c 'nc -U '\"'\"'/run/a b/sock'\"'\"''"
