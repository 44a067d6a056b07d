"""Kernel modules: what each says about itself, what it needs, and the index files that modprobe reads.

Debian makes `modules.dep` when a kernel is installed, so a package does not hold one: it is worked out here from the
`.modinfo` section of each module (ELF-64; modinfo(8), modules.dep(5)).
"""

from __future__ import annotations

import gzip
import lzma
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.guest.deb import PackageError
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ELF_MAGIC = b"\x7fELF\x02\x01"
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")


@dataclass(frozen=True, slots=True)
class Module:
    """One loadable module, decompressed. `path` is relative to the directory of the kernel's modules."""

    name: str
    path: str
    data: bytes
    depends: tuple[str, ...]
    softdeps: tuple[str, ...]
    aliases: tuple[str, ...]


def module_name(name: str) -> str:
    """The kernel's spelling: '-' and '_' are the same in module names."""
    return name.replace("-", "_")


def decompress(path: str, data: bytes) -> tuple[str, bytes]:
    """A module file's path and content without compression."""
    if path.endswith(".xz"):
        return path.removesuffix(".xz"), lzma.decompress(data)
    if path.endswith(".gz"):
        return path.removesuffix(".gz"), gzip.decompress(data)
    return path, data


def modinfo(data: bytes) -> list[tuple[str, str]]:
    """The key and value pairs in the `.modinfo` section of an ELF-64 module.

    Raises PackageError when there is none.
    """
    try:
        if not data.startswith(ELF_MAGIC):
            raise ValueError
        (table,) = struct.unpack_from("<Q", data, 40)
        entry_bytes, count, names_index = struct.unpack_from("<HHH", data, 58)
        sections = [SECTION_HEADER.unpack_from(data, table + index * entry_bytes) for index in range(count)]
        names = sections[names_index][4]
        for section in sections:
            start = names + section[0]
            if data[start : data.index(b"\0", start)] == b".modinfo":
                content = data[section[4] : section[4] + section[5]].decode("utf-8", "replace")
                pairs = (text.partition("=") for text in content.split("\0") if text)
                return [(key, value) for key, _, value in pairs]
    except (ValueError, struct.error, IndexError, OverflowError) as error:
        msg = "damaged kernel package: a module is not an ELF file"
        raise PackageError(msg) from error
    msg = "damaged kernel package: a module without .modinfo"
    raise PackageError(msg)


def parse(path: str, data: bytes) -> Module:
    """The module in file `path`, compressed or not."""
    path, data = decompress(path, data)
    pairs = modinfo(data)
    depends = [name for key, value in pairs if key == "depends" for name in value.split(",") if name]
    softdeps: list[str] = []
    for key, value in pairs:
        if key == "softdep":
            softdeps += [word for word in value.split() if not word.endswith(":")]
    return Module(
        name=module_name(path.rpartition("/")[2].removesuffix(".ko")),
        path=path,
        data=data,
        depends=tuple(module_name(name) for name in depends),
        softdeps=tuple(module_name(name) for name in softdeps),
        aliases=tuple(value for key, value in pairs if key == "alias"),
    )


class ModuleTree:
    """All modules of one kernel, read when asked for; `files` maps relative paths to file contents."""

    def __init__(self, files: Mapping[str, bytes], builtin: Iterable[str]) -> None:
        self._files = files
        self._paths = {}
        for path in files:
            stem = path.rpartition("/")[2].partition(".ko")[0]
            self._paths[module_name(stem)] = path
        self._builtin = {module_name(path.rpartition("/")[2].removesuffix(".ko")) for path in builtin}
        self._parsed: dict[str, Module] = {}

    def is_builtin(self, name: str) -> bool:
        """Whether the kernel has `name` built in."""
        return module_name(name) in self._builtin

    def find(self, name: str) -> Module | None:
        """The loadable module `name`, if there is one."""
        name = module_name(name)
        if name not in self._parsed:
            path = self._paths.get(name)
            if path is None:
                return None
            self._parsed[name] = parse(path, self._files[path])
        return self._parsed[name]

    def closure(self, names: Iterable[str], *, required: bool) -> list[Module]:
        """The modules `names` with all they need, each after what it needs.

        Soft dependencies are followed where they name a module. A name that the kernel neither has as a module nor
        built in raises InputError when `required`, and is left out otherwise.
        """
        ordered: dict[str, Module] = {}
        visiting: set[str] = set()

        def visit(name: str, *, needed: bool) -> None:
            name = module_name(name)
            if name in ordered or name in visiting:
                return
            module = self.find(name)
            if module is None:
                if needed and not self.is_builtin(name):
                    msg = f"module {name}: this kernel has none of that name"
                    raise InputError(msg)
                return
            visiting.add(name)
            for other in module.softdeps:
                visit(other, needed=False)
            for other in module.depends:
                visit(other, needed=True)
            visiting.discard(name)
            ordered[name] = module

        for name in names:
            visit(name, needed=required)
        return list(ordered.values())


def dependency_index(modules: Iterable[Module]) -> str:
    """`modules.dep`: each module's path and the paths of all that it needs.

    modprobe inserts them from last to first, so each comes before what it needs itself.
    """
    by_name = {module.name: module for module in modules}

    def needs(module: Module, found: dict[str, None]) -> dict[str, None]:
        for name in module.depends:
            other = by_name.get(name)
            if other is not None and other.path not in found:
                needs(other, found)
                found[other.path] = None
        return found

    lines = (" ".join([f"{module.path}:", *reversed(needs(module, {}))]) for module in by_name.values())
    return "".join(line + "\n" for line in lines)


def alias_index(modules: Iterable[Module]) -> str:
    """`modules.alias`: which module drives which device or protocol."""
    return "".join(f"alias {alias} {module.name}\n" for module in modules for alias in module.aliases)
