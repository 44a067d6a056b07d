"""`pyhyve.support.conditions`: behaves as `threading.Condition` on a reentrant lock."""

from __future__ import annotations

import threading

import pytest

from pyhyve.support.conditions import Condition


def test_lock_is_reentrant_and_excludes_others() -> None:
    condition, entered = Condition(), threading.Event()

    def other() -> None:
        with condition:
            entered.set()

    thread = threading.Thread(target=other)
    with condition:
        with condition:
            thread.start()
        assert not entered.wait(0.05)
    thread.join()
    assert entered.is_set()


def test_wait_lets_go_of_all_holds_and_takes_them_again() -> None:
    condition, told = Condition(), []

    def waiter() -> None:
        with condition, condition:
            while not told:
                condition.wait()
            told.append("woken")

    threads = [threading.Thread(target=waiter) for _ in range(3)]
    for thread in threads:
        thread.start()
    with condition:  # whoever came first and waits has let go of it
        told.append("told")
        condition.notify_all()
    for thread in threads:
        thread.join()
    assert told == ["told", "woken", "woken", "woken"]
    with condition:
        condition.notify_all()  # nobody waits any more


def test_wait_wants_the_lock() -> None:
    with pytest.raises(RuntimeError):
        Condition().wait()
