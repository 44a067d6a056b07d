from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.domains.definition.parse import parse_domain
from pyhyve.daemon.drivers.qemu import firmware
from pyhyve.daemon.errors import LibvirtError

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.xml.domain import Domain


def describe(path: str, template: str, machine: str = "pc-*", **changes: Any) -> str:
    code = {"filename": path, "format": "raw"}
    mapping = {"device": "flash", "executable": code, "nvram-template": {"filename": template, "format": "raw"}}
    targets = [{"architecture": "x86_64", "machines": [machine]}]
    return json.dumps({"interface-types": ["uefi"], "mapping": mapping, "targets": targets, "features": [], **changes})


def domain(os: str, *, firmware_attribute: str = "", acpi: str = "<acpi/>") -> Domain:
    return parse_domain(
        f"<domain type='qemu'><name>u</name><memory>65536</memory><os{firmware_attribute}>"
        f"<type arch='x86_64' machine='pc-q35-7.2'>hvm</type>{os}</os><features>{acpi}</features></domain>"
    )


AUTO = " firmware='efi'"


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own, shared = tmp_path / "etc", tmp_path / "usr"
    own.mkdir()
    shared.mkdir()
    (tmp_path / "vars").write_bytes(b"variables")
    variables = str(tmp_path / "vars")
    (shared / "10-hidden.json").write_text(describe("/hidden", variables))
    (own / "10-hidden.json").write_text("")
    (shared / "20-bad.json").write_text("{")
    (shared / "30-bios.json").write_text(describe("/bios", variables, **{"interface-types": ["bios"]}))
    (shared / "40-other.json").write_text(describe("/other", variables, "pc-i440fx-*"))
    secure = ["secure-boot", "requires-smm"]
    (shared / "50-secure.json").write_text(describe("/secure", variables, features=secure))
    (shared / "60-plain.json").write_text(describe("/plain", variables))
    monkeypatch.setattr(firmware, "described", lambda: DESCRIBED((own, shared)))
    return tmp_path


DESCRIBED = firmware.described


def test_firmware_is_found_by_machine_and_hidden_by_name(described: Path) -> None:
    assert [item.path for item in firmware.suitable("x86_64", "pc-q35-7.2")] == ["/secure", "/plain"]
    assert firmware.suitable("aarch64", "pc-q35-7.2") == []


def test_machine_gets_firmware_and_variables_of_its_own(described: Path) -> None:
    found = firmware.prepare_firmware(domain("", firmware_attribute=AUTO), "x86_64", described / "nvram")
    assert found.os.firmware is None
    assert found.os.loader is not None
    assert found.os.nvram is not None
    assert found.os.loader.text == "/secure"
    assert dict(found.os.loader.attributes) == {"readonly": "yes", "secure": "yes", "type": "pflash"}
    assert found.features is not None
    assert found.features.smm is not None
    kept = described / "nvram/u_VARS.fd"
    assert found.os.nvram.text == str(kept)
    assert kept.read_bytes() == b"variables"
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(b"changed")
    firmware.prepare_firmware(domain("", firmware_attribute=AUTO), "x86_64", described / "nvram")
    assert kept.read_bytes() == b"changed"


def test_features_choose_the_firmware(described: Path) -> None:
    text = "<firmware><feature enabled='{}' name='{}'/></firmware>"
    plain = domain(text.format("no", "secure-boot"), firmware_attribute=AUTO)
    found = firmware.prepare_firmware(plain, "x86_64", described / "nvram", make=False)
    assert found.os.loader is not None
    assert found.os.loader.text == "/plain"
    assert not (described / "nvram").exists()
    with pytest.raises(LibvirtError, match="Unable to find any firmware to satisfy 'efi'"):
        firmware.prepare_firmware(
            domain(text.format("yes", "nosuch"), firmware_attribute=AUTO), "x86_64", described / "nvram"
        )


def test_own_loader_needs_variables(described: Path) -> None:
    loader = "<loader readonly='yes' type='pflash'>{}</loader>"
    whole = firmware.complete_firmware(domain(loader.format("/plain")), described / "nvram")
    assert whole.os.nvram is not None
    assert whole.os.nvram.text == str(described / "nvram/u_VARS.fd")
    live = firmware.prepare_firmware(whole, "x86_64", described / "nvram")
    assert live.os.nvram is not None
    assert dict(live.os.nvram.attributes) == {"template": str(described / "vars")}
    with pytest.raises(LibvirtError, match="master var store for loader: /own"):
        firmware.prepare_firmware(domain(loader.format("/own")), "x86_64", described / "elsewhere")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {"firmware_attribute": AUTO, "acpi": ""}, "UEFI requires ACPI"),
        ("<loader type='pflash'>/x</loader>", {"acpi": ""}, "UEFI requires ACPI"),
        ("<loader secure='no'/>", {"firmware_attribute": AUTO}, "loader attribute 'secure' cannot be specified"),
    ],
)
def test_firmware_that_cannot_be_is_refused(tmp_path: Path, text: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(LibvirtError, match=message):
        firmware.complete_firmware(domain(text, **options), tmp_path)


def test_machine_without_flash_is_left_alone(tmp_path: Path) -> None:
    plain = domain("<loader type='rom'>/bios</loader>")
    assert firmware.complete_firmware(plain, tmp_path) is plain
    assert firmware.prepare_firmware(plain, "x86_64", tmp_path) is plain
    assert firmware.nvram_of(plain, tmp_path) is None
