"""RabbitMQ as a service sees it: consume, produce, publish in answer, set aside, run.

A service makes one `Broker`, says what it consumes or produces, and calls `run()`, which returns when the
service is asked to stop or has no more to produce. What holds whatever happens in between:

- A delivery is acknowledged only when its handler has returned and RabbitMQ has confirmed every message
  published in answer to it. (https://www.rabbitmq.com/docs/confirms)
- What the service published on its own account and was not confirmed when a connection broke is published
  again on the next one. Answers to deliveries are not: RabbitMQ delivers those again.
- Without a broker the service waits and tries again by itself, for ever.
"""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from parts import service
from parts.rabbitmq.connection import ANSWER_WITHIN, Connector
from parts.rabbitmq.consumer import Consumer, Delivery
from parts.rabbitmq.producer import Producer
from parts.rabbitmq.publisher import DEAD_LETTERS, Message, Publisher, allowed, aside

__all__ = ["Broker", "Delivery", "Message", "aside"]

FINISH_WITHIN = 2.5  # seconds that a stop waits for the handler and for confirms, and where need be for a connection
IDLE = 1.0  # seconds after which a handler is called without work too, and again with what it could not do
LONG = 60.0  # seconds of one call of a handler that are worth a log line

Handler = Callable[[List[Delivery]], Iterable[Message]]


class Broker:
    """RabbitMQ for one service.

    Parameters
    ----------
    name: the service, as the management UI and the messages' `app_id` show it.
    queues: the queues that the service uses; they are declared at each connection.
    """

    def __init__(self, name: str, queues: Sequence[str]) -> None:
        self._name = name
        queues = [*queues, DEAD_LETTERS]
        client = f"{name}@{socket.gethostname()}"
        self._connector = Connector(client, queues, self._on_ready, self._on_lost, self._on_depths)
        self._producer = Producer(self._connector)
        self._consumed: Sequence[str] = ()
        self._handle: Handler = lambda deliveries: ()
        self._thread = ThreadPoolExecutor(1, "handler")  # while it works, heartbeats, confirms and deliveries go on
        self._busy_since: Optional[float] = None  # by the monotonic clock, as the next
        self._idle_since = 0.0
        self._long = service.Trouble()
        self._publisher: Optional[Publisher] = None  # it and the next die with their channel
        self._consumer: Optional[Consumer] = None
        self._trouble = service.Trouble()
        self._stopping = False  # a stop is requested, and its time runs
        self._failure: Optional[BaseException] = None  # for `run` to raise

    # --- what a service says and calls ----------------------------------------------------------------

    def consume(self, queues: Sequence[str], handle: Handler) -> None:
        """Have `handle` called with the deliveries that arrived together, on a thread of its own.

        It returns what is to be published in answer: messages that name the delivery that they answer. Each
        delivery is acknowledged when its answers are confirmed. When it raises service.NotNow, all stay in hand and it
        is called with them again. Where nothing comes, connected or not, it is called without any once a second.
        """
        self._consumed, self._handle = queues, handle

    def produce(self, source: Iterator[List[Message]], steps: float, interval: float, pace: Sequence[str]) -> None:
        """Publish what `source` makes at each of so many steps, every `interval` seconds; then `run` returns.

        With an interval of 0, as fast as RabbitMQ confirms, and while the queues `pace` are short. It isn't advanced
        while many messages wait to be confirmed, while RabbitMQ blocks publishers, or without a connection.
        """
        self._producer.start(source, steps, interval, pace)

    def run(self) -> int:
        """Work until a stop is requested or all is produced; what was begun is finished first.

        Returns how many messages could not be confirmed in time. Raises what the handler raised.
        """
        self._connector.connect()
        self._tick()
        self._connector.loop.start()
        if self._failure:
            raise self._failure
        if self._busy_since:
            service.cut_off()
        return self._unconfirmed()

    # --- a channel comes and goes ---------------------------------------------------------------------

    def _on_ready(self, channel: Any) -> None:
        self._publisher = Publisher(channel, self._name, self._on_confirmed)
        self._producer.begin(self._publisher)
        self._work()

    def _on_lost(self) -> None:
        self._publisher = self._consumer = None  # what answers a delivery is made again when that comes again
        self._producer.lose()

    def _on_depths(self, depths: Dict[str, int]) -> None:
        if self._consumer:
            self._consumer.on_depths(depths)
        self._producer.on_depths(depths)

    # --- deliveries in, answers out -------------------------------------------------------------------

    def _work(self) -> None:
        """Have the handler begin with what there is to do, unless it is at work."""
        now = time.monotonic()
        rested = now - self._idle_since > IDLE
        if self._busy_since or service.stop.requested or not self._consumed or (self._trouble.reason and not rested):
            return
        if self._publisher and not self._consumer:
            # Not before: what this one has in hand while it is still busy for a connection that is gone, another could
            # begin with.
            self._consumer = Consumer(self._publisher.channel, self._connector, self._consumed, self._work)
        consumer = self._consumer
        portion = consumer.take() if consumer else []
        if portion or rested:
            self._busy_since = now
            done = self._thread.submit(lambda: list(self._handle(portion)))
            then = partial(self._on_done, consumer, portion, now, done)
            done.add_done_callback(lambda _: self._connector.loop.add_callback_threadsafe(then))

    def _on_done(self, consumer: Optional[Consumer], portion: List[Delivery], begun: float, done: Future) -> None:
        self._busy_since, self._idle_since = None, time.monotonic()
        error = done.exception()
        if isinstance(error, service.NotNow):
            self._trouble.tell(str(error))
        elif error:
            self._failure = error
            service.stop.requested = True
        else:
            self._trouble.tell("")
        if consumer and consumer is self._consumer and self._publisher:  # else RabbitMQ delivers them again
            if error:
                consumer.put_back(portion)
            elif portion:
                for message in map(allowed, done.result()):
                    if message.answers:
                        message.answers.waits_for += 1
                    self._publisher.publish(message)
                consumer.handled(portion, self._idle_since - begun)
        self._work()

    def _on_confirmed(self, messages: List[Message]) -> None:
        if self._consumer:
            self._consumer.done([message.answers for message in messages if message.answers])
        self._producer.advance()

    # --- the clock: what was refused, the heartbeat, a stop -------------------------------------------

    def _tick(self) -> None:
        self._connector.tend()
        if self._publisher:
            self._publisher.tend()
            if self._publisher.silence(bool(self._connector.blocked.reason)) > ANSWER_WITHIN:
                self._connector.leave(f"it has confirmed nothing for {ANSWER_WITHIN:g} s")
        well = self._publisher and not (
            self._publisher.refused or self._connector.blocked.reason or self._trouble.reason
        )
        service.beat(bool(well))
        busy = time.monotonic() - self._busy_since if self._busy_since else 0.0
        self._long.tell(f"at work for {busy:.0f} s on what was delivered together" if busy > LONG else "")
        self._producer.advance()
        self._work()
        if service.stop.requested and not self._stopping:
            self._stopping = True
            self._connector.loop.call_later(FINISH_WITHIN, self._connector.close)
            self._connector.connect()  # what is left is worth a last try, at once
        finished = self._stopping or not self._producer.steps_left
        if finished and not self._unconfirmed() and not self._busy_since:
            self._connector.close()
        self._connector.loop.call_later(service.TICK, self._tick)

    def _unconfirmed(self) -> int:
        return len(self._producer.unconfirmed) + (self._publisher.waiting if self._publisher else 0)
