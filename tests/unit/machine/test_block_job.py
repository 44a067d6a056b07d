"""Jobs and those who hear of them: what an event says is so by then."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.job import Job
from pyhyve.machine.block.jobset import JobSet


class QuickJob(Job):
    kind = "stream"

    def work(self) -> None:
        if self.name == "bad":
            msg = "it cannot be done"
            raise ChangeError(msg)


class Client:
    """Acts on an event as soon as it hears it, like a client of the monitor: on a thread of its own."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.outcomes: list[object] = []
        self.acting: list[threading.Thread] = []
        self.jobs = JobSet(self.hear)

    def hear(self, name: str, data: dict[str, Any]) -> None:
        self.events.append((name, data.get("status", "")))
        if name == "BLOCK_JOB_COMPLETED":
            self.acting.append(threading.Thread(target=self.act, args=(data["device"],)))
            self.acting[-1].start()

    def act(self, name: str) -> None:
        try:
            self.jobs.need(name).dismiss()
            self.outcomes.append("dismissed")
        except ChangeError as error:
            self.outcomes.append(str(error))

    def run(self, name: str, *, auto_dismiss: bool) -> None:
        job = QuickJob(name, {"auto-dismiss": auto_dismiss}, self.jobs.tell)
        self.jobs.add(job)
        job.join()
        for thread in self.acting:
            thread.join()


@pytest.mark.parametrize("name", ["good", "bad"])
def test_job_that_is_told_to_be_complete_can_be_dismissed(name: str) -> None:
    client = Client()
    client.run(name, auto_dismiss=False)
    assert client.outcomes == ["dismissed"]
    assert [word for event, word in client.events if event == "JOB_STATUS_CHANGE"][-2:] == ["concluded", "null"]
    assert client.jobs.describe_jobs() == []


def test_job_that_goes_by_itself_is_gone_when_it_is_told_to_be_complete() -> None:
    client = Client()
    client.run("good", auto_dismiss=True)
    assert client.outcomes == ["Job not found"]
    assert [event for event, _ in client.events[-3:]] == [
        "BLOCK_JOB_COMPLETED", "JOB_STATUS_CHANGE", "JOB_STATUS_CHANGE",
    ]  # fmt: skip
    client.jobs.check_name("good")
