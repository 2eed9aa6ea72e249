"""The next steps' batches, made in the background while the present one is trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Prefetch"]

T = TypeVar("T")


class Prefetch(Generic[T]):
    """make(start), make(start + 1), ... in order, up to `stop` (left out) if there is one.

        with Prefetch(source.batch, start=step, ahead=2) as batches:
            for batch in batches:
                ...

    One thread keeps `ahead` results ready. An error of `make` is raised where its result would have come, and ends the
    iteration; so does leaving the block, which waits for the call that is running and drops the others.
    """

    def __init__(self, make: Callable[[int], T], start: int = 0, stop: int | None = None, ahead: int = 2) -> None:
        self.make, self.next, self.stop = make, start, stop
        self.ahead = max(1, ahead)
        self.waiting: deque[Future[T]] = deque()
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self.closed = False

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Prefetch[T]:
        return self

    def __next__(self) -> T:
        self._fill()
        if not self.waiting:
            raise StopIteration
        try:
            made = self.waiting.popleft().result()
        except BaseException:
            self.close()
            raise
        self._fill()
        return made

    def close(self) -> None:
        """Ends the thread. What was made and not taken is dropped."""
        self.closed = True
        self.waiting.clear()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        while not self.closed and len(self.waiting) < self.ahead and (self.stop is None or self.next < self.stop):
            self.waiting.append(self.pool.submit(self.make, self.next))
            self.next += 1
