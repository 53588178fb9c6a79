"""One thread for the service's own work, beside the loop that talks to RabbitMQ.

While a model computes or a disk syncs, heartbeats, confirms and new deliveries go on.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, List, Optional

from pika.adapters.select_connection import IOLoop

from parts import service

LONG = 60.0  # seconds of one piece of work that are worth a log line


class Worker:
    """Does one piece of work at a time; about once a second that is to be the chores."""

    def __init__(self, loop: IOLoop) -> None:
        self.chores: List[Callable[[], Any]] = []
        self.busy_since: Optional[float] = None  # by the monotonic clock, as `_chores_due`
        self._chores_due = 0.0
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, "worker")
        self._long = service.Trouble()

    @property
    def chores_due(self) -> bool:
        return time.monotonic() >= self._chores_due

    def do_chores(self) -> None:
        try:
            for chore in self.chores:
                chore()
        finally:
            self._chores_due = time.monotonic() + 1.0  # from now on, so that other work has its turn

    def start(self, work: Callable[[], Any], then: Callable[[Future, float], None]) -> None:
        """Begin this work. When it is done, `then` is called in the loop's thread with it and the seconds it took.

        Not to be called while busy.
        """
        begun = self.busy_since = time.monotonic()

        def end(done: Future) -> None:
            self._loop.add_callback_threadsafe(partial(self._end, then, done, time.monotonic() - begun))

        self._thread.submit(work).add_done_callback(end)

    def tell_if_long(self) -> None:
        seconds = time.monotonic() - self.busy_since if self.busy_since else 0.0
        if seconds > LONG:
            self._long.is_(f"at work for {seconds:.0f} s on what was delivered together")
        else:
            self._long.over()

    def _end(self, then: Callable[[Future, float], None], done: Future, seconds: float) -> None:
        self.busy_since = None
        then(done, seconds)
