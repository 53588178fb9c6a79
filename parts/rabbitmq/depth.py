"""How many messages wait in the queues that a producer fills, and how many more it may add. Dies with its channel."""

import time
from typing import Any, Callable, Dict, Sequence

from parts import service
from parts.rabbitmq.publisher import Publisher

#: Messages that may wait in a queue. Measured at full speed with batches of 100: the queues stay short, and twice as
#: many rows are written as when RabbitMQ keeps a backlog.
ENOUGH = 300
PAUSE = 0.02  # seconds until queues that hold enough are asked again
PATIENCE = 5.0  # seconds for which they may hold enough before it is worth a log line


class Depth:
    """Asks RabbitMQ for the depth of the queues while a publisher adds as many messages to each.

    `on_answer` is called when an answer has come.
    """

    def __init__(self, publisher: Publisher, loop: Any, queues: Sequence[str], on_answer: Callable[[], None]) -> None:
        self.room = 0  # for so many messages in each queue; who adds them counts it down
        self._publisher = publisher
        self._loop = loop
        self._on_answer = on_answer
        self._waiting: Dict[str, int] = dict.fromkeys(queues, 0)
        self._was_short = time.monotonic()
        self._trouble = service.Trouble()
        self._asking = False
        self.ask()

    def ask(self) -> None:
        """Ask early enough for the answer to come before there is no room."""
        channel = self._publisher.channel
        if self._asking or self.room >= ENOUGH / 2 or not channel.is_open:
            return
        self._asking = True
        for queue in self._waiting:
            # Declared as it is already, it only tells of itself; one that was deleted is there again.
            channel.queue_declare(queue, durable=True, callback=self._on_declared)

    def _on_declared(self, frame: Any) -> None:
        self._waiting[frame.method.queue] = frame.method.message_count
        if frame.method.queue != list(self._waiting)[-1]:
            return
        self._asking = False
        deepest = max(self._waiting.values())
        # RabbitMQ may count before it has queued what it was sent earlier; what it has not confirmed may be to come.
        self.room = ENOUGH - deepest - self._publisher.waiting // len(self._waiting)
        if self.room <= 0:
            self._loop.call_later(PAUSE, self.ask)
        now = time.monotonic()
        if deepest < ENOUGH:
            self._was_short = now
            self._trouble.over()
        elif now - self._was_short > PATIENCE:
            waiting = ", ".join(f"{service.counted(n, 'message')} in {queue}" for queue, n in self._waiting.items())
            self._trouble.is_(f"waiting for consumers that keep up: {waiting}")
        self._on_answer()
