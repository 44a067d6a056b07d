from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.access import Identity, denied_to_readers, extra_permissions, object_of
from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.parts import build
from pyhyve.daemon.paths import Paths
from pyhyve.daemon.policy import parse_policy, read_policy
from pyhyve.rpc.procedures import BY_NAME
from pyhyve.rpc.values import Domain, DomainSnapshot, Network, Secret
from pyhyve.support.errors import InputError
from tests.unit.daemon.conversation import Conversation

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """
[[rule]]
who = ["user:root", "sasl:admin*"]
allow = ["*"]

[[rule]]
who = ["group:operators"]
deny = ["domain:delete"]

[[rule]]
who = ["group:operators", "certificate:CN=op*"]
objects = ["web-*", "01010101-0101-0101-0101-010101010101"]
allow = ["domain:*"]

[[rule]]
who = ["*"]
allow = ["connect:getattr", "connect:search_domains"]
"""
ROOT = Identity("unix", uid=0, user="root")
OPERATOR = Identity("unix", uid=1000, user="olga", groups=("operators",))
STRANGER = Identity("tls", certificate="CN=x")
ONE, TWO = bytes([1] * 16), bytes([2] * 16)


@pytest.mark.parametrize(
    ("identity", "permission", "name", "uuid", "allowed"),
    [
        (ROOT, "domain:delete", "db", TWO, True),
        (Identity("tcp", sasl="admin2"), "node_device:detach", "", b"", True),
        (OPERATOR, "domain:start", "web-1", TWO, True),
        (OPERATOR, "domain:start", "db", TWO, False),
        (OPERATOR, "domain:start", "db", ONE, True),
        (OPERATOR, "domain:start", "", b"", True),
        (OPERATOR, "domain:delete", "web-1", TWO, False),
        (OPERATOR, "domain:delete", "", b"", False),
        (OPERATOR, "connect:write", "", b"", False),
        (OPERATOR, "connect:getattr", "", b"", True),
        (Identity("tls", certificate="CN=op,O=x"), "domain:delete", "web-9", TWO, True),
        (STRANGER, "domain:getattr", "web-1", TWO, False),
        (STRANGER, "connect:getattr", "", b"", True),
    ],
)
def test_first_rule_that_fits_decides(
    identity: Identity, permission: str, name: str, uuid: bytes, allowed: bool
) -> None:
    policy = parse_policy(POLICY, "policy")
    assert policy.by_object
    assert policy.allows(identity, permission, name, uuid) is allowed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1", "only .*rule"),
        ("[[rule]]\nwho = 1\nallow = ['*']", "who is a list"),
        ("[[rule]]\nwho = ['alice']\nallow = ['*']", "'alice' is not"),
        ("[[rule]]\nwho = ['*']\nallow = ['start']", "object:permission"),
        ("[[rule]]\nwho = ['*']", "allow or deny"),
        ("[[rule]]\nwho = ['*']\nallow = ['*']\nwhat = 1", "a rule has"),
        ("rule = [1]", "rule 1: a rule has"),
        ("[[rule", "policy: "),
    ],
)
def test_policy_that_makes_no_sense_is_refused_by_place(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_policy(text, "policy")


def test_no_file_is_no_policy(tmp_path: Path) -> None:
    assert read_policy(tmp_path / "policy.toml") is None


def record(name: str, *values: Any) -> Any:
    return BY_NAME[name].args_codec.record._make(values)


DOM = Domain("d", ONE, 1)


@pytest.mark.parametrize(
    ("name", "values", "denied"),
    [
        ("DOMAIN_GET_XML_DESC", (DOM, 0), None),
        ("DOMAIN_GET_XML_DESC", (DOM, 1), "f with secure flag"),
        ("DOMAIN_GET_VCPUS_FLAGS", (DOM, 2), None),
        ("DOMAIN_GET_VCPUS_FLAGS", (DOM, 8), "read only access prevents f"),
        ("DOMAIN_INTERFACE_ADDRESSES", (DOM, 0, 0), None),
        ("DOMAIN_INTERFACE_ADDRESSES", (DOM, 1, 0), "read only access prevents f"),
        ("DOMAIN_SET_SCHEDULER_PARAMETERS", (DOM, []), "read only access prevents f"),
        ("DOMAIN_GET_HOSTNAME", (DOM, 0), "read only access prevents f"),
        ("DOMAIN_CREATE", (DOM,), "read only access prevents f"),
        ("DOMAIN_GET_INFO", (DOM,), None),
    ],
)
def test_readers_may_do_what_libvirts_may(name: str, values: tuple[Any, ...], denied: str | None) -> None:
    assert denied_to_readers(BY_NAME[name], record(name, *values), "f") == denied


@pytest.mark.parametrize(
    ("name", "values", "extra"),
    [
        ("DOMAIN_GET_XML_DESC", (DOM, 1), ("domain:read_secure",)),
        ("DOMAIN_GET_XML_DESC", (DOM, 2), ()),
        ("DOMAIN_ATTACH_DEVICE_FLAGS", (DOM, "", 1), ()),
        ("DOMAIN_ATTACH_DEVICE_FLAGS", (DOM, "", 2), ("domain:save",)),
        ("DOMAIN_ATTACH_DEVICE_FLAGS", (DOM, "", 0), ("domain:save",)),
        ("DOMAIN_ATTACH_DEVICE", (DOM, ""), ()),
        ("DOMAIN_GET_VCPUS_FLAGS", (DOM, 8), ("domain:write",)),
        ("DOMAIN_SUSPEND", (DOM,), ()),
    ],
)
def test_flags_ask_for_more(name: str, values: tuple[Any, ...], extra: tuple[str, ...]) -> None:
    assert extra_permissions(BY_NAME[name], record(name, *values)) == extra


def test_objects_are_recognized() -> None:
    assert object_of(DOM) == ("domain", "d", ONE)
    assert object_of(DomainSnapshot("s", DOM)) == ("domain", "d", ONE)
    assert object_of(Network("n", TWO)) == ("network", "n", TWO)
    assert object_of(Secret(TWO, 0, "u")) == ("secret", "", TWO)
    assert object_of(("d", ONE, 1)) is None


def test_daemon_keeps_to_its_policy_by_object_and_reads_it_again(
    tmp_path: Path, handlers: dict[tuple[int, int], Any]
) -> None:
    paths = Paths.below(tmp_path, "system")
    paths.configuration.mkdir(parents=True)
    policy = paths.configuration / "policy.toml"
    policy.write_text(POLICY)
    web, database = Domain("web-1", TWO, 1), Domain("db", bytes([3] * 16), 2)

    def register(name: str, handler: Any) -> None:
        handlers.pop((int(BY_NAME[name].program), BY_NAME[name].number), None)
        procedure(name)(handler)

    async def work() -> None:
        daemon = build(paths)
        daemon.add_names("domain", lambda driver, uuid: {web.uuid: web.name, database.uuid: database.name}.get(uuid))
        await daemon.start()
        register("CONNECT_LIST_ALL_DOMAINS", lambda call, args: ([web, database], 2))
        register("DOMAIN_LOOKUP_BY_NAME", lambda call, args: {"web-1": web, "db": database}[args.name])
        register("DOMAIN_CREATE", lambda call, args: None)
        client = Conversation(daemon, identity=OPERATOR)
        client.call("CONNECT_OPEN", "test:///default", 0)
        assert client.call("CONNECT_LIST_ALL_DOMAINS", 1, 0) == ([web], 1)
        assert client.call("DOMAIN_LOOKUP_BY_NAME", "web-1").dom == web
        refused = client.call("DOMAIN_LOOKUP_BY_NAME", "db")
        assert refused.message == "access denied: 'domain' denied 'getattr' access"
        assert client.call("DOMAIN_CREATE", web) == ()
        assert client.call("DOMAIN_CREATE", database).code == 88
        forged = database._replace(name="web-1")
        assert client.call("DOMAIN_CREATE", forged).code == 88
        assert "'connect' denied 'read'" in client.call("NODE_GET_INFO").message
        policy.write_text("[[rule]]\nwho = ['*']\nallow = ['*']\n")
        daemon.reload()
        assert client.call("DOMAIN_CREATE", database) == ()
        policy.write_text("nonsense")
        daemon.reload()
        assert client.call("DOMAIN_CREATE", database) == ()
        await daemon.stop()

    asyncio.run(work())
