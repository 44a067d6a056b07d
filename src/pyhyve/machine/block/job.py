"""A job: work on disks in the background, with QEMU's life cycle (docs/interop/qapi, "Jobs")."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pyhyve.backends.block import BlockError
from pyhyve.image.contract import ImageError
from pyhyve.machine.block.errors import ChangeError
from pyhyve.support.enums import StrEnum

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.block.node import BlockNode

_LOG = logging.getLogger(__name__)
_TICK_S = 0.05
_RESUME_TIMEOUT_S = 5.0


class JobStatus(StrEnum):
    """Where a job is; values of QEMU's `JobStatus`."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    READY = "ready"
    STANDBY = "standby"
    """Ready, and paused."""
    WAITING = "waiting"
    PENDING = "pending"
    ABORTING = "aborting"
    CONCLUDED = "concluded"
    NULL = "null"


class JobCancelledError(Exception):
    """Somebody ended the job."""


class Job(ABC):
    """One job. `work` runs on its thread; `finish` and `undo` follow, as it went."""

    kind = ""
    is_block_job = True

    def __init__(self, name: str, options: dict[str, Any], tell: Callable[[str, dict[str, Any]], None]) -> None:
        """`options` are those that all jobs have: `speed`, `auto-finalize`, `auto-dismiss`."""
        self.name = name
        self.nodes: tuple[BlockNode, ...] = ()
        """What it works on, so that no other job may; nothing once its work is done, before that is told."""
        self.status = JobStatus.CREATED
        self.speed = int(options.get("speed", 0))
        self.auto_finalize = bool(options.get("auto-finalize", True))
        self.auto_dismiss = bool(options.get("auto-dismiss", True))
        self.total = 0
        self.done = 0
        self.error = ""
        self.on_null: Callable[[Job], None] | None = None
        self._tell = tell
        self._wake = threading.Condition()
        self._paused = False
        self._cancelled = self._forced = False
        self._completing = False
        self._finalized = False
        self._budget_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"pyhyve-job-{name}", daemon=True)
        if self.speed < 0:
            msg = "Parameter 'speed' expects a non-negative value"
            raise ChangeError(msg)

    # -- what a kind of job does --------------------------------------------------------------------------------------

    @abstractmethod
    def work(self) -> None:
        """The work. Raises ImageError, BlockError, OSError, ChangeError; calls `advance` often."""

    def finish(self) -> None:  # noqa: B027 - some jobs have nothing left to do
        """The work is done: make its result count. May raise as `work`."""

    def clean(self) -> None:  # noqa: B027 - as above
        """The job is over, however it went."""

    # -- steering, from any thread ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._enter(JobStatus.CREATED)
        self._enter(JobStatus.RUNNING)
        self._thread.start()

    def pause(self) -> None:
        """Stop for a while."""
        with self._wake:
            if self._paused:
                msg = f"Job '{self.name}' is already paused" if not self.is_block_job else "Job is already paused"
                raise ChangeError(msg)
            self._need({JobStatus.RUNNING, JobStatus.READY, JobStatus.CREATED}, "pause")
            self._paused = True
            self._wake.notify_all()

    def resume(self) -> None:
        """Go on."""
        with self._wake:
            if not self._paused:
                msg = "Can't resume a job that was not paused"
                raise ChangeError(msg)
            self._paused = False
            self._wake.notify_all()
            self._wake.wait_for(lambda: self.status not in {JobStatus.PAUSED, JobStatus.STANDBY}, _RESUME_TIMEOUT_S)

    def cancel(self, *, force: bool = False) -> None:
        """End the job."""
        with self._wake:
            if self.status in {JobStatus.CONCLUDED, JobStatus.NULL, JobStatus.ABORTING}:
                msg = f"Job '{self.name}' in state '{self.status}' cannot accept command verb 'cancel'"
                raise ChangeError(msg)
            self._cancelled = True
            self._forced = force
            self._paused = False
            self._wake.notify_all()

    def complete(self) -> None:
        """Have a job that is ready take its last step."""
        with self._wake:
            if self._paused or self._cancelled:
                msg = f"The active block job '{self.name}' cannot be completed"
                raise ChangeError(msg)
            self._need({JobStatus.READY}, "complete")
            self._completing = True
            self._wake.notify_all()

    def finalize(self) -> None:
        """Let a job that waits for this end."""
        with self._wake:
            self._need({JobStatus.PENDING}, "finalize")
            self._finalized = True
            self._wake.notify_all()

    def dismiss(self) -> None:
        """Forget a job that has ended."""
        with self._wake:
            self._need({JobStatus.CONCLUDED}, "dismiss")
        self._enter(JobStatus.NULL)

    def set_speed(self, speed: int) -> None:
        """Limit it to so many bytes per second; 0 is no limit."""
        if speed < 0:
            msg = "Parameter 'speed' expects a non-negative value"
            raise ChangeError(msg)
        with self._wake:
            self._need({JobStatus.RUNNING, JobStatus.READY, JobStatus.PAUSED, JobStatus.STANDBY}, "set-speed")
            self.speed = speed
            self._budget_at = time.monotonic()
            self._wake.notify_all()

    def join(self) -> None:
        """Wait for the thread."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _need(self, allowed: set[JobStatus], verb: str) -> None:
        if self.status not in allowed:
            msg = f"Job '{self.name}' in state '{self.status}' cannot accept command verb '{verb}'"
            raise ChangeError(msg)

    # -- from the work ------------------------------------------------------------------------------------------------

    def advance(self, count: int) -> None:
        """`count` bytes are done: wait while paused or too fast. Raises JobCancelledError."""
        self.done += count
        self.breathe()
        if self.speed:
            self._budget_at = max(self._budget_at, time.monotonic() - 1) + count / self.speed
            while (delay := self._budget_at - time.monotonic()) > 0 and self.speed:
                self.breathe(min(delay, _TICK_S))

    def breathe(self, seconds: float = 0) -> None:
        """Wait while paused, and for `seconds`. Raises JobCancelledError."""
        with self._wake:
            if seconds and not self._cancelled:
                self._wake.wait(seconds)
            if self._paused and not self._cancelled:
                before = self.status
                self._enter(JobStatus.STANDBY if before is JobStatus.READY else JobStatus.PAUSED)
                self._wake.wait_for(lambda: not self._paused or self._cancelled)
                self._enter(before)
                self._wake.notify_all()
            if self._cancelled and (self._forced or self.status is not JobStatus.READY):
                raise JobCancelledError

    def be_ready(self) -> None:
        """Both sides are alike from now on."""
        if self.status is not JobStatus.READY:
            self._enter(JobStatus.READY)
            self._block_event("BLOCK_JOB_READY")

    @property
    def wants_completion(self) -> bool:
        """Whether somebody asked for the last step."""
        return self._completing

    @property
    def ends_softly(self) -> bool:
        """Whether somebody wants a job that is ready to end without its last step."""
        return self._cancelled and not self._forced

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            try:
                self.work()
                self._enter(JobStatus.WAITING)
                self._await_finalize()
                self.finish()
            finally:
                self.clean()
                self.nodes = ()
        except JobCancelledError:
            self._enter(JobStatus.ABORTING)
            self._conclude("BLOCK_JOB_CANCELLED")
        except (ImageError, BlockError, OSError, ValueError, ChangeError) as error:
            self._fail(str(error) or type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs one job, not the machine
            _LOG.exception("job %s failed", self.name)
            self._fail(f"internal error: {type(error).__name__}")
        else:
            self._conclude("BLOCK_JOB_COMPLETED")

    def _await_finalize(self) -> None:
        self._enter(JobStatus.PENDING)
        if self.auto_finalize:
            return
        if self.is_block_job:
            self._tell("BLOCK_JOB_PENDING", {"type": self.kind, "id": self.name})
        with self._wake:
            self._wake.wait_for(lambda: self._finalized or self._cancelled)
            if not self._finalized:
                raise JobCancelledError

    def _fail(self, error: str) -> None:
        self.error = error
        self._enter(JobStatus.ABORTING)
        self._conclude("BLOCK_JOB_COMPLETED", error=error)

    def _conclude(self, event: str, **extra: str) -> None:
        """It is over before anybody hears so: who does may dismiss it, or start another, at once."""
        with self._wake:
            self.status = JobStatus.CONCLUDED
            if self.auto_dismiss and self.on_null is not None:
                self.on_null(self)
            self._block_event(event, **extra)
            self._tell_status(JobStatus.CONCLUDED)
            if self.auto_dismiss:
                self.status = JobStatus.NULL
                self._tell_status(JobStatus.NULL)

    def _enter(self, status: JobStatus) -> None:
        self.status = status
        if status is JobStatus.NULL and self.on_null is not None:
            self.on_null(self)
        self._tell_status(status)

    def _tell_status(self, status: JobStatus) -> None:
        self._tell("JOB_STATUS_CHANGE", {"id": self.name, "status": str(status)})

    def _block_event(self, name: str, **extra: str) -> None:
        if self.is_block_job:
            data = {"type": self.kind, "device": self.name, "len": self.total, "offset": self.done, "speed": self.speed}
            self._tell(name, {**data, **extra})

    # -- looking ------------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """`JobInfo`."""
        info: dict[str, Any] = {
            "id": self.name,
            "type": self.kind,
            "status": str(self.status),
            "current-progress": self.done,
            "total-progress": self.total,
        }
        if self.error:
            info["error"] = self.error
        return info

    def describe_block_job(self) -> dict[str, Any]:
        """`BlockJobInfo`."""
        info: dict[str, Any] = {
            "type": self.kind,
            "device": self.name,
            "len": self.total,
            "offset": self.done,
            "busy": self.status is JobStatus.RUNNING,
            "paused": self._paused,
            "speed": self.speed,
            "io-status": "ok",
            "ready": self.status in {JobStatus.READY, JobStatus.STANDBY},
            "status": str(self.status),
            "auto-finalize": self.auto_finalize,
            "auto-dismiss": self.auto_dismiss,
        }
        if self.error:
            info["error"] = self.error
        return info
