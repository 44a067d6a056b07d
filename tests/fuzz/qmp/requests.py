"""Requests for a monitor: made from its schema, then damaged."""

from __future__ import annotations

import json
import random
from typing import Any

from pyhyve.machine.monitor.schema import SCHEMA
from pyhyve.machine.monitor.types import member_name

WORDS = (
    *("", "a", "n0", "n1", "d0", "d1", "job0", "c0", "o0", "disk.qcow2", "disk.raw", "other.qcow2", "missing/x", "0"),
    *("virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci", "scsi-cd", "scsi0.0", "pci.0", "/machine/peripheral"),
    *("qcow2", "raw", "file:dump", "1.2", "0x5", "\u00e9\u4e2d", "x" * 300, "#block000", "info block", "help", "on"),
)
"""Names among which some exist; none leads out of the working directory."""
NUMBERS = (0, 1, -1, 2, 511, 512, 65536, 1 << 20, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
LEFT_OUT = frozenset({"quit", "migrate", "migrate-incoming", "qmp_capabilities", "getfd", "add-fd"})
"""What ends the conversation, runs commands of the host's, or needs a descriptor."""
_FORBIDDEN_TYPES = frozenset({"user", "tap", "bridge", "stdio", "pty"})
"""Kinds of networks and character devices that take something of the host's."""
_HARMFUL = (
    *(b"exec:", b'"user"', b'"tap"', b'"bridge"', b'"stdio"', b'"pty"', b'"quit"', b'"/', b":/", b"..", b'"migrate'),
)
COMMANDS = tuple(name for name in SCHEMA.commands if name not in LEFT_OUT)


class Maker:
    """Makes requests from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def request(self) -> bytes:
        """One request, well-formed JSON or not."""
        chance = self.random
        name = chance.choice(COMMANDS)
        command = SCHEMA.commands[name]
        arguments = self._struct(command.boxed, 0) if command.boxed else self._members(command.arguments, 0)
        if command.is_open and chance.random() < 0.5:
            for key in ("drive", "addr", "serial", "netdev", "chardev", "rng", "num-queues"):
                if chance.random() < 0.3:
                    arguments[key] = self._scalar()
        message: dict[str, Any] = {"execute": name}
        if arguments or chance.random() < 0.1:
            message["arguments"] = arguments
        if chance.random() < 0.5:
            message["id"] = self._scalar()
        if chance.random() < 0.02:
            message[chance.choice(("extra", "exec-oob", "control"))] = self._scalar()
        if chance.random() < 0.02:
            message["execute"] = self._scalar()
        text = json.dumps(message).encode()
        return self._damage(text) if chance.random() < 0.15 else text

    def _damage(self, text: bytes) -> bytes:
        chance, data = self.random, bytearray(text)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data)) if data else 0
            match chance.randrange(4):
                case 0 if data:
                    data[at] = chance.choice(b"{}[]\":,0123456789eE-+.\\ '\xff\x00\xc3nulltruefalse")
                case 1:
                    del data[at : at + chance.randint(1, 8)]
                case 2:
                    data[at:at] = data[at : at + chance.randint(1, 16)]
                case _:
                    data[at:at] = bytes(chance.choice(b'{[":,') for _ in range(chance.randint(1, 40)))
        return bytes(data)

    def _scalar(self) -> Any:
        chance = self.random
        match chance.randrange(6):
            case 0:
                return chance.choice(NUMBERS)
            case 1:
                return chance.random() < 0.5
            case 2:
                return None
            case 3:
                return chance.random() * 1e20
            case 4:
                return [chance.choice(WORDS)]
            case _:
                return chance.choice(WORDS)

    def _value(self, kind: Any, depth: int) -> Any:  # noqa: PLR0911 - one for each kind of type
        chance = self.random
        if chance.random() < 0.03:
            return self._scalar()
        if isinstance(kind, list):
            return [self._value(kind[0], depth + 1) for _ in range(chance.choice((0, 1, 1, 2)))]
        if kind in SCHEMA.enums:
            allowed = [value for value in SCHEMA.enums[kind] if value not in _FORBIDDEN_TYPES]
            return chance.choice(allowed or WORDS)
        if kind in SCHEMA.structs:
            return self._struct(kind, depth + 1)
        if kind in SCHEMA.alternates:
            return self._value(chance.choice(SCHEMA.alternates[kind]), depth + 1)
        match kind:
            case "bool":
                return chance.random() < 0.5
            case "int" | "size":
                return chance.choice(NUMBERS)
            case "number":
                return chance.random()
            case "null":
                return None
            case "str":
                return chance.choice(WORDS)
            case _:
                return self._scalar()

    def _struct(self, name: str, depth: int) -> dict[str, Any]:
        struct = SCHEMA.structs[name]
        value = self._members(struct.members, depth)
        variant = struct.variants.get(str(value.get(struct.tag))) if struct.tag else None
        if variant is not None:
            value |= self._members(SCHEMA.structs[variant].members, depth)
        return value

    def _members(self, members: Any, depth: int) -> dict[str, Any]:
        chance, value = self.random, {}
        for marked, kind in members.items():
            name, optional = member_name(marked)
            wanted = chance.random() < (0.35 if depth < 4 else 0.0) if optional else chance.random() > 0.02
            if wanted:
                value[name] = self._value(kind, depth)
        if chance.random() < 0.02:
            value[chance.choice(WORDS)] = self._scalar()
        return value


def is_harmless(request: bytes) -> bool:
    """Whether carrying it out takes nothing of the host's: damage may have made it something else."""
    return not any(word in request for word in _HARMFUL)
