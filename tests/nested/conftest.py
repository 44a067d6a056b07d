"""Starts the nested machine once the tests are collected: it works beside the others until its result is asked for."""

from __future__ import annotations

import threading

import pytest

from pyhyve.support.errors import UserError
from tests.nested import machine, suite

FIXTURE = "nested_suite"
TIMEOUT_S = 3600
NICENESS = 10


class BackgroundSuite:
    """The short suite on a thread of its own."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.outcome: suite.Outcome | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._main, name="nested-suite", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self.outcome = suite.run_suite(short=True, echo=self.lines.append, timeout_s=TIMEOUT_S, niceness=NICENESS)
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            self.error = error

    def wait(self) -> suite.Outcome:
        """Its outcome; skips when it cannot be built here."""
        self._thread.join()
        if isinstance(self.error, UserError):
            pytest.skip(f"the nested machine cannot be built here: {self.error}")
        if self.error is not None:
            raise self.error
        assert self.outcome is not None
        return self.outcome


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
