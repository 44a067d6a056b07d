"""Commands on block jobs: starting and steering them."""

from __future__ import annotations

from typing import Any

from pyhyve.machine.monitor.group import CommandGroup


class JobCommands(CommandGroup):
    """Block jobs. `device` of the `block-job-*` commands is the job's id."""

    def _start(self, kind: str, arguments: dict[str, Any]) -> None:
        from pyhyve.machine.block import starting  # noqa: PLC0415 - rarely done

        self._commands.inventory.hardware.was_changed = True
        starting.start(self._commands.block_services, kind, {k.replace("_", "-"): v for k, v in arguments.items()})

    def block_stream(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """Copy what lies below into an image."""
        self._start("stream", arguments)

    def block_commit(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """Write what lies above into an image."""
        self._start("commit", arguments)

    def blockdev_mirror(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """Copy a disk to a node and keep both alike."""
        self._start("mirror", arguments)

    def drive_mirror(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """As `blockdev_mirror`, to a file."""
        self._start("drive-mirror", arguments)

    def blockdev_backup(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """Copy a disk as it is now to a node."""
        self._start("backup", arguments)

    def drive_backup(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """As `blockdev_backup`, to a file."""
        self._start("drive-backup", arguments)

    def blockdev_create(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """Make an image."""
        self._start("create", arguments)

    # -- steering -----------------------------------------------------------------------------------------------------

    def query_block_jobs(self) -> list[dict[str, Any]]:
        """Jobs on disks."""
        return self._commands.block_services.jobs.describe_block_jobs()

    def query_jobs(self) -> list[dict[str, Any]]:
        """All jobs."""
        return self._commands.block_services.jobs.describe_jobs()

    def block_job_pause(self, device: str) -> None:
        """Stop for a while."""
        self._commands.block_services.jobs.need_block_job(device).pause()

    def block_job_resume(self, device: str) -> None:
        """Go on."""
        self._commands.block_services.jobs.need_block_job(device).resume()

    def block_job_cancel(self, device: str, *, force: bool = False) -> None:
        """End a job; a mirror that is ready ends with a copy unless forced."""
        self._commands.block_services.jobs.need_block_job(device).cancel(force=force)

    def block_job_complete(self, device: str) -> None:
        """Have a mirror that is ready take over."""
        self._commands.block_services.jobs.need_block_job(device).complete()

    def block_job_set_speed(self, device: str, speed: int) -> None:
        """Limit how fast it goes, in bytes per second; 0 is no limit."""
        self._commands.block_services.jobs.need_block_job(device).set_speed(speed)

    def block_job_dismiss(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Forget a job that has ended."""
        self._commands.block_services.jobs.need_block_job(id).dismiss()

    def block_job_finalize(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Let a job that waits for it end."""
        self._commands.block_services.jobs.need_block_job(id).finalize()

    def job_pause(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Stop for a while."""
        self._commands.block_services.jobs.need(id).pause()

    def job_resume(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Go on."""
        self._commands.block_services.jobs.need(id).resume()

    def job_cancel(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """End a job, whatever its state."""
        self._commands.block_services.jobs.need(id).cancel(force=True)

    def job_complete(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Have a mirror that is ready take over."""
        self._commands.block_services.jobs.need(id).complete()

    def job_dismiss(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Forget a job that has ended."""
        self._commands.block_services.jobs.need(id).dismiss()

    def job_finalize(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Let a job that waits for it end."""
        self._commands.block_services.jobs.need(id).finalize()
