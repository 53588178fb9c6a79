"""What one channel delivered and has not acknowledged, and how much that may be. Dies with its channel."""

import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Set

from parts.rabbitmq.connection import Connector
from parts.rabbitmq.prefetch import FIRST, IN_HAND, MOST, fitting
from parts.service import counted

#: Bytes that a handler is given at once, whatever the number of messages; at least one message.
PORTION = 1024 * 1024

#: Seconds that a delivery waits for one of each other queue, so that what belongs together is handled together: the
#: longest where MANY wait in its queue, or MANY_BYTES of them, with fewer much shorter. Under load this halves the work
#: of metrics; where there is little, it saves a disk sync a sample, and one row in a hundred the wait for that.
SHORTEST, LONGEST, MANY, MANY_BYTES = 0.005, 0.8, 100, 128 * 1024
SOME = 0.1  # of many: where fewer wait, to take them alone, until they have caught up, would make two syncs of one
LOOK_AGAIN = 0.002  # seconds; until the next arrival it would not do: halves would go on to pair with the next sample's
QUIET = 10.0  # seconds without a delivery after which a queue is not waited for


@dataclass(eq=False)
class Delivery:
    """A message that RabbitMQ delivered and waits to have acknowledged."""

    tag: int
    queue: str
    body: bytes
    arrived: float  # by the monotonic clock
    waits_for: int = 1  # things before it is acknowledged: its handler, then the confirms of its answers


def load(waiting: Sequence[Delivery]) -> float:
    """How many of these wait in one queue; 1 is many."""
    return max(len(waiting) / MANY, len(waiting) * len(waiting[0].body) / MANY_BYTES) if waiting else 0.0


def patience(waiting: Sequence[Delivery]) -> float:
    """Seconds that the first of these, of one queue, waits for one of each other queue."""
    return max(SHORTEST, LONGEST * min(1.0, load(waiting)) ** 2)


class Consumer:
    """Consumes queues on one channel; `on_arrival` is called when there is something to `take`."""

    def __init__(
        self, channel: Any, connector: Connector, queues: Sequence[str], on_arrival: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._connector = connector
        self._on_arrival = on_arrival
        self._prefetch = 0  # as long as nothing is consumed
        self._generation = count(1)  # a consumer's tag must not come again on one channel
        self._arrived: Dict[str, Deque[Delivery]] = {queue: deque() for queue in queues}  # not handled yet
        self._last_arrival = dict.fromkeys(queues, time.monotonic())
        self._taken = dict.fromkeys(queues, 0)  # how many of each; none counts as more than MOST behind another
        self._looks: Set[float] = set()  # the seconds after which it is looked whether there is something to take
        self._in_hand: Dict[int, Delivery] = OrderedDict()  # by delivery tag
        self._bytes = 0  # of these
        self._held_back_since: Dict[str, Optional[float]] = dict.fromkeys(queues)  # the last arrival before that
        self._set_prefetch(FIRST)

    def _set_prefetch(self, prefetch: int) -> None:
        if prefetch == self._prefetch:
            return
        # It holds for consumers that are started after it. What is on its way to the old ones, pika gives back.
        # (https://www.rabbitmq.com/docs/consumer-prefetch)
        self._prefetch = prefetch
        for tag in self._channel.consumer_tags:
            self._channel.basic_cancel(tag)
        self._channel.basic_qos(prefetch_count=prefetch)
        for queue in self._arrived:
            tag = f"{self._connector.client}:{queue}:{next(self._generation)}"
            self._channel.basic_consume(queue, partial(self._on_message, queue), consumer_tag=tag)

    def _on_message(self, queue: str, _channel: Any, deliver: Any, _properties: Any, body: bytes) -> None:
        now = self._last_arrival[queue] = time.monotonic()
        delivery = self._in_hand[deliver.delivery_tag] = Delivery(deliver.delivery_tag, queue, body, now)
        self._arrived[queue].append(delivery)
        self._bytes += len(body)
        if self._bytes > IN_HAND:
            self._set_prefetch(1)  # at once: each change gives back what is on its way, and quorum queues count that
        self._look_in(0.0)  # and not now: more may have come with it

    def take(self) -> List[Delivery]:
        """The deliveries that are to be handled together, as many of each queue.

        Those of one queue wait for those of the others, but not for long. A queue that fell behind, as after a hiccup,
        catches up: as far behind for ever, its deliveries would never again be handled with what belongs to them.
        """
        now = time.monotonic()
        portion: List[Delivery] = []
        size = 0
        # Nobody waits for a queue that is quiet: predictions may be a day away.
        queues = [name for name, queue in self._arrived.items() if queue or now - self._last_arrival[name] < QUIET]
        while size < PORTION and (ready := self._ready(queues, now)):
            for name in ready:
                portion.append(self._arrived[name].popleft())
                size += len(portion[-1].body)
                self._taken[name] += 1
        most = max(self._taken.values())
        self._taken = {name: max(taken, most - MOST) for name, taken in self._taken.items()}
        if not portion and LOOK_AGAIN not in self._looks:
            # What is done, but came after what waits, for another half or for a full queue, would fill the hand.
            done = [tag for tag, delivery in self._in_hand.items() if not delivery.waits_for]
            self._acknowledge(done, multiple=False)
            if any(self._arrived.values()):
                self._look_in(LOOK_AGAIN)
        return portion

    def _ready(self, queues: Sequence[str], now: float) -> List[str]:
        """Those of these queues to take one delivery of."""
        most = max(self._taken.values())
        behind = [name for name in queues if self._taken[name] < most and load(self._arrived[name]) >= SOME]
        if behind or all(self._arrived[name] for name in queues):
            return behind or [*queues]
        waiting = [(name, self._arrived[name]) for name in queues if self._arrived[name]]
        return [name for name, queue in waiting if now - queue[0].arrived > patience(queue)]

    def _look_in(self, seconds: float) -> None:
        if seconds not in self._looks:
            self._looks.add(seconds)
            self._connector.loop.call_later(seconds, partial(self._look, seconds))

    def _look(self, seconds: float) -> None:
        self._looks.remove(seconds)
        self._on_arrival()

    def on_depths(self, depths: Dict[str, int]) -> None:
        """Leave a RabbitMQ that had some for us when it last told, has some now, and has delivered none meanwhile.

        After a split of a cluster's network it may count as in our hands what we have acknowledged, and when that is
        all that we may have, it delivers no more. (https://github.com/rabbitmq/rabbitmq-server/issues/15473)
        """
        for queue, last_arrival in self._last_arrival.items():
            held_back = depths[queue] and queue not in {each.queue for each in self._in_hand.values()}
            if held_back and self._held_back_since[queue] == last_arrival:
                self._connector.leave(f"it delivers none of {counted(depths[queue], 'message')} in {queue}")
            self._held_back_since[queue] = last_arrival if held_back else None

    def put_back(self, portion: List[Delivery]) -> None:
        """These could not be handled: they come first the next time."""
        for delivery in reversed(portion):
            self._arrived[delivery.queue].appendleft(delivery)
            self._taken[delivery.queue] -= 1

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """One thing that each of these waited for is done; acknowledge, all at once, what waits for nothing more.

        That is, the deliveries before the first that still waits.
        """
        for delivery in deliveries:
            delivery.waits_for -= 1
        settled = list(takewhile(lambda tag: not self._in_hand[tag].waits_for, self._in_hand))
        self._acknowledge(settled, multiple=True)

    def _acknowledge(self, tags: List[int], multiple: bool) -> None:
        """These deliveries: each by itself, or with `multiple` all up to the last of them."""
        self._bytes -= sum(len(self._in_hand.pop(tag).body) for tag in tags)
        for tag in tags[-1:] if multiple else tags:
            self._channel.basic_ack(tag, multiple)

    def handled(self, portion: List[Delivery], seconds: float) -> None:
        """The handler took so many seconds for these; have as many in hand from now on as suits its speed."""
        size = sum(len(delivery.body) for delivery in portion) / len(portion)
        prefetch = fitting(self._prefetch, len(portion), seconds, size)
        # More only where the hand was full, and leaves room: a change of prefetch counts what is in hand no more.
        if prefetch < self._prefetch or (len(self._in_hand) >= self._prefetch and self._bytes < IN_HAND / 2):
            self._set_prefetch(prefetch)
        self.done(portion)
