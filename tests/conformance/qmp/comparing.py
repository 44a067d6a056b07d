"""Two replies field by field, and the differences that are allowed, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEYS = (
    *("name", "label", "option", "capability", "id", "node-name", "file", "filename", "drv"),
    *("slot", "function", "cpu-index", "bar"),
)
"""Members that tell the entries of a list apart, where they are texts or numbers."""
_GENERATED = re.compile(r"#block\d+")


@dataclass(frozen=True, slots=True)
class Gap:
    """A place where replies differ. `ours` or `qemu` is `ABSENT` where one has nothing."""

    path: str
    ours: Any
    qemu: Any

    @property
    def kind(self) -> str:
        """`more`: only QEMU has it; `less`: only pyhyve has; `type`: another JSON type; else `value`."""
        if self.ours is ABSENT:
            return "more"
        if self.qemu is ABSENT:
            return "less"
        return "value" if type(self.ours) is type(self.qemu) else "type"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Gaps of one kind that are all right: in replies to `command`, with `arguments` if given, at `path`, a pattern."""

    command: str
    path: str
    kind: str
    reason: str
    arguments: dict[str, Any] | None = None
    by_chance: bool = False
    """Whether a run may well be without."""

    def covers(self, command: str, arguments: dict[str, Any], gap: Gap) -> bool:
        """Whether this gap is one of them."""
        return (
            command == self.command
            and gap.kind == self.kind
            and (self.arguments is None or self.arguments == arguments)
            and re.fullmatch(self.path, gap.path) is not None
        )


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


def compare(ours: Any, qemu: Any, path: str = "") -> Iterator[Gap]:
    """Where the replies differ. Lists of objects are compared entry by entry, whatever their order."""
    if isinstance(ours, dict) and isinstance(qemu, dict):
        for name in sorted(ours.keys() | qemu.keys()):
            yield from compare(ours.get(name, ABSENT), qemu.get(name, ABSENT), f"{path}.{name}")
    elif isinstance(ours, list) and isinstance(qemu, list):
        yield from _compare_lists(ours, qemu, f"{path}[]")
    elif ours is ABSENT or qemu is ABSENT or _plain(ours) != _plain(qemu):
        yield Gap(path, ours, qemu)


def _compare_lists(ours: list[Any], qemu: list[Any], path: str) -> Iterator[Gap]:
    theirs = [(_key(item), item) for item in qemu]
    for item in ours:
        key = _key(item)
        match = next((entry for entry in theirs if entry[0] == key), None)
        if match is None:
            yield Gap(path, item, ABSENT)
        else:
            theirs.remove(match)
            yield from compare(item, match[1], path)
    for _, item in theirs:
        yield Gap(path, ABSENT, item)


def _key(item: Any) -> Any:
    if not isinstance(item, dict):
        return _plain(item)
    return tuple((name, _plain(item[name])) for name in _KEYS if isinstance(item.get(name), str | int))


def _plain(value: Any) -> Any:
    """Names that the monitor made up are all the same."""
    return _GENERATED.sub("#block", value) if isinstance(value, str) else value
