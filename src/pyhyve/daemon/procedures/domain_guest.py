"""What is asked of a guest through its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import agent, guest
from pyhyve.daemon.procedures.domain_access import domain_of

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.rpc.values import FsInfo, TypedParam


@procedure("DOMAIN_FSFREEZE")
async def fs_freeze(call: Call, args: Any) -> int:
    """Hold a guest's file systems still."""
    call.check_flags(args.flags, 0)
    return await guest.freeze(domain_of(call, args.dom), args.mountpoints)


@procedure("DOMAIN_FSTHAW")
async def fs_thaw(call: Call, args: Any) -> int:
    """Let a guest's file systems go on."""
    call.check_flags(args.flags, 0)
    return await guest.thaw(domain_of(call, args.dom), args.mountpoints)


@procedure("DOMAIN_FSTRIM")
async def fs_trim(call: Call, args: Any) -> None:
    """Have a guest give back what its file systems do not use."""
    call.check_flags(args.flags, 0)
    await guest.trim(domain_of(call, args.dom), args.mount_point, args.minimum)


@procedure("DOMAIN_GET_FSINFO")
async def get_fs_info(call: Call, args: Any) -> tuple[list[FsInfo], int]:
    """File systems a guest has mounted."""
    call.check_flags(args.flags, 0)
    found = await guest.file_systems(domain_of(call, args.dom))
    return found, len(found)


@procedure("DOMAIN_GET_TIME")
async def get_time(call: Call, args: Any) -> tuple[int, int]:
    """A guest's time."""
    call.check_flags(args.flags, 0)
    return await guest.get_time(domain_of(call, args.dom))


@procedure("DOMAIN_SET_TIME")
async def set_time(call: Call, args: Any) -> None:
    """Set a guest's time."""
    call.check_flags(args.flags, 1)
    await guest.set_time(domain_of(call, args.dom), args.seconds, args.nseconds, args.flags)


@procedure("DOMAIN_SET_USER_PASSWORD")
async def set_user_password(call: Call, args: Any) -> None:
    """Set the password of a guest's user."""
    call.check_flags(args.flags, 1)
    await guest.set_password(domain_of(call, args.dom), args.user, args.password, args.flags)


@procedure("DOMAIN_AUTHORIZED_SSH_KEYS_GET")
async def authorized_ssh_keys_get(call: Call, args: Any) -> list[str]:
    """Keys that let somebody in."""
    call.check_flags(args.flags, 0)
    return await guest.ssh_keys(domain_of(call, args.dom), args.user)


@procedure("DOMAIN_AUTHORIZED_SSH_KEYS_SET")
async def authorized_ssh_keys_set(call: Call, args: Any) -> None:
    """Set the keys that let somebody in."""
    call.check_flags(args.flags, 3)
    await guest.set_ssh_keys(domain_of(call, args.dom), args.user, args.keys, args.flags)


@procedure("DOMAIN_GET_GUEST_INFO")
async def get_guest_info(call: Call, args: Any) -> list[TypedParam]:
    """What a guest says about itself."""
    call.check_flags(args.flags, 0)
    return await guest.guest_info(domain_of(call, args.dom), args.types, args.flags)


@procedure("DOMAIN_AGENT_SET_RESPONSE_TIMEOUT")
def agent_set_response_timeout(call: Call, args: Any) -> int:
    """Say how long the agent may take."""
    call.check_flags(args.flags, 0)
    agent.set_timeout(domain_of(call, args.dom), args.timeout)
    return 0


@procedure("QEMU_DOMAIN_AGENT_COMMAND")
async def agent_command(call: Call, args: Any) -> str | None:
    """Have the agent run any command."""
    call.check_flags(args.flags, 0)
    return await agent.raw(domain_of(call, args.dom), args.cmd, args.timeout)


@procedure("QEMU_DOMAIN_MONITOR_COMMAND")
async def monitor_command(call: Call, args: Any) -> str:
    """Have the machine's monitor run any command."""
    call.check_flags(args.flags, 1)
    return await agent.monitor_raw(domain_of(call, args.dom), args.cmd, human=bool(args.flags & 1))
