"""What is asked of a guest through its agent: file systems, time, passwords, who is logged in."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import agent
from pyhyve.daemon.domains.faults import internal, unsupported
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import FsInfo, ParamType, TypedParam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = [
    "file_systems",
    "freeze",
    "get_time",
    "guest_info",
    "set_password",
    "set_ssh_keys",
    "set_time",
    "ssh_keys",
    "thaw",
    "trim",
]

_USERS, _OS, _TIMEZONE, _HOSTNAME, _FILESYSTEM, _DISKS, _INTERFACES = 1, 2, 4, 8, 16, 32, 64
_TIME_SYNC: Final = 1
_KEYS_APPEND, _KEYS_REMOVE = 1, 2
_OS_KEYS: Final = (
    "id",
    "name",
    "pretty-name",
    "version",
    "version-id",
    "machine",
    "variant",
    "variant-id",
    "kernel-release",
    "kernel-version",
)


def _disk_alias(domain: ManagedDomain, place: dict[str, Any]) -> str | None:
    """Return the target name of the disk at an address the agent names."""
    controller = place.get("pci-controller", {})
    kind = place.get("bus-type")
    for disk in domain.devices.disk:
        address = disk.address
        if address is None:
            continue
        if kind == "virtio" and address.type == "pci":
            bus, slot, function = address.pci
            if (bus, slot, function) == (controller.get("bus"), controller.get("slot"), controller.get("function")):
                return disk.target.dev
        elif kind in {"scsi", "ide", "sata"} and address.type == "drive" and disk.target.bus == kind:
            where = (int(address.bus or 0), address.target or 0, address.unit or 0)
            if where == (place.get("bus"), place.get("target"), place.get("unit")):
                return disk.target.dev
    return None


async def file_systems(domain: ManagedDomain) -> list[FsInfo]:
    """Return the file systems a guest has mounted. Raises LibvirtError."""
    answer = await agent.execute(domain, "guest-get-fsinfo")
    found = []
    for item in answer if isinstance(answer, list) else ():
        aliases = [name for place in item.get("disk", ()) if (name := _disk_alias(domain, place)) is not None]
        found.append(FsInfo(item["mountpoint"], item["name"], item["type"], aliases))
    return found


async def freeze(domain: ManagedDomain, mountpoints: Sequence[str]) -> int:
    """Have a guest write everything and hold its file systems still; return how many. Raises LibvirtError."""
    if mountpoints:
        answer = await agent.execute(domain, "guest-fsfreeze-freeze-list", {"mountpoints": list(mountpoints)})
    else:
        answer = await agent.execute(domain, "guest-fsfreeze-freeze")
    return _number(answer)


async def thaw(domain: ManagedDomain, mountpoints: Sequence[str] = ()) -> int:
    """Let a guest's file systems go on; return how many. Raises LibvirtError."""
    if mountpoints:
        raise _unsupported_argument("specifying mountpoints is not supported")
    return _number(await agent.execute(domain, "guest-fsfreeze-thaw"))


def _unsupported_argument(detail: str) -> LibvirtError:
    return LibvirtError(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.QEMU, detail)


def _number(answer: Any) -> int:
    if not isinstance(answer, int):
        raise internal("malformed return value")
    return answer


async def trim(domain: ManagedDomain, mountpoint: str | None, minimum: int) -> None:
    """Have a guest give back what its file systems do not use. Raises LibvirtError."""
    if mountpoint:
        raise _unsupported_argument("Specifying mount point is not supported for now")
    await agent.execute(domain, "guest-fstrim", {"minimum": minimum})


async def get_time(domain: ManagedDomain) -> tuple[int, int]:
    """Return a guest's time: seconds since 1970, and nanoseconds. Raises LibvirtError."""
    domain.require_active()
    answer = _number(await agent.execute(domain, "guest-get-time"))
    return answer // 1_000_000_000, answer % 1_000_000_000


async def set_time(domain: ManagedDomain, seconds: int, nanoseconds: int, flags: int) -> None:
    """Set a guest's time, or (with the flag) have it read its clock. Raises LibvirtError."""
    domain.require_active()
    arguments = None if flags & _TIME_SYNC else {"time": seconds * 1_000_000_000 + nanoseconds}
    await agent.execute(domain, "guest-set-time", arguments)
    if domain.has_command("rtc-reset-reinjection"):
        await domain.monitor("rtc-reset-reinjection")


async def set_password(domain: ManagedDomain, user: str | None, password: str | None, flags: int) -> None:
    """Set the password of a guest's user; ``flags`` 1 says that it is encrypted. Raises LibvirtError."""
    written = base64.b64encode((password or "").encode()).decode()
    arguments = {"username": user or "", "password": written, "crypted": bool(flags & 1)}
    await agent.execute(domain, "guest-set-user-password", arguments)


async def ssh_keys(domain: ManagedDomain, user: str) -> list[str]:
    """Return the keys that let somebody in as a guest's user. Raises LibvirtError."""
    answer = await agent.execute(domain, "guest-ssh-get-authorized-keys", {"username": user})
    return [str(key) for key in answer.get("keys", ())]


async def set_ssh_keys(domain: ManagedDomain, user: str, keys: Sequence[str], flags: int) -> None:
    """Set, add to or (with the flag) remove from the keys of a guest's user. Raises LibvirtError."""
    if flags & _KEYS_REMOVE:
        await agent.execute(domain, "guest-ssh-remove-authorized-keys", {"username": user, "keys": list(keys)})
        return
    arguments = {"username": user, "keys": list(keys), "reset": not flags & _KEYS_APPEND}
    await agent.execute(domain, "guest-ssh-add-authorized-keys", arguments)


async def guest_info(domain: ManagedDomain, types: int, flags: int) -> list[TypedParam]:
    """Return what a guest says about itself: users, system, time zone, name, file systems. Raises LibvirtError."""
    del flags
    domain.require_active(ErrorDomain.QEMU)
    wanted = types or (_USERS | _OS | _TIMEZONE | _HOSTNAME | _FILESYSTEM | _DISKS | _INTERFACES)
    params: list[TypedParam] = []
    for bit, command, take in (
        (_USERS, "guest-get-users", _users),
        (_OS, "guest-get-osinfo", _system),
        (_TIMEZONE, "guest-get-timezone", _timezone),
        (_HOSTNAME, "guest-get-host-name", _hostname),
        (_FILESYSTEM, "guest-get-fsinfo", lambda answer: _mounts(domain, answer)),
        (_DISKS, "guest-get-disks", lambda answer: _disks(domain, answer)),
        (_INTERFACES, "guest-network-get-interfaces", _links),
    ):
        if not wanted & bit:
            continue
        try:
            answer = await agent.execute(domain, command)
        except LibvirtError as error:
            if types or error.code is ErrorCode.AGENT_UNRESPONSIVE:
                raise
            continue  # it was not asked for in particular
        params.extend(take(answer))
    if not params:
        raise unsupported("the guest says nothing about itself", ErrorDomain.QEMU)
    return params


def _word(name: str, value: object) -> TypedParam:
    return TypedParam(name, ParamType.STRING, str(value))


def _users(answer: Any) -> list[TypedParam]:
    params = [TypedParam("user.count", ParamType.UINT, len(answer))]
    for number, item in enumerate(answer):
        params.append(_word(f"user.{number}.name", item["user"]))
        if "domain" in item:
            params.append(_word(f"user.{number}.domain", item["domain"]))
        moment = int(float(item.get("login-time", 0)) * 1000)
        params.append(TypedParam(f"user.{number}.login-time", ParamType.ULLONG, moment))
    return params


def _system(answer: Any) -> list[TypedParam]:
    return [_word(f"os.{key}", answer[key]) for key in _OS_KEYS if key in answer]


def _timezone(answer: Any) -> list[TypedParam]:
    params = [_word("timezone.name", answer["zone"])] if "zone" in answer else []
    return [*params, TypedParam("timezone.offset", ParamType.INT, int(answer.get("offset", 0)))]


def _hostname(answer: Any) -> list[TypedParam]:
    return [_word("hostname", answer.get("host-name", ""))]


def _mounts(domain: ManagedDomain, answer: Any) -> list[TypedParam]:
    params = [TypedParam("fs.count", ParamType.UINT, len(answer))]
    for number, item in enumerate(answer):
        params.append(_word(f"fs.{number}.name", item["name"]))
        params.append(_word(f"fs.{number}.mountpoint", item["mountpoint"]))
        params.append(_word(f"fs.{number}.fstype", item["type"]))
        params.extend(
            TypedParam(f"fs.{number}.{key}", ParamType.ULLONG, int(item[key]))
            for key in ("total-bytes", "used-bytes")
            if key in item
        )
        places = item.get("disk", ())
        params.append(TypedParam(f"fs.{number}.disk.count", ParamType.UINT, len(places)))
        for index, place in enumerate(places):
            if (alias := _disk_alias(domain, place)) is not None:
                params.append(_word(f"fs.{number}.disk.{index}.alias", alias))
            words = (("serial", "serial"), ("dev", "device"))
            params.extend(_word(f"fs.{number}.disk.{index}.{name}", place[key]) for key, name in words if key in place)
    return params


def _disks(domain: ManagedDomain, answer: Any) -> list[TypedParam]:
    params = [TypedParam("disk.count", ParamType.UINT, len(answer))]
    for number, item in enumerate(answer):
        params.append(_word(f"disk.{number}.name", item.get("name", "")))
        params.append(TypedParam(f"disk.{number}.partition", ParamType.BOOLEAN, bool(item.get("partition"))))
        below = item.get("dependencies", ())
        if below:
            params.append(TypedParam(f"disk.{number}.dependency.count", ParamType.UINT, len(below)))
            params.extend(_word(f"disk.{number}.dependency.{index}.name", name) for index, name in enumerate(below))
        place = item.get("address", {})
        if place.get("serial"):
            params.append(_word(f"disk.{number}.serial", place["serial"]))
        if (alias := _disk_alias(domain, place)) is not None:
            params.append(_word(f"disk.{number}.alias", alias))
        if "alias" in item:
            params.append(_word(f"disk.{number}.guest_alias", item["alias"]))
    return params


def _links(answer: Any) -> list[TypedParam]:
    params = [TypedParam("if.count", ParamType.UINT, len(answer))]
    for number, item in enumerate(answer):
        params.append(_word(f"if.{number}.name", item.get("name", "")))
        if "hardware-address" in item:
            params.append(_word(f"if.{number}.hwaddr", item["hardware-address"]))
        places = item.get("ip-addresses", ())
        params.append(TypedParam(f"if.{number}.addr.count", ParamType.UINT, len(places)))
        for index, place in enumerate(places):
            params.append(_word(f"if.{number}.addr.{index}.type", place.get("ip-address-type", "ipv4")))
            params.append(_word(f"if.{number}.addr.{index}.addr", place.get("ip-address", "")))
            prefix = int(place.get("prefix", 0))
            params.append(TypedParam(f"if.{number}.addr.{index}.prefix", ParamType.UINT, prefix))
    return params
