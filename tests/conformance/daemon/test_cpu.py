"""Comparing CPUs and what they have in common, against libvirtd with the same documents."""

from __future__ import annotations

import json
import random
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.cpu.compare import Comparison, baseline, compare
from pyhyve.daemon.cpu.definition import parse_cpu
from pyhyve.daemon.cpu.host import host_cpu
from pyhyve.daemon.cpu.model import feature_places, models
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.host.describe import host_node
from pyhyve.daemon.host.linux import LinuxHost
from pyhyve.xml.document import format_node

if TYPE_CHECKING:
    from pathlib import Path

PEER = """
import json, sys, libvirt
libvirt.registerErrorHandler(lambda *a: None, None)
c = libvirt.open(sys.argv[1])
compared, common = json.load(sys.stdin)
def ask(function, *words):
    try:
        return function(*words)
    except libvirt.libvirtError as error:
        return [error.get_error_code(), str(error)]
json.dump({
    "capabilities": c.getCapabilities(),
    "models": c.getCPUModelNames("x86_64"),
    "compared": [ask(c.compareCPU, document, 1) for document in compared],
    "quietly": [ask(c.compareCPU, document, 0) for document in compared],
    "baseline": [ask(c.baselineCPU, documents, flags) for documents, flags in common],
}, sys.stdout)
"""


def some_cpu(rng: random.Random, *, guest: bool) -> str:
    model = rng.choice(list(models.values()))
    host = sorted(host_cpu().features)
    pool = host if rng.random() < 0.7 else list(feature_places)
    names = rng.sample(pool, rng.choice((0, 0, 1, 3, 8)))
    features = ""
    for name in names:
        policy = rng.choice(("require", "require", "optional", "disable", "forbid", "force")) if guest else ""
        features += f"<feature name='{name}'" + (f" policy='{policy}'" if guest else "") + "/>"
    vendor = f"<vendor>{model.vendor}</vendor>" if model.vendor and rng.random() < 0.4 else ""
    match = f" match='{rng.choice(('minimum', 'exact', 'strict'))}'" if guest else ""
    arch = "" if guest else "<arch>x86_64</arch>"
    return f"<cpu{match}>{arch}<model>{model.name}</model>{vendor}{features}</cpu>"


WRONG = [
    "<cpu><arch>x86_64</arch><model>nosuch</model></cpu>",
    "<cpu><arch>x86_64</arch><model>Haswell</model><vendor>nobody</vendor></cpu>",
    "<cpu><arch>x86_64</arch><model>Haswell</model><feature name='nosuch'/></cpu>",
    "<cpu><arch>x86_64</arch><model>Haswell</model><feature name='aes'/><feature name='aes'/></cpu>",
    "<cpu match='exact'><model>Haswell</model><feature policy='maybe' name='aes'/></cpu>",
    "<cpu match='almost'><model>Haswell</model></cpu>",
    "<cpu><arch>aarch64</arch><model>cortex-a57</model></cpu>",
    "<cpu mode='host-passthrough'/>",
    "<gpu/>",
    "<cpu",
]


@pytest.fixture(scope="module")
def asked(theirs: Path) -> tuple[list[str], list[tuple[list[str], int]], dict[str, Any]]:
    rng = random.Random(7)
    compared = [some_cpu(rng, guest=rng.random() < 0.6) for _ in range(400)] + WRONG
    common = [
        ([some_cpu(rng, guest=False) for _ in range(rng.choice((1, 2, 2, 3)))], rng.choice((0, 0, 1, 2, 3)))
        for _ in range(200)
    ]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", PEER, f"qemu:///system?socket={theirs}"],
        input=json.dumps([compared, common]),
        capture_output=True,
        text=True,
        check=False,
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("no libvirt module (Debian package python3-libvirt)")
    assert done.returncode == 0, done.stderr
    return compared, common, json.loads(done.stdout)


def ours(document: str) -> Any:
    try:
        described = parse_cpu(document)
        if described.mode == "host-passthrough":
            return int(Comparison.SUPERSET)
        result = compare(host_cpu().features, host_cpu().vendor, described)
        if isinstance(result, LibvirtError):
            raise result
        return int(result)
    except LibvirtError as error:
        return [int(error.code), str(error)]


def test_comparisons_are_libvirts(asked: tuple[list[str], Any, dict[str, Any]]) -> None:
    compared, _, theirs = asked
    differences = []
    for document, real in zip(compared, theirs["compared"], strict=True):
        mine = ours(document)
        if document == "<cpu":  # the parser's own words
            assert mine[0] == real[0]
        elif mine != real:
            differences.append((document, mine, real))
    assert differences == []
    assert {str(type(real)) for real in theirs["compared"]} == {"<class 'int'>", "<class 'list'>"}


def test_what_cpus_have_in_common_is_libvirts(asked: tuple[Any, list[tuple[list[str], int]], dict[str, Any]]) -> None:
    _, common, theirs = asked
    differences = []
    for (documents, flags), real in zip(common, theirs["baseline"], strict=True):
        try:
            mine: Any = baseline(
                [parse_cpu(document) for document in documents], expand=bool(flags & 1), only_migratable=bool(flags & 2)
            )
        except LibvirtError as error:
            mine = [int(error.code), str(error)]
        if mine != real:
            differences.append((documents, flags, mine, real))
    assert differences == []


def test_models_are_libvirts(asked: tuple[Any, Any, dict[str, Any]]) -> None:
    assert list(models) == asked[2]["models"]


def test_host_is_described_as_by_libvirt(asked: tuple[Any, Any, dict[str, Any]]) -> None:
    def parts(text: str) -> list[str]:
        host = text[text.index("<host>") : text.index("</host>")]
        for left_out in (
            r"<uuid>.*?</uuid>",
            r"<migration_features>.*</migration_features>",
            r"<secmodel>.*</secmodel>",
        ):
            host = re.sub(left_out, "", host, flags=re.DOTALL)
        return [line.strip() for line in host.splitlines() if line.strip()]

    assert parts(format_node(host_node(LinuxHost()))) == parts(asked[2]["capabilities"])
