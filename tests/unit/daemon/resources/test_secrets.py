from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.daemon import Daemon
from pyhyve.daemon.drivers.test.driver import TestDriver
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.paths import Paths
from pyhyve.daemon.resources.secrets import SecretRegistry, parse_secret, secret_document
from pyhyve.daemon.resources.wiring import add

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

UUID_TEXT = "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"
XML = f"""<secret ephemeral='no' private='no'>
  <uuid>{UUID_TEXT}</uuid>
  <description>d</description>
  <usage type='volume'>
    <volume>/x</volume>
  </usage>
</secret>
"""


def run(root: Path, work: Callable[[SecretRegistry], Awaitable[None]]) -> None:
    async def whole() -> None:
        daemon = Daemon(Paths.below(root, "system"))
        driver = TestDriver(daemon)
        daemon.add_driver(driver)
        add(daemon, driver, "test")
        await daemon.start()
        try:
            secrets = driver.offers(SecretRegistry)
            assert secrets is not None
            await work(secrets)
        finally:
            await daemon.stop()

    asyncio.run(whole())


def test_document_survives() -> None:
    assert secret_document(parse_secret(XML)) == XML


def test_secret_and_its_value_survive_the_daemon(tmp_path: Path) -> None:
    async def first(secrets: SecretRegistry) -> None:
        secret = await secrets.define(parse_secret(XML))
        await secrets.set_value(secret, b"\0hush")
        await secrets.define(parse_secret("<secret ephemeral='yes'><usage type='ceph'><name>c</name></usage></secret>"))

    async def second(secrets: SecretRegistry) -> None:
        (secret,) = secrets
        assert secrets.value(secret) == b"\0hush"
        # defining it again keeps the value
        assert secrets.value(await secrets.define(parse_secret(XML))) == b"\0hush"
        await secrets.undefine(secret)
        assert not list(secrets)

    run(tmp_path, first)
    run(tmp_path, second)


def test_file_of_a_secret_is_the_daemons_alone(tmp_path: Path) -> None:
    async def work(secrets: SecretRegistry) -> None:
        await secrets.define(parse_secret(XML))
        assert secrets.stored.path(UUID_TEXT).stat().st_mode & 0o077 == 0

    run(tmp_path, work)


def test_private_value_is_not_told(tmp_path: Path) -> None:
    async def work(secrets: SecretRegistry) -> None:
        secret = await secrets.define(parse_secret("<secret private='yes'/>"))
        await secrets.set_value(secret, b"x")
        with pytest.raises(LibvirtError, match="secret is private"):
            secrets.value(secrets.with_uuid(secret.uuid))

    run(tmp_path, work)


def test_purpose_has_one_secret(tmp_path: Path) -> None:
    async def work(secrets: SecretRegistry) -> None:
        await secrets.define(parse_secret(XML))
        with pytest.raises(LibvirtError, match="already defined for use with /x"):
            await secrets.define(parse_secret(XML.replace(UUID_TEXT, UUID_TEXT.replace("0a", "0b", 1))))
        with pytest.raises(LibvirtError, match="is already defined for use with /x"):
            await secrets.define(parse_secret(XML.replace("/x", "/y")))

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("xml", "problem"),
    [
        ("<foo/>", "unexpected root element <foo>, expecting <secret>"),
        ("<secret><usage type='foo'/></secret>", "unknown secret usage type foo"),
        ("<secret><usage/></secret>", "unknown secret usage type"),
        ("<secret><usage type='volume'/></secret>", "volume usage specified, but volume path is missing"),
        ("<secret private='maybe'/>", "Invalid value for attribute 'private' in element 'secret': 'maybe'"),
        ("<secret><uuid>x</uuid></secret>", "malformed uuid element"),
    ],
)
def test_document_wrong_is_explained(xml: str, problem: str) -> None:
    with pytest.raises(LibvirtError, match=problem):
        parse_secret(xml)
