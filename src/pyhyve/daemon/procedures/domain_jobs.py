"""Saving and restoring, and jobs under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import jobs, saving
from pyhyve.daemon.domains.faults import invalid
from pyhyve.daemon.domains.saveimage import read_header
from pyhyve.daemon.procedures.domain_access import domain_of, registry_of

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.errors import LibvirtError
    from pyhyve.rpc.values import TypedParam

_SAVE_FLAGS: Final = 0xF


def _no_path() -> LibvirtError:
    return invalid("missing path to saved state")


def _not_saved() -> LibvirtError:
    return invalid("domain does not have managed save image")


@procedure("DOMAIN_SAVE", "DOMAIN_SAVE_FLAGS")
async def save(call: Call, args: Any) -> None:
    """Save a machine to a file."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, _SAVE_FLAGS)
    await saving.save(domain_of(call, args.dom), args.to, getattr(args, "dxml", None), flags)


@procedure("DOMAIN_SAVE_PARAMS")
async def save_params(call: Call, args: Any) -> None:
    """Save a machine to a file, named in parameters."""
    call.check_flags(args.flags, _SAVE_FLAGS)
    given = {param.field: param.value for param in args.params}
    domain = domain_of(call, args.dom)
    if "file" not in given:
        await saving.managed_save(domain, args.flags)
        return
    await saving.save(domain, str(given["file"]), str(given["dxml"]) if "dxml" in given else None, args.flags)


@procedure("DOMAIN_RESTORE", "DOMAIN_RESTORE_FLAGS")
async def restore(call: Call, args: Any) -> None:
    """Start a machine from the file it was saved to."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, _SAVE_FLAGS)
    await saving.restore(registry_of(call), args[0], getattr(args, "dxml", None), flags)


@procedure("DOMAIN_RESTORE_PARAMS")
async def restore_params(call: Call, args: Any) -> None:
    """Start a machine from a file named in parameters."""
    call.check_flags(args.flags, _SAVE_FLAGS)
    given = {param.field: param.value for param in args.params}
    if "file" not in given:
        raise _no_path()
    document = str(given["dxml"]) if "dxml" in given else None
    await saving.restore(registry_of(call), str(given["file"]), document, args.flags)


@procedure("DOMAIN_SAVE_IMAGE_GET_XML_DESC")
async def save_image_get_xml_desc(call: Call, args: Any) -> str:
    """Return the document of a saved machine."""
    call.check_flags(args.flags, 1)
    return await saving.image_document(registry_of(call), args.file, secure=bool(args.flags & 1))


@procedure("DOMAIN_SAVE_IMAGE_DEFINE_XML")
async def save_image_define_xml(call: Call, args: Any) -> None:
    """Replace the document of a saved machine."""
    call.check_flags(args.flags, 6)
    await saving.define_image_document(registry_of(call), args.file, args.dxml, args.flags)


@procedure("DOMAIN_MANAGED_SAVE")
async def managed_save(call: Call, args: Any) -> None:
    """Save a machine where it is started from the next time."""
    call.check_flags(args.flags, 7)
    await saving.managed_save(domain_of(call, args.dom), args.flags)


@procedure("DOMAIN_HAS_MANAGED_SAVE_IMAGE")
def has_managed_save_image(call: Call, args: Any) -> int:
    """Say whether a domain was saved so."""
    call.check_flags(args.flags, 0)
    return int(saving.has_managed_save(domain_of(call, args.dom)))


@procedure("DOMAIN_MANAGED_SAVE_REMOVE")
async def managed_save_remove(call: Call, args: Any) -> None:
    """Forget what was saved."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("managed save"):
        await saving.remove_managed(domain)


@procedure("DOMAIN_MANAGED_SAVE_GET_XML_DESC")
async def managed_save_get_xml_desc(call: Call, args: Any) -> str:
    """Return the document of what was saved."""
    call.check_flags(args.flags, 1)
    domain = domain_of(call, args.dom)
    if not saving.has_managed_save(domain):
        raise _not_saved()
    path = str(saving.managed_path(domain))
    return await saving.image_document(registry_of(call), path, secure=bool(args.flags & 1))


@procedure("DOMAIN_MANAGED_SAVE_DEFINE_XML")
async def managed_save_define_xml(call: Call, args: Any) -> None:
    """Replace the document of what was saved."""
    call.check_flags(args.flags, 6)
    domain = domain_of(call, args.dom)
    if not saving.has_managed_save(domain):
        raise _not_saved()
    path = saving.managed_path(domain)
    document = args.dxml or (await call.daemon.run_blocking(read_header, path)).document
    await saving.define_image_document(registry_of(call), str(path), document, args.flags)


@procedure("DOMAIN_CORE_DUMP", "DOMAIN_CORE_DUMP_WITH_FORMAT")
async def core_dump(call: Call, args: Any) -> None:
    """Write a machine's memory to a file."""
    call.check_flags(args.flags, 0x1F)
    await saving.dump(domain_of(call, args.dom), args.to, getattr(args, "dumpformat", 0), args.flags)


@procedure("DOMAIN_GET_JOB_INFO")
def get_job_info(call: Call, args: Any) -> tuple[int, ...]:
    """How far a job is."""
    return jobs.info(domain_of(call, args.dom))


@procedure("DOMAIN_GET_JOB_STATS")
def get_job_stats(call: Call, args: Any) -> tuple[int, list[TypedParam]]:
    """Everything known about a job."""
    call.check_flags(args.flags, 3)
    return jobs.statistics(domain_of(call, args.dom), completed=bool(args.flags & 1))


@procedure("DOMAIN_ABORT_JOB", "DOMAIN_ABORT_JOB_FLAGS")
async def abort_job(call: Call, args: Any) -> None:
    """Give a job up."""
    call.check_flags(getattr(args, "flags", 0), 1)
    await jobs.abort(domain_of(call, args.dom))
