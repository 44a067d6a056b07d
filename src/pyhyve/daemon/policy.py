"""The policy file: who may do what, in libvirt's permissions.

A TOML file of rules, examined in order; the first that is about the client, the permission and the object decides::

    [[rule]]
    who = ["user:alice", "group:admins"]
    allow = ["*"]

    [[rule]]
    who = ["group:operators"]
    deny = ["domain:delete"]

    [[rule]]
    who = ["group:operators"]
    objects = ["web-*"]
    allow = ["domain:*", "connect:getattr", "connect:search_domains"]

``who`` names ``user:``, ``group:``, ``uid:``, ``sasl:``, ``certificate:`` or ``transport:`` with a pattern, or ``*``.
``objects`` are patterns of names or UUIDs. What no rule allows is denied; without the file, whoever may connect may do
everything.
Permissions are those of libvirt's access control documentation, as ``object:permission``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pyhyve.daemon.access import Identity

__all__ = ["FilePolicy", "parse_policy", "read_policy"]

_KEYS: Final = frozenset({"who", "allow", "deny", "objects"})
_WHO: Final = ("user", "group", "uid", "sasl", "certificate", "transport")


@dataclass(frozen=True, slots=True)
class _Rule:
    who: tuple[str, ...]
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    objects: tuple[str, ...]


class FilePolicy:
    """The rules of one file."""

    def __init__(self, rules: Sequence[_Rule]) -> None:
        self._rules = tuple(rules)
        self.by_object = any(rule.objects for rule in rules)
        """Whether it matters which object it is."""

    def allows(self, identity: Identity, permission: str, name: str, uuid: bytes) -> bool:
        """Whether a client has a permission on an object, or (no name, no UUID) on some object."""
        some = not name and not uuid
        names = [name, str(UUID(bytes=uuid))] if len(uuid) == 16 else [name]
        subjects = list(_subjects(identity))
        for rule in self._rules:
            if not any(fnmatchcase(subject, pattern) for subject in subjects for pattern in rule.who):
                continue
            if rule.objects and not some and not _match(names, rule.objects):
                continue
            if _match([permission], rule.deny) and not (some and rule.objects):
                return False
            if _match([permission], rule.allow):
                return True
        return False


def _match(texts: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def _subjects(identity: Identity) -> Iterator[str]:
    yield f"transport:{identity.transport}"
    if identity.uid is not None:
        yield f"uid:{identity.uid}"
    for kind, value in (("user", identity.user), ("sasl", identity.sasl), ("certificate", identity.certificate)):
        if value is not None:
            yield f"{kind}:{value}"
    for group in identity.groups:
        yield f"group:{group}"


def _words(rule: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = rule.get(key, [])
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        msg = f"{where}: {key} is a list of texts"
        raise InputError(msg)
    return tuple(value)


def parse_policy(text: str, source: str) -> FilePolicy:
    """Parse a policy. Raises InputError, which names the place."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"{source}: {error}"
        raise InputError(msg) from error
    if document.keys() - {"rule"} or not isinstance(document.get("rule", []), list):
        msg = f"{source}: only [[rule]] tables are known"
        raise InputError(msg)
    rules = []
    for number, rule in enumerate(document.get("rule", []), 1):
        where = f"{source}: rule {number}"
        if not isinstance(rule, dict) or rule.keys() - _KEYS:
            msg = f"{where}: a rule has {', '.join(sorted(_KEYS))}"
            raise InputError(msg)
        made = _Rule(*(_words(rule, key, where) for key in ("who", "allow", "deny", "objects")))
        for who in made.who:
            if who != "*" and who.partition(":")[0] not in _WHO:
                msg = f"{where}: {who!r} is not '*' or one of {', '.join(f'{kind}:…' for kind in _WHO)}"
                raise InputError(msg)
        for permission in (*made.allow, *made.deny):
            if permission != "*" and ":" not in permission:
                msg = f"{where}: {permission!r} is not '*' or object:permission (such as domain:start)"
                raise InputError(msg)
        if not made.who or not (made.allow or made.deny):
            msg = f"{where}: it needs who, and allow or deny"
            raise InputError(msg)
        rules.append(made)
    return FilePolicy(rules)


def read_policy(path: Path) -> FilePolicy | None:
    """Read a policy file; None where there is none. Raises InputError, OSError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8"
        raise InputError(msg) from error
    return parse_policy(text, str(path))
