"""Disks in the monitor for people: media, sizes, snapshots, jobs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyhyve.image.contract import ImageError, ImageUnsupportedError
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.monitor import queries_block
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human_commands import HumanCommands
from pyhyve.machine.monitor.human_syntax import LineError, Verb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.monitor.commands import MachineCommands


class HumanBlock(HumanCommands):
    """What people do to disks."""

    def __init__(self, commands: MachineCommands) -> None:
        super().__init__(commands)
        self.verbs = [
            Verb("eject", "", "force:-f,device:B", "[-f] device", "eject a medium (-f: force it)", self._eject),
            Verb("change", "", "device:B,force:-f,target:F,format:s?,mode:s?",
                 "device [-f] filename [format [read-only-mode]]", "put another medium into a drive", self._change),
            Verb("commit", "", "device:B", "device|all", "write an overlay's changes into what is below it",
                 self._commit),
            Verb("block_resize", "", "device:B,size:o", "device size", "change a disk's size", self._resize),
            Verb("block_stream", "", "device:B,speed:o?,base:s?", "device [speed [base]]",
                 "copy what is below a disk into it", self._stream),
            Verb("block_job_set_speed", "", "device:B,speed:o", "device speed", "limit a job's speed",
                 lambda given: self._do("block-job-set-speed", device=given["device"], speed=given["speed"])),
            Verb("block_job_cancel", "", "force:-f,device:B", "[-f] device", "end a job (-f: at once)",
                 lambda given: self._do("block-job-cancel", device=given["device"], force=given["force"])),
            *(Verb(f"block_job_{act}", "", "device:B", "device", f"{act} a job", self._job(f"block-job-{act}"))
              for act in ("complete", "pause", "resume")),
            Verb("snapshot_blkdev", "", "reuse:-n,device:B,file:s?,format:s?", "[-n] device [new-image-file] [format]",
                 "go on in a new overlay (-n: one that is there)", self._snapshot),
            Verb("snapshot_blkdev_internal", "", "device:B,name:s", "device name", "keep a snapshot inside the image",
                 lambda given: self._do("blockdev-snapshot-internal-sync", **given)),
            Verb("snapshot_delete_blkdev_internal", "", "device:B,name:s,id:s?", "device name [id]",
                 "remove a snapshot inside the image",
                 lambda given: self._do("blockdev-snapshot-delete-internal-sync", **given)),
            Verb("drive_mirror", "", "reuse:-n,full:-f,device:B,target:s,format:s?", "[-n] [-f] device target [format]",
                 "copy a disk, and go on in the copy when completed (-f: all of it; -n: the target is there)",
                 lambda given: self._copy("drive-mirror", given)),
            Verb("drive_backup", "", "reuse:-n,full:-f,device:B,target:s,format:s?", "[-n] [-f] device target [format]",
                 "copy a disk as it is now (-f: all of it; -n: the target is there)",
                 lambda given: self._copy("drive-backup", given)),
        ]  # fmt: skip

    def _job(self, name: str) -> Any:  # noqa: ANN401 - a function of a Verb
        return lambda given: self._do(name, device=given["device"])

    def _eject(self, given: Mapping[str, Any]) -> str:
        return self._do("eject", device=given["device"], force=given["force"])

    def _change(self, given: Mapping[str, Any]) -> str:
        mode = given.get("mode", "retain")
        if mode not in {"retain", "read-only", "read-write"}:
            msg = f"Parameter 'read-only-mode' does not accept value '{mode}'"
            raise QmpError(msg)
        arguments = {"device": given["device"], "filename": given["target"], "read_only_mode": mode}
        arguments |= {"force": given["force"], **({"format": given["format"]} if "format" in given else {})}
        return self._do("blockdev-change-medium", **arguments)

    def _resize(self, given: Mapping[str, Any]) -> str:
        return self._do("block_resize", device=given["device"], size=given["size"])

    def _stream(self, given: Mapping[str, Any]) -> str:
        return self._do("block-stream", **given)

    def _snapshot(self, given: Mapping[str, Any]) -> str:
        if "file" not in given:
            msg = "Parameter 'snapshot-file' is missing"
            raise QmpError(msg)
        mode = "existing" if given["reuse"] else "absolute-paths"
        arguments = {"device": given["device"], "snapshot-file": given["file"], "mode": mode}
        arguments |= {"format": given["format"]} if "format" in given else {}
        return self._do("blockdev-snapshot-sync", **arguments)

    def _copy(self, command: str, given: Mapping[str, Any]) -> str:
        arguments = {
            "device": given["device"],
            "target": given["target"],
            "sync": "full" if given["full"] else "top",
            "mode": "existing" if given["reuse"] else "absolute-paths",
        }
        arguments |= {"format": given["format"]} if "format" in given else {}
        return self._do(command, **arguments)

    # -- commit -------------------------------------------------------------------------------------------------------

    def _commit(self, given: Mapping[str, Any]) -> str:
        wanted = given["device"]
        drives = [
            attachment
            for attachment in queries_block.attachments(self._commands.inventory.hardware)
            if attachment.name and attachment.node is not None
        ]
        if wanted == "all":
            for attachment in drives:
                if attachment.node is not None and attachment.node.backing is not None:
                    self._commit_one(attachment)
            return ""
        found = next((attachment for attachment in drives if attachment.name == wanted), None)
        if found is None:
            msg = f"Device '{wanted}' not found"
            raise LineError(msg)
        self._commit_one(found)
        return ""

    def _commit_one(self, attachment: Attachment) -> None:
        from pyhyve.image.operations.chain import commit  # noqa: PLC0415 - only when it is done

        node = attachment.node
        name = attachment.name
        if node is None or node.backing is None:
            msg = f"'commit' error for '{name}': Operation not supported"
            raise LineError(msg)
        services, base = self._commands.block_services, node.backing
        above = services.above(base)
        jobs = {job["device"] for job in self._commands.execute("query-block-jobs", {})}
        if name in jobs or len(base.users) > 1 or attachment.is_wrapped:
            msg = f"'commit' error for '{name}': Device or resource busy"
            raise LineError(msg)
        was_readonly = base.need_image().readonly
        try:
            services.graph.make_writable(base, above)
            try:
                with attachment.device.drained():
                    top = node.need_image()
                    commit(top, base.need_image(), 1)
                    with suppress(ImageUnsupportedError):  # as QEMU: formats that cannot be emptied stay as they are
                        top.make_empty()
                    attachment.refresh()
            finally:
                if was_readonly:
                    services.graph.change_access(base, above, writable=False)
        except (ImageError, OSError, ChangeError) as error:
            msg = f"'commit' error for '{name}': {error}"
            raise LineError(msg) from error
