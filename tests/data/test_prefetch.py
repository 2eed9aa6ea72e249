from __future__ import annotations

import threading
import time

import pytest

from farfield.data import Prefetch


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def square(step: int) -> int:
    return step * step


def test_results_come_in_order_from_start_to_stop() -> None:
    with Prefetch(square, start=3, stop=8, ahead=3) as results:
        assert list(results) == [9, 16, 25, 36, 49]
        assert list(results) == []
    assert threads() == []


def test_it_works_ahead_in_another_thread_but_not_too_far() -> None:
    made: list[int] = []
    release = threading.Event()

    def make(step: int) -> str:
        assert release.wait(5)
        made.append(step)
        return threading.current_thread().name

    with Prefetch(make, ahead=3) as results:
        threading.Timer(0.05, release.set).start()
        assert next(results).startswith("prefetch")
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]


def test_an_error_is_raised_in_its_place_and_ends_it() -> None:
    def make(step: int) -> int:
        return 10 // (2 - step)

    with Prefetch(make) as results:
        assert [next(results), next(results)] == [5, 10]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == []
    assert threads() == []


def test_leaving_early_ends_the_thread() -> None:
    with Prefetch(square, ahead=5) as results:
        assert next(results) == 0
    assert threads() == []
    assert list(results) == []
