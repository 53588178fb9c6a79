"""Finds a host, connects, opens a channel and declares the queues; again when it breaks.

Lives as long as the process. What depends on one connection is made anew by `on_ready` with each channel.
"""

import re
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Optional, Sequence

from pika.adapters.select_connection import IOLoop

from parts.rabbitmq.hosts import hosts
from parts.rabbitmq.wire import Connection, UsableAddresses
from parts.service import Trouble, log

#: Seconds of silence after which a connection counts as dead; RabbitMQ waits for twice as long.
#: (https://www.rabbitmq.com/docs/heartbeats)
HEARTBEAT = 30

#: Seconds between tries to connect, growing from one to the other. Of several hosts all are tried between two pauses:
#: the nodes of a cluster that was down come back one by one. A connection that held for the longest begins anew.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0

#: Seconds after which a connection is given up when no answer came, or no confirm that is due, or twice as many when
#: messages wait and none is delivered: a classic queue's process may hang. When the network of a cluster splits, what a
#: node passed on to a queue's leader may be gone for good: its channel then waits for an answer, reads nothing more,
#: and stays open.
ANSWER_WITHIN = 30.0
GOODBYE_WITHIN = 2.0  # seconds that RabbitMQ has to answer when we leave

QUEUE_DIFFERS = re.compile("RESOURCE_LOCKED|inequivalent arg")  # RabbitMQ's words for a queue that is another one


class Connector:
    """Keeps one connection with one channel open, until it is told to close.

    `on_ready` is called with each channel, when its queues are declared; `on_lost` when it is gone. `on_depths` is
    called with how many messages wait in each queue, every half minute and after each `ask`.
    """

    def __init__(
        self,
        client: str,
        queues: Sequence[str],
        on_ready: Callable[[Any], None],
        on_lost: Callable[[], None],
        on_depths: Callable[[Dict[str, int]], None],
    ) -> None:
        self.client = client
        self.loop = IOLoop()
        self.closing = False
        self.blocked = Trouble()  # RabbitMQ takes nothing from publishers
        self._on_ready, self._on_lost, self._on_depths = on_ready, on_lost, on_depths
        self._depths = dict.fromkeys(queues, 0)  # how many messages waited in each queue when it was last asked
        self._hosts: Deque[Any] = deque(hosts())
        for parameters in self._hosts:
            parameters.client_properties = {"connection_name": client}
            parameters.connection_attempts = 1  # a URL may ask for more; pika would make them without a word
            if parameters.heartbeat is None:
                parameters.heartbeat = HEARTBEAT
        self._connection: Any = None
        self._channel: Any = None
        self._ready_since: Optional[float] = None
        self._asked_at = 0.0  # by the monotonic clock
        self._answered = False  # RabbitMQ has, since then
        self._why_left = ""  # where it was we who closed the connection
        self._pause = FIRST_PAUSE
        self._failures = 0  # how many connections, or tries for one, have ended

    @property
    def where(self) -> str:
        return f"{self._hosts[0].host}:{self._hosts[0].port}"

    def connect(self) -> None:
        """Try to connect now, unless a connection is there or under way."""
        if self._connection:
            return
        self._connection = Connection(
            self._hosts[0],
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=UsableAddresses(self.loop),
        )

    def leave(self, reason: str) -> None:
        """Give this connection up for a new one, on which everything is declared anew."""
        if self._connection and self._connection.is_open:
            self._why_left = reason
            self._lose()
            self._connection.close()
            self.loop.call_later(GOODBYE_WITHIN, self._connection.abort)

    def close(self) -> None:
        """Say goodbye behind all that was written, then stop the loop."""
        self.closing = True
        self.leave("")
        # A broker that blocks us does not answer.
        self.loop.call_later(0.5 if self._connection else 0.0, self.loop.stop)

    def _on_open(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(lambda *_: self.blocked.tell(""))
        self._asked_at, self._answered = time.monotonic(), False
        self._channel = connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(lambda _: self.leave("a queue was deleted or moved"))
        channel.add_on_return_callback(lambda *_: self.leave("a queue was deleted"))
        self._answered = True
        self.ask()

    def tend(self) -> None:
        """Leave a channel that does not answer, else ask it again, behind all else; to be called often."""
        now = time.monotonic()
        if self.blocked.reason:  # it reads nothing
            self._asked_at = now
        if now - self._asked_at > ANSWER_WITHIN:
            if not self._answered:
                self.leave(f"it has answered nothing for {ANSWER_WITHIN:g} s")
            self.ask()

    def ask(self) -> None:
        """Declare the queues, unless an answer is due: RabbitMQ makes those that aren't there, and tells of all."""
        if not (self._answered and self._channel and self._channel.is_open):
            return
        self._asked_at, self._answered = time.monotonic(), False
        for queue in self._depths:
            self._channel.queue_declare(queue, durable=True, callback=self._on_declared)

    def _on_declared(self, frame: Any) -> None:
        self._depths[frame.method.queue] = frame.method.message_count
        # RabbitMQ works through a channel in order: when it answers for the last queue, all are there.
        if frame.method.queue != list(self._depths)[-1] or not (self._channel and self._channel.is_open):
            return
        self._answered = True
        if self._ready_since is None:
            log.info("connected to RabbitMQ at %s", self.where)
            self._ready_since = time.monotonic()
            self._on_ready(self._channel)
        else:
            self._on_depths(self._depths)

    def _on_channel_closed(self, _channel: Any, error: BaseException) -> None:
        reason = cause(error)
        if QUEUE_DIFFERS.search(reason):
            reason += (
                "; the queue must be durable and have no arguments:"
                " delete it in the management UI, or set another RABBITMQ_VHOST"
            )
        self.leave(reason)

    def _on_closed(self, _connection: Any, error: BaseException) -> None:
        reason = self._why_left or cause(error)
        self._lose()
        self._connection = None
        self.blocked.reason = ""
        if self.closing:
            self.loop.stop()
            return
        self._failures += 1
        pause = 0.0
        if self._failures % len(self._hosts) == 0:
            pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        problem = "left RabbitMQ" if self._why_left else "no connection to RabbitMQ"
        log.warning("%s at %s (%s); next try in %g s", problem, self.where, reason, pause)
        self._why_left = ""
        self._hosts.rotate(-1)
        self.loop.call_later(pause, self.connect)

    def _lose(self) -> None:
        self._channel = None
        if self._ready_since is not None:
            if time.monotonic() - self._ready_since > LONGEST_PAUSE:
                self._pause = FIRST_PAUSE
            self._ready_since = None
            self._on_lost()

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked.tell(f"RabbitMQ blocks publishers ({frame.method.reason}); waiting")


def cause(error: BaseException) -> str:
    """The innermost of pika's nested errors, in words; several where a host's addresses fail for several reasons."""
    nested = [*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args]
    inner = [each for each in nested if isinstance(each, BaseException)]
    if inner:
        return "; ".join(dict.fromkeys(map(cause, inner)))
    return getattr(error, "reply_text", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
