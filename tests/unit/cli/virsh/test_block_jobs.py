from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.cli.virsh.verbs import block_jobs
from pyhyve.client import LibvirtError
from pyhyve.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator


class Daemon:
    """A shell whose daemon refuses the first calls."""

    def __init__(self, refusals: list[ErrorCode]) -> None:
        self.refusals = refusals
        self.calls: list[tuple[object, ...]] = []

    def call(self, *values: object) -> None:
        self.calls.append(values)
        if self.refusals:
            raise LibvirtError(self.refusals.pop(0), "not now")

    @contextlib.contextmanager
    def failing(self, _text: str) -> Iterator[None]:
        yield


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_jobs.time, "sleep", lambda _seconds: None)


def conclude(daemon: Daemon) -> None:
    shell: Any = daemon
    domain: Any = SimpleNamespace(ref="pc")
    block_jobs._conclude(shell, domain, "vda", pivot=True, finish=False)


def test_pivot_is_asked_for_again_while_the_daemon_has_not_heard_that_the_job_is_ready() -> None:
    daemon = Daemon([ErrorCode.BLOCK_COPY_ACTIVE] * 2)
    conclude(daemon)
    assert daemon.calls == [("DOMAIN_BLOCK_JOB_ABORT", "pc", "vda", 2)] * 3


def test_pivot_that_is_refused_otherwise_or_for_ever_fails() -> None:
    daemon = Daemon([ErrorCode.OPERATION_INVALID])
    with pytest.raises(LibvirtError):
        conclude(daemon)
    assert len(daemon.calls) == 1
    daemon = Daemon([ErrorCode.BLOCK_COPY_ACTIVE] * 100)
    with pytest.raises(LibvirtError):
        conclude(daemon)
    assert len(daemon.calls) == 25
