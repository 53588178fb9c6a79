"""The messages that a service makes on its own account: made when they are due and there is room for them.

Lives as long as the process: what was not confirmed when a channel was lost is published again on the next one.
"""

import math
import time
from operator import attrgetter
from typing import Dict, Iterator, List, Optional, Sequence

from parts import service
from parts.rabbitmq.connection import Connector
from parts.rabbitmq.publisher import Message, Publisher
from parts.rabbitmq.wire import PIECE

#: Messages, and bytes of them, that may wait to be confirmed: enough to keep RabbitMQ busy, little to send again.
WINDOW, WINDOW_BYTES = 1000, 16 * 1024 * 1024

#: Messages that may wait in a queue at full speed. Measured with batches of 100: the queues stay short, and twice as
#: many rows are written as when RabbitMQ keeps a backlog.
ENOUGH = 300
ASK_AGAIN = 0.02  # seconds until RabbitMQ is asked again for the depth of queues that hold enough
PATIENCE = 5.0  # seconds for which they may hold enough before it is worth a log line


class Producer:
    """Publishes what a source makes, step by step; without a source, nothing."""

    def __init__(self, connector: Connector) -> None:
        self.steps_left = math.inf  # to make
        self.unconfirmed: List[Message] = []  # by the last channel, which is gone
        self._connector = connector
        self._source: Optional[Iterator[List[Message]]] = None
        self._interval = 0.0
        self._pace: Sequence[str] = ()
        self._due = 0.0  # when the next step is to be made, by the monotonic clock
        self._publisher: Optional[Publisher] = None  # it and the next die with their channel
        self._room = math.inf  # for so many messages more in each queue of the pace
        self._was_short = 0.0  # when these last held less than enough, by the monotonic clock
        self._trouble = service.Trouble()

    def start(self, source: Iterator[List[Message]], steps: float, interval: float, pace: Sequence[str]) -> None:
        self._source, self.steps_left, self._interval = source, steps, interval
        self._pace = pace if not interval else ()

    def begin(self, publisher: Publisher) -> None:
        """Go on on a new channel."""
        self._publisher = publisher
        self._due = max(self._due, time.monotonic())  # what was not made while away is not made up for
        for message in self.unconfirmed:
            publisher.publish(message)
        self.unconfirmed = []
        if self._pace:
            self._room, self._was_short = 0, time.monotonic()
            self._connector.ask()
        self.advance()

    def on_depths(self, depths: Dict[str, int]) -> None:
        """So many messages wait in each queue: go on while there is room in those of the pace."""
        if not self._pace or not self._publisher:
            return
        waiting = {queue: depths[queue] for queue in self._pace}
        # RabbitMQ may count before it has queued what it was sent earlier; what it has not confirmed may be to come.
        self._room = ENOUGH - max(waiting.values()) - self._publisher.waiting // len(waiting)
        if self._room <= 0:
            self._connector.loop.call_later(ASK_AGAIN, self._connector.ask)
        now = time.monotonic()
        if max(waiting.values()) < ENOUGH:
            self._was_short = now
            self._trouble.tell("")
        elif now - self._was_short > PATIENCE:
            told = ", ".join(f"{service.counted(n, 'message')} in {queue}" for queue, n in waiting.items())
            self._trouble.tell(f"waiting for consumers that keep up: {told}")
        self.advance()

    def lose(self) -> None:
        """The channel is gone, and all that it had not confirmed is to be published again."""
        if self._publisher:
            # At once: what it returned, as from a queue that was deleted, RabbitMQ confirms a moment later.
            self.unconfirmed = [message for message in self._publisher.unconfirmed() if message.answers is None]
        self._publisher = None

    def advance(self) -> None:
        """Make what is due, while there is room for it."""
        while self._publisher and (burst := self._burst(self._publisher)):
            # Queue by queue: RabbitMQ confirms many messages at once where their numbers follow each other, and what
            # goes to two queues in turn, message by message.
            for message in sorted(burst, key=attrgetter("queue")):
                self._publisher.publish(message)
            if self._room < ENOUGH / 2:  # early enough for the answer to come before there is none
                self._connector.ask()

    def _burst(self, publisher: Publisher) -> List[Message]:
        """What is due now, as much as goes to the socket at once."""
        made: List[Message] = []
        size = 0
        while self._source and size < PIECE and self._has_room(publisher):
            now = time.monotonic()
            if now < self._due:
                break
            self._due = max(self._due + self._interval, now)
            if self._interval:
                self._connector.loop.call_later(self._due - now, self.advance)
            step = next(self._source)
            self.steps_left -= 1
            made += step
            size += sum(len(message.body) for message in step)
            self._room -= 1
        return made

    def _has_room(self, publisher: Publisher) -> bool:
        room = publisher.waiting < WINDOW and publisher.unconfirmed_bytes < WINDOW_BYTES and self._room > 0
        more = self.steps_left and not service.stop.requested
        return bool(room and more and not (publisher.refused or self._connector.blocked.reason))
