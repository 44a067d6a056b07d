from __future__ import annotations

import os
from pathlib import Path

import pytest

try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:  # in the nested machine, whose tests need none
    pass
else:
    # How long an example takes says nothing where others are at work too.
    busy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("fresh", busy)
    # A change is judged by what it changes: new examples are for the fuzzers, and for --hypothesis-profile=fresh.
    settings.register_profile("same", busy, derandomize=True)
    settings.load_profile("same")

HERE = Path(__file__).parent
WITH_OTHERS = (HERE / "guest", HERE / "conformance")
"""Tests with programs that are not ours: kernels, QEMU, libvirtd, each with races of its own."""
MAX_ASKED_AGAIN = 3
"""More failures than this are nobody's rare race."""

os.environ["PYHYVE_SYSTEM_CACHE"] = ""
"""What a test's cache holds is what the test, or its host's user, put there."""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pyhyve"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Ask tests with real guests and peers once more when they fail; both results are in the report."""
    if not config.pluginmanager.hasplugin("rerunfailures"):  # in the nested machine
        return
    for item in items:
        if any(item.path.is_relative_to(place) for place in WITH_OTHERS):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which many tests had to be asked twice has failed."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    asked_again = len(reporter.stats.get("rerun", ())) if reporter is not None else 0
    if asked_again > MAX_ASKED_AGAIN and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{asked_again} tests failed before they passed: more than {MAX_ASKED_AGAIN} are a failure")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
