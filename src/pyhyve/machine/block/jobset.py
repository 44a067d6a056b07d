"""All jobs of one machine."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from pyhyve.machine.block.errors import ChangeError, ChangeKind
from pyhyve.machine.identifiers import is_identifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.block.job import Job
    from pyhyve.machine.block.node import BlockNode

MAX_JOBS = 64


class JobSet:
    """Jobs by name. `tell(event, data)` is called from any thread."""

    def __init__(self, tell: Callable[[str, dict[str, Any]], None]) -> None:
        self.tell = tell
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def check_name(self, name: str) -> None:
        """Raise ChangeError for a name that cannot be a new job's."""
        if not is_identifier(name):
            msg = f"Invalid job ID '{name}'"
            raise ChangeError(msg)
        if name in self._jobs:
            msg = f"Job ID '{name}' already in use"
            raise ChangeError(msg)
        if len(self._jobs) >= MAX_JOBS:
            msg = f"there are {MAX_JOBS} jobs already"
            raise ChangeError(msg)

    def add(self, job: Job) -> None:
        """Start `job`."""
        with self._lock:
            self._jobs[job.name] = job
        job.on_null = self._forget
        job.start()

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._jobs.pop(job.name, None)

    def need(self, name: str) -> Job:
        """The job called `name`. Raises ChangeError."""
        job = self._jobs.get(name)
        if job is None:
            msg = "Job not found"
            raise ChangeError(msg)
        return job

    def need_block_job(self, name: str) -> Job:
        """The job called `name`, which is one on a disk. Raises ChangeError."""
        job = self._jobs.get(name)
        if job is None or not job.is_block_job:
            msg = f"Block job '{name}' not found"
            raise ChangeError(msg, ChangeKind.NOT_ACTIVE)
        return job

    def at_work_on(self, node: BlockNode) -> Job | None:
        """The job that has `node`, or one below it."""
        chain = list(node.chain())
        for job in list(self._jobs.values()):
            if any(below is own for below in chain for own in job.nodes):
                return job
        return None

    def describe_jobs(self) -> list[dict[str, Any]]:
        """`JobInfo` of each."""
        return [job.describe() for job in list(self._jobs.values())]

    def describe_block_jobs(self) -> list[dict[str, Any]]:
        """`BlockJobInfo` of each on a disk."""
        return [job.describe_block_job() for job in list(self._jobs.values()) if job.is_block_job]

    def close(self) -> None:
        """End all, for the machine's end."""
        self.tell = _nothing
        jobs = list(self._jobs.values())
        for job in jobs:
            job.auto_dismiss = True
            with contextlib.suppress(ChangeError):
                job.cancel(force=True)
        for job in jobs:
            job.join()


def _nothing(_name: str, _data: dict[str, Any]) -> None:
    """Nobody listens any more."""
