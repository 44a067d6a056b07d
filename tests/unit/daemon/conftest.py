from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.dispatch import _HANDLERS
from pyhyve.daemon.parts import build
from pyhyve.daemon.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pyhyve.daemon.daemon import Daemon


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], Any]:
    """The registered handlers; what a test changes is undone."""
    kept = dict(_HANDLERS)
    monkeypatch.setattr("pyhyve.daemon.dispatch._HANDLERS", kept)
    return kept


@pytest.fixture
def with_daemon(tmp_path: Path) -> Callable[[Callable[[Daemon], Awaitable[None]]], None]:
    """Run a coroutine with a started daemon."""

    def run(work: Callable[[Daemon], Awaitable[None]]) -> None:
        async def whole() -> None:
            daemon = build(Paths.below(tmp_path / "daemon", "system"))
            await daemon.start()
            try:
                await asyncio.wait_for(work(daemon), 60)
            finally:
                await daemon.stop()

        asyncio.run(whole())

    return run
