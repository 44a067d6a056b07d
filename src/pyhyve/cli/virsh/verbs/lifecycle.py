"""Domains: their life, from start to stop, and what is kept in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cli.virsh.flags import AFFECT_USAGE, affect, collect, exclusive
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import Domain

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import StorageVolume

_START = {"paused": 1, "autodestroy": 2, "bypass-cache": 4, "force-boot": 8, "validate": 16, "reset-nvram": 32}
_SAVE = {"bypass-cache": 1, "running": 2, "paused": 4, "reset-nvram": 8}
_SHUTDOWN_MODES = {"acpi": 1, "agent": 2, "initctl": 4, "signal": 8, "paravirt": 16}
_DUMP = {"crash": 1, "live": 2, "bypass-cache": 4, "reset": 8, "memory-only": 16}
_DUMP_FORMATS = {"elf": 0, "kdump-zlib": 1, "kdump-lzo": 2, "kdump-snappy": 3, "win-dmp": 4}
_LIFECYCLE_TYPES = ("poweroff", "reboot", "crash")
_LIFECYCLE_ACTIONS = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart")
_PM_TARGETS = {"mem": 0, "disk": 1, "hybrid": 2}


def _pass_fds(values: Values) -> tuple[int, ...]:
    text = values.get("pass-fds")
    if text is None:
        return ()
    numbers = []
    for word in text.split(","):
        if not word.isdigit():
            msg = f"Unable to parse FD number '{word}'"
            raise VerbFailed(msg)
        numbers.append(int(word))
    return tuple(numbers)


@verb(
    "start",
    "domain",
    "<domain> [--console] [--paused] [--autodestroy] [--bypass-cache] [--force-boot] [--pass-fds <string>] "
    "[--reset-nvram]",
    "start a domain that is defined, or resume what managedsave kept",
)
def start(shell: Shell, values: Values) -> None:
    """Start a defined domain."""
    domain = shell.domain(values)
    if domain.id is not None:
        msg = "Domain is already active"
        raise VerbFailed(msg)
    flags, fds = collect(values, _START), _pass_fds(values)
    with shell.failing(f"Failed to start domain '{domain.name}'"):
        if fds:
            shell.connection.session.exchange("DOMAIN_CREATE_WITH_FILES", domain.ref, flags, fds=fds)
        else:
            domain.start(flags)
    shell.say(f"Domain '{domain.name}' started")
    _console(shell, values, domain)


def _console(shell: Shell, values: Values, domain: Domain) -> None:
    if values.flag("console"):
        from pyhyve.cli.virsh.console import attach

        attach(shell, domain)


@verb(
    "create",
    "domain",
    "<file> [--console] [--paused] [--autodestroy] [--pass-fds <string>] [--validate] [--reset-nvram]",
    "start a domain that is forgotten when it stops",
)
def create(shell: Shell, values: Values) -> None:
    """Start a transient domain."""
    path = values.text("file")
    xml, flags, fds = read_file(path), collect(values, _START), _pass_fds(values)
    with shell.failing(f"Failed to create domain from {path}"):
        if fds:
            answer = shell.connection.session.exchange("DOMAIN_CREATE_XML_WITH_FILES", xml, flags, fds=fds).result
        else:
            answer = shell.call("DOMAIN_CREATE_XML", xml, flags)
    domain = Domain(shell.connection.session, answer.dom)
    shell.say(f"Domain '{domain.name}' created from {path}")
    _console(shell, values, domain)


@verb("define", "domain", "<file> [--validate]", "add or change a definition without starting it")
def define(shell: Shell, values: Values) -> None:
    """Define a domain."""
    path = values.text("file")
    xml, flags = read_file(path), collect(values, {"validate": 1})
    with shell.failing(f"Failed to define domain from {path}"):
        if flags:
            ref = shell.call("DOMAIN_DEFINE_XML_FLAGS", xml, flags).dom
        else:
            ref = shell.call("DOMAIN_DEFINE_XML", xml).dom
    shell.say(f"Domain '{ref.name}' defined from {path}")


@verb("destroy", "domain", "<domain> [--graceful] [--remove-logs]", "stop a domain as if the plug were pulled")
def destroy(shell: Shell, values: Values) -> None:
    """Stop at once."""
    domain = shell.domain(values)
    with shell.failing(f"Failed to destroy domain '{domain.name}'"):
        domain.destroy(collect(values, {"graceful": 1, "remove-logs": 2}))
    shell.say(f"Domain '{domain.name}' destroyed")


def _mode(values: Values, problem: str) -> int:
    flags = 0
    for word in (values.get("mode") or "").split(","):
        if not word and values.get("mode") is None:
            continue
        if word not in _SHUTDOWN_MODES:
            raise VerbFailed(problem.format(word))
        flags |= _SHUTDOWN_MODES[word]
    return flags


@verb("shutdown", "domain", "<domain> [--mode <string>]", "ask the guest to power off")
def shutdown(shell: Shell, values: Values) -> None:
    """Ask for a shutdown."""
    flags = _mode(values, "Unknown mode {} value, expecting 'acpi', 'agent', 'initctl', 'signal', or 'paravirt'")
    domain = shell.domain(values)
    with shell.failing(f"Failed to shutdown domain '{domain.name}'"):
        domain.shutdown(flags)
    shell.say(f"Domain '{domain.name}' is being shutdown")


@verb("reboot", "domain", "<domain> [--mode <string>]", "ask the guest to restart")
def reboot(shell: Shell, values: Values) -> None:
    """Ask for a restart."""
    flags = _mode(values, "Unknown mode {} value, expecting 'acpi', 'agent', 'initctl', 'signal' or 'paravirt'")
    domain = shell.domain(values)
    with shell.failing(f"Failed to reboot domain '{domain.name}'"):
        domain.reboot(flags)
    shell.say(f"Domain '{domain.name}' is being rebooted")


@verb("reset", "domain", "<domain>", "press the reset button")
def reset(shell: Shell, values: Values) -> None:
    """Reset at once."""
    domain = shell.domain(values)
    with shell.failing(f"Failed to reset domain '{domain.name}'"):
        domain.reset()
    shell.say(f"Domain '{domain.name}' was reset")


@verb("suspend", "domain", "<domain>", "stop a domain's vCPUs")
def suspend(shell: Shell, values: Values) -> None:
    """Pause."""
    domain = shell.domain(values)
    with shell.failing(f"Failed to suspend domain '{domain.name}'"):
        domain.suspend()
    shell.say(f"Domain '{domain.name}' suspended")


@verb("resume", "domain", "<domain>", "let a suspended domain run on")
def resume(shell: Shell, values: Values) -> None:
    """Run on."""
    domain = shell.domain(values)
    with shell.failing(f"Failed to resume domain '{domain.name}'"):
        domain.resume()
    shell.say(f"Domain '{domain.name}' resumed")


@verb("autostart", "domain", "<domain> [--disable]", "choose whether a domain starts with the daemon")
def autostart(shell: Shell, values: Values) -> None:
    """Mark for autostart."""
    domain, enabled = shell.domain(values), not values.flag("disable")
    un = "" if enabled else "un"
    with shell.failing(f"Failed to {un}mark domain '{domain.name}' as autostarted"):
        domain.set_autostart(enabled=enabled)
    shell.say(f"Domain '{domain.name}' {un}marked as autostarted")


@verb("domrename", "domain", "<domain> <new-name>", "give a domain another name")
def domrename(shell: Shell, values: Values) -> None:
    """Rename."""
    domain = shell.domain(values)
    domain.rename(values.text("new-name"))
    shell.say("Domain successfully renamed")


@verb(
    "undefine",
    "domain",
    "<domain> [--managed-save] [--storage <string>] [--remove-all-storage] [--delete-storage-volume-snapshots] "
    "[--wipe-storage] [--snapshots-metadata] [--checkpoints-metadata] [--nvram] [--keep-nvram] [--tpm] [--keep-tpm]",
    "remove a definition",
)
def undefine(shell: Shell, values: Values) -> None:
    """Remove a definition, and its volumes if asked."""
    exclusive(values, "nvram", "keep-nvram")
    exclusive(values, "tpm", "keep-tpm")
    exclusive(values, "storage", "remove-all-storage")
    domain = shell.domain(values)
    flags = collect(
        values,
        {
            "managed-save": 1,
            "snapshots-metadata": 2,
            "nvram": 4,
            "keep-nvram": 8,
            "checkpoints-metadata": 16,
            "tpm": 32,
            "keep-tpm": 64,
        },
    )
    volumes = _volumes_to_remove(shell, values, domain)
    if not values.flag("managed-save") and not values.flag("nvram") and domain.has_managed_save():
        msg = "Refusing to undefine while domain managed save image exists"
        raise VerbFailed(msg)
    with shell.failing(f"Failed to undefine domain '{domain.name}'"):
        domain.undefine(flags)
    shell.say(f"Domain '{domain.name}' has been undefined")
    failed = False
    for target, source, volume in volumes:
        if target == volumes[0][0]:
            shell.say()
        failed |= not _remove_volume(shell, values, target, source, volume)
    if failed:
        raise VerbFailed


def _volumes_to_remove(shell: Shell, values: Values, domain: Domain) -> list[tuple[str, str, StorageVolume]]:
    from pyhyve.cli.virsh.documents import disks
    from pyhyve.client import LibvirtError

    chosen = values.get("storage")
    if chosen is None and not values.flag("remove-all-storage"):
        return []
    if domain.is_active():
        msg = "Storage volume deletion is supported only on stopped domains"
        raise VerbFailed(msg)
    wanted = None if chosen is None else chosen.split(",")
    found = []
    for disk in disks(domain.xml()):
        if disk.source is None:
            continue
        if wanted is not None:
            names = {disk.target, disk.source} & set(wanted)
            if not names:
                continue
            wanted = [word for word in wanted if word not in names]
        elif disk.readonly or disk.shareable:
            continue
        target, source = disk.target or "", disk.source
        try:
            found.append((target, source, shell.connection.storage_volume_by_path(source)))
        except LibvirtError:
            shell.error(f"Storage volume '{target}'({source}) is not managed by libvirt. Remove it manually.\n")
    for word in wanted or ():
        msg = f"Volume '{word}' was not found in domain's definition."
        raise VerbFailed(msg)
    return found


def _remove_volume(shell: Shell, values: Values, target: str, source: str, volume: StorageVolume) -> bool:
    from pyhyve.client import LibvirtError

    try:
        if values.flag("wipe-storage"):
            shell.write(f"Wiping volume '{target}'({source}) ... ")
            volume.wipe()
            shell.print("Done.")
        volume.delete(2 if values.flag("delete-storage-volume-snapshots") else 0)
    except LibvirtError as error:
        shell.error(f"Failed to remove storage volume '{target}'({source})")
        shell.error(str(error))
        return False
    shell.print(f"Volume '{target}'({source}) removed.")
    return True


# -- memory on disk ----------------------------------------------------------------------------------------------------


@verb(
    "save",
    "domain",
    "<domain> <file> [--bypass-cache] [--xml <string>] [--running] [--paused] [--verbose]",
    "write a domain's memory to a file and stop it",
)
def save(shell: Shell, values: Values) -> None:
    """Save to a file."""
    domain, path = shell.domain(values), values.text("file")
    flags, document = collect(values, _SAVE), values.get("xml")
    xml = None if document is None else read_file(document)
    with shell.failing(f"Failed to save domain '{domain.name}' to {path}"):
        if flags or xml:
            shell.call("DOMAIN_SAVE_FLAGS", domain.ref, _absolute(path), xml, flags)
        else:
            domain.save(_absolute(path))
    shell.say(f"\nDomain '{domain.name}' saved to {path}")


def _absolute(path: str) -> str:
    import os

    return os.path.abspath(path)  # noqa: PTH100 - the daemon's path: not resolved here


@verb(
    "restore",
    "domain",
    "<file> [--bypass-cache] [--xml <string>] [--running] [--paused] [--reset-nvram]",
    "resume a domain from a file of save",
)
def restore(shell: Shell, values: Values) -> None:
    """Restore from a file."""
    path, flags, document = values.text("file"), collect(values, _SAVE), values.get("xml")
    xml = None if document is None else read_file(document)
    with shell.failing(f"Failed to restore domain from {path}"):
        if flags or xml:
            shell.call("DOMAIN_RESTORE_FLAGS", _absolute(path), xml, flags)
        else:
            shell.call("DOMAIN_RESTORE", _absolute(path))
    shell.say(f"Domain restored from {path}")


@verb("save-image-dumpxml", "domain", "<file> [--security-info] [--xpath <string>] [--wrap]", "the XML in a saved file")
def save_image_dumpxml(shell: Shell, values: Values) -> None:
    """Show a saved file's document."""
    from pyhyve.cli.virsh.documents import show

    flags = collect(values, {"security-info": 1})
    show(shell, values, shell.call("DOMAIN_SAVE_IMAGE_GET_XML_DESC", _absolute(values.text("file")), flags).xml)


@verb("save-image-define", "domain", "<file> <xml> [--running] [--paused]", "change the XML in a saved file")
def save_image_define(shell: Shell, values: Values) -> None:
    """Change a saved file's document."""
    path, flags = values.text("file"), collect(values, _SAVE)
    xml = read_file(values.text("xml"))
    with shell.failing(f"Failed to update {path}"):
        shell.call("DOMAIN_SAVE_IMAGE_DEFINE_XML", _absolute(path), xml, flags)
    shell.say(f"State file {path} updated.")


@verb("save-image-edit", "domain", "<file> [--running] [--paused]", "edit the XML in a saved file")
def save_image_edit(shell: Shell, values: Values) -> None:
    """Edit a saved file's document."""
    from pyhyve.cli.virsh.documents import edit

    path, flags = _absolute(values.text("file")), collect(values, _SAVE)
    edit(
        shell,
        shell.call("DOMAIN_SAVE_IMAGE_GET_XML_DESC", path, 1).xml,
        lambda xml: shell.call("DOMAIN_SAVE_IMAGE_DEFINE_XML", path, xml, flags),
        unchanged=f"Saved image {path} XML configuration not changed.",
        done=f"State file {path} edited.",
    )


@verb(
    "managedsave",
    "domain",
    "<domain> [--bypass-cache] [--running] [--paused] [--verbose]",
    "save where the daemon keeps it; the next start resumes",
)
def managedsave(shell: Shell, values: Values) -> None:
    """Save in the daemon's keeping."""
    domain = shell.domain(values)
    with shell.failing(f"Failed to save domain '{domain.name}' state"):
        domain.managed_save(collect(values, _SAVE))
    shell.say(f"\nDomain '{domain.name}' state saved by libvirt")


@verb("managedsave-remove", "domain", "<domain>", "discard what managedsave kept")
def managedsave_remove(shell: Shell, values: Values) -> None:
    """Discard a managed save."""
    domain = shell.domain(values)
    with shell.failing("Failed to check for domain managed save image"):
        kept = domain.has_managed_save()
    if not kept:
        shell.hint(f"Domain '{domain.name}' has no manage save image; removal skipped")
        return
    with shell.failing(f"Failed to remove managed save image for domain '{domain.name}'"):
        domain.remove_managed_save()
    shell.hint(f"Removed managedsave image for domain '{domain.name}'")


@verb(
    "managedsave-dumpxml",
    "domain",
    "<domain> [--security-info] [--xpath <string>] [--wrap]",
    "the XML managedsave kept",
)
def managedsave_dumpxml(shell: Shell, values: Values) -> None:
    """Show a managed save's document."""
    from pyhyve.cli.virsh.documents import show

    flags = collect(values, {"security-info": 1})
    show(shell, values, shell.call("DOMAIN_MANAGED_SAVE_GET_XML_DESC", shell.domain(values).ref, flags).xml)


@verb("managedsave-define", "domain", "<domain> <xml> [--running] [--paused]", "change the XML managedsave kept")
def managedsave_define(shell: Shell, values: Values) -> None:
    """Change a managed save's document."""
    domain, xml = shell.domain(values), read_file(values.text("xml"))
    with shell.failing(f"Failed to update {domain.name} XML configuration"):
        shell.call("DOMAIN_MANAGED_SAVE_DEFINE_XML", domain.ref, xml, collect(values, _SAVE))
    shell.say(f"Managed save state file of domain '{domain.name}' updated.")


@verb("managedsave-edit", "domain", "<domain> [--running] [--paused]", "edit the XML managedsave kept")
def managedsave_edit(shell: Shell, values: Values) -> None:
    """Edit a managed save's document."""
    from pyhyve.cli.virsh.documents import edit

    domain, flags = shell.domain(values), collect(values, _SAVE)
    edit(
        shell,
        shell.call("DOMAIN_MANAGED_SAVE_GET_XML_DESC", domain.ref, 1).xml,
        lambda xml: shell.call("DOMAIN_MANAGED_SAVE_DEFINE_XML", domain.ref, xml, flags),
        unchanged=f"Managed save image of domain '{domain.name}' XML configuration not changed.",
        done=f"Managed save image of Domain '{domain.name}' XML configuration edited.",
    )


@verb(
    "dump",
    "domain",
    "<domain> <file> [--live] [--crash] [--bypass-cache] [--reset] [--verbose] [--memory-only] [--format <string>]",
    "write a domain's memory for analysis",
)
def dump(shell: Shell, values: Values) -> None:
    """Dump core."""
    domain, path, flags = shell.domain(values), values.text("file"), collect(values, _DUMP)
    name = values.get("format")
    if name is not None:
        if not values.flag("memory-only"):
            msg = "--format only works with --memory-only"
            raise VerbFailed(msg)
        if name not in _DUMP_FORMATS:
            known = "'kdump-zlib', 'kdump-lzo', 'kdump-snappy', 'win-dmp' or 'elf'"
            msg = f"format '{name}' is not supported, expecting {known}"
            raise VerbFailed(msg)
    with shell.failing(f"Failed to core dump domain '{domain.name}' to {path}"):
        if name is None:
            shell.call("DOMAIN_CORE_DUMP", domain.ref, _absolute(path), flags)
        else:
            shell.call("DOMAIN_CORE_DUMP_WITH_FORMAT", domain.ref, _absolute(path), _DUMP_FORMATS[name], flags)
    shell.say(f"\nDomain '{domain.name}' dumped to {path}")


# -- what a machine does by itself -------------------------------------------------------------------------------------


@verb(
    "set-lifecycle-action", "domain", f"<domain> <type> <action> {AFFECT_USAGE}", "what to do after poweroff or a crash"
)
def set_lifecycle_action(shell: Shell, values: Values) -> None:
    """Choose what follows an event."""
    flags = affect(values)
    kind, action = values.text("type"), values.text("action")
    if kind not in _LIFECYCLE_TYPES:
        msg = f"Invalid lifecycle type '{kind}'."
        raise VerbFailed(msg)
    if action not in _LIFECYCLE_ACTIONS:
        msg = f"Invalid lifecycle action '{action}'."
        raise VerbFailed(msg)
    domain = shell.domain(values)
    with shell.failing("Unable to change lifecycle action"):
        numbers = _LIFECYCLE_TYPES.index(kind), _LIFECYCLE_ACTIONS.index(action)
        shell.call("DOMAIN_SET_LIFECYCLE_ACTION", domain.ref, *numbers, flags)


@verb("dompmsuspend", "domain", "<domain> <target> [--duration <number>]", "have the guest suspend itself")
def dompmsuspend(shell: Shell, values: Values) -> None:
    """Suspend from within."""
    domain, target = shell.domain(values), values.text("target")
    duration = values.number("duration", minimum=0) or 0
    if target not in _PM_TARGETS:
        msg = "Invalid target"
        raise VerbFailed(msg)
    with shell.failing(f"Domain '{domain.name}' could not be suspended"):
        shell.call("DOMAIN_PM_SUSPEND_FOR_DURATION", domain.ref, _PM_TARGETS[target], duration, 0)
    shell.say(f"Domain '{domain.name}' successfully suspended")


@verb("dompmwakeup", "domain", "<domain>", "wake a guest that suspended itself")
def dompmwakeup(shell: Shell, values: Values) -> None:
    """Wake."""
    domain = shell.domain(values)
    with shell.failing(f"Domain '{domain.name}' could not be woken up"):
        shell.call("DOMAIN_PM_WAKEUP", domain.ref, 0)
    shell.say(f"Domain '{domain.name}' successfully woken up")


@verb("inject-nmi", "domain", "<domain>", "send the guest a non-maskable interrupt")
def inject_nmi(shell: Shell, values: Values) -> None:
    """Inject an NMI."""
    shell.call("DOMAIN_INJECT_NMI", shell.domain(values).ref, 0)
