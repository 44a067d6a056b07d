"""Starts the nested machine once the tests are collected: it works beside the others until its result is asked for.

In a process of its own: other tests change the environment, and count descriptors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

from tests.nested import machine
from tests.nested.suite import Outcome

FIXTURE = "nested_suite"
NICENESS = 10
UNAVAILABLE = 77
"""Exit status of a suite that cannot be built here."""


class BackgroundSuite:
    """The short suite, running."""

    def __init__(self) -> None:
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `wait` closes it
        command = [sys.executable, "-m", "tests.nested", "--background", str(NICENESS)]
        self._process = subprocess.Popen(
            [*machine.DIES_WITH_US, *command],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=machine.REPOSITORY,
            env=os.environ | {"PYTHONPATH": f"{machine.REPOSITORY / 'src'}{os.pathsep}{machine.REPOSITORY}"},
        )

    def wait(self) -> Outcome:
        """Its outcome; skips when it cannot be built here."""
        status = self._process.wait()
        self._output.seek(0)
        lines = self._output.read().splitlines() or ["nothing was printed"]
        self._output.close()
        if status == UNAVAILABLE:
            pytest.skip(f"the nested machine cannot be built here: {lines[-1]}")
        try:
            summary = json.loads(lines[-1])["summary"]
        except (ValueError, KeyError, TypeError):
            summary = f"exit status {status}"
        return Outcome(status == 0, summary, tuple(lines))


_RUNNING: dict[str, BackgroundSuite] = {}


def _start() -> BackgroundSuite:
    if FIXTURE not in _RUNNING:
        _RUNNING[FIXTURE] = BackgroundSuite()
    return _RUNNING[FIXTURE]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ask for the result last."""
    items.sort(key=lambda item: FIXTURE in getattr(item, "fixturenames", ()))


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any(FIXTURE in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly and machine.missing() is None:
        _start()


@pytest.fixture
def nested_suite() -> BackgroundSuite:
    reason = machine.missing()
    if reason is not None:
        pytest.skip(reason)
    return _start()
