"""One thread for the service's own work, beside the loop that talks to RabbitMQ.

While a model computes or a disk syncs, heartbeats, confirms and new deliveries go on.
"""

import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import Any, Callable, List, NamedTuple, Optional

from pika.adapters.select_connection import IOLoop


class Outcome(NamedTuple):
    """What became of a piece of work."""

    result: Any
    error: Optional[BaseException]  # that it raised instead
    seconds: float


class Chores:
    """What is to be done about once a second."""

    def __init__(self) -> None:
        self._chores: List[Callable[[], Any]] = []
        self._next = 0.0  # by the monotonic clock

    def add(self, chore: Callable[[], Any]) -> None:
        self._chores.append(chore)

    @property
    def due(self) -> bool:
        return bool(self._chores) and time.monotonic() >= self._next

    def do(self) -> None:
        try:
            for chore in self._chores:
                chore()
        finally:
            self._next = time.monotonic() + 1.0  # from now on: deliveries have their turn, however long these took


class Worker:
    """Does one piece of work at a time."""

    def __init__(self, loop: IOLoop) -> None:
        self.busy = False
        self._loop = loop
        self._work: SimpleQueue[Any] = SimpleQueue()
        # A daemon: where a call does not end, the process may do so all the same.
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def start(self, work: Callable[[], Any], then: Callable[[Outcome], None]) -> None:
        """Begin this work; `then` is called in the loop's thread when it is done. Not to be called while busy."""
        self.busy = True
        self._work.put((work, then))

    def _run(self) -> None:
        while True:
            work, then = self._work.get()
            begun = time.monotonic()
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # of whatever kind: it is the loop's thread that has to know
                error = raised
            outcome = Outcome(result, error, time.monotonic() - begun)
            self._loop.add_callback_threadsafe(partial(self._end, then, outcome))

    def _end(self, then: Callable[[Outcome], None], outcome: Outcome) -> None:
        self.busy = False
        then(outcome)
