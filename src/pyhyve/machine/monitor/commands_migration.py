"""Commands on saving the machine into a stream, and taking it from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.group import CommandGroup

if TYPE_CHECKING:
    from pyhyve.machine.dirty_rate import DirtyRate
    from pyhyve.machine.migration import Migration, MigrationStatus
    from pyhyve.machine.migration_uri import MigrationUri
    from pyhyve.machine.monitor.commands import MachineCommands

_PAGE_BYTES = 4096
_MAX_DOWNTIME_MS = 2_000_000
_MAX_BANDWIDTH = (1 << 64) - 1
_MAX_RATE_S = 60
_SAMPLES, _DEFAULT_SAMPLES = (128, 16384), 512
_SETTINGS = {
    "max_bandwidth": "max_bandwidth",
    "downtime_limit": "downtime_limit_ms",
    "cpu_throttle_initial": "throttle_initial",
    "cpu_throttle_increment": "throttle_increment",
    "max_cpu_throttle": "throttle_max",
    "throttle_trigger_threshold": "throttle_threshold",
}
"""QEMU's parameters, and ours."""
_RANGES = {
    "downtime_limit": (0, _MAX_DOWNTIME_MS, "0 to (2000 * 1000) ms"),
    "cpu_throttle_initial": (1, 99, "1 to 99"),
    "cpu_throttle_increment": (1, 99, "1 to 99"),
    "throttle_trigger_threshold": (1, 100, "1 to 100"),
}


class MigrationCommands(CommandGroup):
    """Migration, and snapshots in the disks."""

    def __init__(self, commands: MachineCommands) -> None:
        super().__init__(commands)
        self._events = False
        self._made: Migration | None = None
        self._rate: DirtyRate | None = None

    @property
    def _migration(self) -> Migration:
        if self._made is None:
            from pyhyve.machine.migration import Migration  # noqa: PLC0415 - few machines are saved

            self._made = Migration(self.machine, self._changed, self._passed)
        return self._made

    def _changed(self, status: MigrationStatus) -> None:
        if self._events:
            self.hardware.tell("MIGRATION", {"status": str(status)})

    def _passed(self, number: int) -> None:
        if self._events:
            self.hardware.tell("MIGRATION_PASS", {"pass": number})

    def _uri(self, text: str) -> MigrationUri:
        from pyhyve.machine.migration_uri import parse_uri  # noqa: PLC0415 - few machines are saved
        from pyhyve.state.errors import StateError  # noqa: PLC0415

        try:
            return parse_uri(text, self.hardware.descriptors.take_named)
        except StateError as error:
            raise QmpError(str(error)) from error

    def query_migrate_capabilities(self) -> list[dict[str, Any]]:
        """What can be switched."""
        settings = None if self._made is None else self._made.settings
        return [
            {"capability": "auto-converge", "state": settings is not None and settings.auto_converge},
            {"capability": "events", "state": self._events},
            {"capability": "return-path", "state": settings is not None and settings.return_path},
        ]

    def migrate_set_capabilities(self, capabilities: list[dict[str, Any]]) -> None:
        """Switch it."""
        if self._made is not None and self._made.status.is_under_way:
            msg = "There's a migration process in progress"
            raise QmpError(msg)
        for entry in capabilities:
            if entry["capability"] == "events":
                self._events = bool(entry["state"])
            elif entry["capability"] == "return-path":
                self._migration.settings.return_path = bool(entry["state"])
            else:
                self._migration.settings.auto_converge = bool(entry["state"])

    def query_migrate_parameters(self) -> dict[str, Any]:
        """What was set."""
        settings = self._migration.settings
        return {name.replace("_", "-"): getattr(settings, ours) for name, ours in _SETTINGS.items()}

    def migrate_set_parameters(self, **arguments: int) -> None:
        """Set them; those of a migration under way too."""
        settings = self._migration.settings
        initial = arguments.get("cpu_throttle_initial", settings.throttle_initial)
        ranges = _RANGES | {"max_cpu_throttle": (initial, 99, "cpu_throttle_initial to 99")}
        for name, value in arguments.items():
            least, most, words = ranges.get(name, (0, _MAX_BANDWIDTH, ""))
            if not least <= value <= most:
                msg = f"Parameter '{name}' expects an integer in the range of {words}"
                raise QmpError(msg)
        for name, value in arguments.items():
            setattr(settings, _SETTINGS[name], value)
        self._migration.stopped_bandwidth = arguments.get("max_bandwidth", self._migration.stopped_bandwidth)

    def migrate(
        self, uri: str, *, detach: bool = True, blk: bool = False, inc: bool = False, resume: bool = False
    ) -> None:
        """Save the machine into a stream, in the background; disks are not part of it."""
        del detach
        if blk or inc or resume:
            msg = "migration of disks, and resuming a migration, are not supported"
            raise QmpError(msg)
        from pyhyve.state.errors import StateError  # noqa: PLC0415 - few machines are saved

        try:
            self._migration.start(self._uri(uri))
        except StateError as error:
            raise QmpError(str(error)) from error

    def migrate_incoming(self, uri: str) -> None:
        """Take the machine's state from a stream; it was started with `-incoming defer`."""
        from pyhyve.state.errors import StateError  # noqa: PLC0415 - few machines are saved

        try:
            self._migration.receive(self._uri(uri))
        except StateError as error:
            raise QmpError(str(error)) from error

    def migrate_cancel(self) -> None:
        """Take the wish to save back."""
        self._migration.cancel()

    def query_migrate(self) -> dict[str, Any]:
        """How far it got."""
        if self._made is None or str(self._made.status) == "none":
            return {}
        progress, status = self._made.progress, str(self._made.status)
        info: dict[str, Any] = {"status": status, "total-time": self._made.total_ms}
        if status == "failed" and self._made.error:
            info["error-desc"] = self._made.error
        if self._made.is_incoming:
            return info
        if status == "completed":
            info["downtime"] = progress.downtime_ms
        elif progress.is_live and status == "active":
            info["expected-downtime"] = progress.expected_downtime_ms
        if progress.throttle_percent:
            info["cpu-throttle-percentage"] = progress.throttle_percent
        info["setup-time"] = progress.setup_ms
        info["ram"] = {
            "transferred": progress.transferred_bytes,
            "remaining": max(progress.remaining_bytes, 0),
            "total": progress.total_bytes,
            "duplicate": progress.zero_bytes // _PAGE_BYTES,
            "skipped": 0,
            "normal": progress.normal_bytes // _PAGE_BYTES,
            "normal-bytes": progress.normal_bytes,
            "dirty-pages-rate": progress.dirty_pages_rate,
            "mbps": round(progress.bandwidth * 8 / 1e6, 3),
            "dirty-sync-count": progress.rounds,
            "postcopy-requests": 0,
            "page-size": _PAGE_BYTES,
            "multifd-bytes": 0,
            "pages-per-second": progress.pages_per_second,
            "precopy-bytes": progress.precopy_bytes,
            "downtime-bytes": progress.transferred_bytes - progress.precopy_bytes if status == "completed" else 0,
            "postcopy-bytes": 0,
            "dirty-sync-missed-zero-copy": 0,
        }
        return info

    # -- how fast the guest writes -------------------------------------------------------------------------------------

    def calc_dirty_rate(self, calc_time: int, sample_pages: int | None = None, mode: str = "page-sampling") -> None:
        """Begin to measure."""
        if self._rate is None:
            from pyhyve.machine.dirty_rate import DirtyRate  # noqa: PLC0415 - few machines are measured

            self._rate = DirtyRate(self.machine)
        msg = ""
        if self._rate.status == "measuring":
            msg = "the dirty rate is already being measured."
        elif not 1 <= calc_time <= _MAX_RATE_S:
            msg = f"calc-time is out of range[1, {_MAX_RATE_S}]."
        elif sample_pages is not None and mode == "dirty-ring":
            msg = "either sample-pages or dirty-ring can be specified."
        elif sample_pages is not None and not _SAMPLES[0] <= sample_pages <= _SAMPLES[1]:
            msg = f"sample-pages is out of range[{_SAMPLES[0]}, {_SAMPLES[1]}]."
        elif mode == "dirty-ring" or not self._rate.is_possible:
            msg = f"mode {mode} is not enabled, use other method instead."
        elif self.machine.is_moving:
            msg = "There's a migration process in progress"
        if msg:
            raise QmpError(msg)
        self._rate.start(calc_time, mode, sample_pages or _DEFAULT_SAMPLES)

    def query_dirty_rate(self) -> dict[str, Any]:
        """What was measured last."""
        rate = self._rate
        if rate is None:
            return {
                "status": "unstarted", "start-time": 0, "calc-time": 0, "sample-pages": 0, "mode": "page-sampling",
            }  # fmt: skip
        info: dict[str, Any] = {
            "status": rate.status,
            "start-time": rate.start_time_s,
            "calc-time": rate.duration_s,
            "sample-pages": rate.sample_pages,
            "mode": rate.mode,
        }
        if rate.status == "measured":
            info["dirty-rate"] = rate.mib_per_second
        return info

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def snapshot_save(self, job_id: str, tag: str, vmstate: str, devices: list[str]) -> None:
        """Keep the machine in its disks, as a job."""
        self._job("snapshot-save", job_id, tag, vmstate, devices)

    def snapshot_load(self, job_id: str, tag: str, vmstate: str, devices: list[str]) -> None:
        """Go back to a snapshot, as a job."""
        self._job("snapshot-load", job_id, tag, vmstate, devices)

    def snapshot_delete(self, job_id: str, tag: str, devices: list[str]) -> None:
        """Remove a snapshot, as a job."""
        self._job("snapshot-delete", job_id, tag, "", devices)

    def _job(self, kind: str, name: str, tag: str, keeper: str, devices: list[str]) -> None:
        from pyhyve.machine.snapshot_jobs import SnapshotJob  # noqa: PLC0415 - few machines are saved

        jobs = self._commands.block_services.jobs
        jobs.check_name(name)
        job = SnapshotJob(kind, name, self.machine, jobs.tell)
        job.prepare(tag, keeper, devices)
        jobs.add(job)
