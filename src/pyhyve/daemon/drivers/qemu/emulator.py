"""Asking an emulator what it is and has: once, until its file changes."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pyhyve.daemon.domains.emulators import Emulator, MachineType
from pyhyve.daemon.domains.faults import internal, system_error
from pyhyve.support.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EmulatorCatalog"]

_log = logging.getLogger(__name__)
PROBE_TIMEOUT_S: Final = 30.0
_SETS: Final = ("devices", "commands", "cpu_models", "options", "objects", "cpu_features", "unusable_cpus")
"""Fields of an emulator that are sets, which JSON has not."""
FORMAT: Final = 5
"""Version of what is written in the cache."""
_OPTION: Final = re.compile(r"^-([a-zA-Z][\w-]*)", re.MULTILINE)
_DEVICE: Final = re.compile(r'^name "([^"]+)"(?:.*alias "([^"]+)")?', re.MULTILINE)
_INTERESTING: Final = (
    "virtio-blk-pci",
    "virtio-net-pci",
    "virtio-balloon-pci",
    "virtio-rng-pci",
    "virtio-serial-pci",
    "virtserialport",
    "virtconsole",
    "isa-serial",
    "vhost-vsock-pci",
)


class EmulatorCatalog:
    """Every emulator found so far; keeps what it learned in a directory."""

    def __init__(self, cache: Path, search_path: str | None = None) -> None:
        self._cache = cache / "emulators"
        self._search = (search_path or os.environ.get("PATH") or os.defpath).split(os.pathsep)
        self._known: dict[str, Emulator] = {}

    def default_path(self, architecture: str, virt_type: str) -> str | None:
        """Return the emulator used for an architecture where a definition names none: QEMU's, or ours."""
        del virt_type
        for name in (f"qemu-system-{architecture}", f"pyhyve-system-{architecture}"):
            for directory in ("/usr/bin", *self._search):
                path = Path(directory, name)
                if path.is_file() and os.access(path, os.X_OK):
                    return str(path)
        return None

    def found(self) -> Iterator[str]:
        """Yield the path of every emulator on the search path, QEMU's first."""
        seen = set()
        for prefix in ("qemu-system-", "pyhyve-system-"):
            for directory in dict.fromkeys(("/usr/bin", *self._search)):
                for path in sorted(Path(directory).glob(f"{prefix}*")) if Path(directory).is_dir() else ():
                    if path.name not in seen and os.access(path, os.X_OK) and "-" not in path.name.removeprefix(prefix):
                        seen.add(path.name)
                        yield str(path)

    def probed(self, path: str) -> Emulator:
        """Return what is known about an emulator, asking it where that is new. Blocks. Raises LibvirtError."""
        try:
            state = Path(path).stat()
        except OSError as error:
            raise system_error(f"Cannot check QEMU binary {path}", error) from error
        stamp = (state.st_size, state.st_mtime_ns)
        known = self._known.get(path) or self._load(path)
        if known is None or known.stamp != stamp:
            known = _probe(path, stamp)
            self._save(known)
        self._known[path] = known
        return known

    def _file(self, path: str) -> Path:
        return self._cache / (path.strip("/").replace("/", "-") + ".json")

    def _load(self, path: str) -> Emulator | None:
        try:
            held = json.loads(self._file(path).read_text(encoding="utf-8"))
            if held.pop("format") != FORMAT:
                return None
            held["machines"] = {name: MachineType(**machine) for name, machine in held["machines"].items()}
            for name in _SETS:
                held[name] = frozenset(held[name])
            held["properties"] = {name: frozenset(names) for name, names in held["properties"].items()}
            held["version"], held["stamp"] = tuple(held["version"]), tuple(held["stamp"])
            return Emulator(**held)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _save(self, emulator: Emulator) -> None:
        held: dict[str, Any] = {field.name: getattr(emulator, field.name) for field in dataclasses.fields(emulator)}
        held["machines"] = {name: dataclasses.asdict(machine) for name, machine in emulator.machines.items()}
        held["properties"] = {name: sorted(names) for name, names in emulator.properties.items()}
        for name in _SETS:
            held[name] = sorted(held[name])
        try:
            self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._file(emulator.path), json.dumps({"format": FORMAT, **held}).encode())
        except OSError as error:
            _log.warning("cannot keep what %s is: %s", emulator.path, error)


def _probe(path: str, stamp: tuple[int, int]) -> Emulator:
    """Ask an emulator. Raises LibvirtError."""
    _log.info("asking %s what it is", path)
    options = frozenset(_OPTION.findall(_run(path, "-help")))
    with tempfile.TemporaryDirectory(prefix="pyhyve-probe-") as directory:
        said = ""
        for machine in ("none", "pc"):
            asked = _Probe(path, Path(directory, f"{machine}.sock"), machine)
            try:
                with asked:
                    return _ask(path, stamp, options, asked)
            except (OSError, ValueError, KeyError) as error:
                said = asked.said.strip() or str(error)
    raise internal(f"Failed to probe QEMU binary {path}: {said}")


def _run(path: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False, errors="replace"
        )
    except OSError as error:
        raise system_error(f"Cannot check QEMU binary {path}", error) from error
    except subprocess.TimeoutExpired as error:
        raise internal(f"Failed to probe QEMU binary {path}: it does not answer {' '.join(arguments)}") from error
    return done.stdout


class _Probe:
    """An emulator started only to be asked."""

    def __init__(self, path: str, monitor: Path, machine: str) -> None:
        self._arguments = [
            *(path, "-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", machine, "-serial", "none"),
            *("-monitor", "none", "-qmp", f"unix:{monitor},server=on,wait=off"),
        ]
        self._monitor = monitor
        self.said = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PROBE_TIMEOUT_S)
        while True:
            try:
                self._socket.connect(str(self._monitor))
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._file = self._socket.makefile("rb")
        self.greeting = json.loads(self._file.readline())["QMP"]
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:
        """Return the answer. Raises KeyError where the command is refused."""
        request = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            line = self._file.readline()
            if not line:
                msg = "the emulator ended"
                raise ValueError(msg)
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                return answer["return"]

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.kill()
        self.said = self._process.communicate()[1].decode(errors="replace")


def _ask(path: str, stamp: tuple[int, int], options: frozenset[str], probe: _Probe) -> Emulator:
    commands = frozenset(item["name"] for item in probe.ask("query-commands"))
    version = probe.greeting["version"]
    numbers = version["qemu"]
    if "qom-list-types" in commands:
        devices = frozenset(item["name"] for item in probe.ask("qom-list-types", implements="device", abstract=False))
        objects = frozenset(item["name"] for item in probe.ask("qom-list-types", implements="user-creatable"))
    else:
        text = _run(path, "-device", "help")
        devices = frozenset(name for pair in _DEVICE.findall(text) for name in pair if name)
        objects = frozenset()
    models, unusable = frozenset[str](), frozenset[str]()
    if "query-cpu-definitions" in commands:
        definitions = probe.ask("query-cpu-definitions")
        models = frozenset(item["name"] for item in definitions)
        unusable = frozenset(item["name"] for item in definitions if item.get("unavailable-features"))
    else:
        models = frozenset(re.findall(r"^\s*(?:x86\s+)?([\w-]+)", _run(path, "-cpu", "help"), re.MULTILINE)) - {
            "Available"
        }
    ours = str(version.get("package", "")).startswith("pyhyve")
    properties = {}
    if ours:
        for device in _INTERESTING:
            if device not in devices:
                continue
            names = {"id", "drive", "serial", "netdev", "mac"}
            if "device-list-properties" in commands:
                try:
                    names = {"id", *(item["name"] for item in probe.ask("device-list-properties", typename=device))}
                except KeyError:
                    _log.debug("%s does not say what %s has", path, device)
            properties[device] = frozenset(names)
    machines = list(_machines(probe.ask("query-machines"), models))
    default = next((item.canonical for item, is_default in machines if is_default), machines[0][0].canonical)
    kvm = "kvm" in _run(path, "-accel", "help").split() and os.access("/dev/kvm", os.R_OK | os.W_OK)
    architecture = "x86_64"
    if "query-target" in commands:
        architecture = probe.ask("query-target")["arch"]
    return Emulator(
        path=path,
        architecture=architecture,
        version=(numbers["major"], numbers["minor"], numbers["micro"]),
        package=version.get("package", ""),
        machines={item.name: item for item, _ in machines},
        default_machine=default,
        devices=devices,
        commands=commands,
        kvm=kvm,
        cpu_models=models,
        options=options,
        objects=objects,
        stamp=stamp,
        properties=properties,
        unusable_cpus=unusable,
        cpu_features=_cpu_features(probe, commands, models),
    )


def _cpu_features(probe: _Probe, commands: frozenset[str], models: frozenset[str]) -> frozenset[str]:
    """Return what the largest CPU has that it emulates; nothing where it does not say."""
    if "query-cpu-model-expansion" not in commands or "max" not in models:
        return frozenset()
    try:
        answer = probe.ask("query-cpu-model-expansion", type="full", model={"name": "max"})
    except KeyError:
        return frozenset()
    return frozenset(name for name, value in answer["model"]["props"].items() if value is True)


def _machines(answer: list[dict[str, Any]], models: frozenset[str]) -> Iterator[tuple[MachineType, bool]]:
    """Yield machine types (aliases too), each with whether it is the default."""
    fallback = "qemu64" if not models or "qemu64" in models else "max" if "max" in models else min(models)
    for item in answer:
        if item["name"] == "none":
            continue
        kind = item.get("default-cpu-type", "")
        cpu = re.sub(r"-(x86_64|i386|riscv64|riscv32|arm|aarch64|s390x|powerpc64)-cpu$", "", kind)
        machine = MachineType(
            name=item["name"],
            canonical=item["name"],
            vcpus_max=item.get("cpu-max", 1),
            default_cpu=cpu or fallback,
            hotpluggable_cpus=item.get("hotpluggable-cpus", False),
            deprecated=item.get("deprecated", False),
        )
        is_default = item.get("is-default", False)
        yield machine, is_default
        if "alias" in item:
            yield dataclasses.replace(machine, name=item["alias"]), False
