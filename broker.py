"""RabbitMQ, and the one place that knows pika: connect, declare, consume, publish with confirms, stop.

A service makes one `Broker`, says what it consumes or produces, and calls `run()`, which returns when the
service is asked to stop or has no more to produce. What holds whatever happens in between:

- A delivery is acknowledged only when its handler has returned and RabbitMQ has confirmed every message
  published in answer to it. (https://www.rabbitmq.com/docs/confirms)
- What was published on the service's own account and not confirmed when a connection broke is published
  again on the next one. Answers to deliveries are not: RabbitMQ delivers those again.
- Without a broker the service waits and tries again by itself, for ever.
"""

import logging
import re
import socket
import time
from collections import OrderedDict, deque
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, takewhile
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence
from urllib.parse import urlsplit

import pika
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

import service

log = logging.getLogger("broker")

# pika reports each failed try in a dozen lines of its own; the one line that a person needs is ours.
logging.getLogger("pika").setLevel(logging.CRITICAL)

# --- settings ---------------------------------------------------------------------------------------

RABBITMQ_HOST = service.text("RABBITMQ_HOST", "rabbitmq")  # one, or several of a cluster with commas
RABBITMQ_PORT = service.whole("RABBITMQ_PORT", 5672, 1, 65535)
RABBITMQ_USER = service.text("RABBITMQ_USER", "guest")
RABBITMQ_PASSWORD = service.text("RABBITMQ_PASSWORD", "guest")
RABBITMQ_VHOST = service.text("RABBITMQ_VHOST", "/")
RABBITMQ_URL = service.text("RABBITMQ_URL", "")  # amqp:// or amqps://, instead of all of the above

DEAD_LETTERS = "dead_letters"

#: Seconds of silence after which a connection counts as dead; RabbitMQ waits for twice as long, which is
#: how long a handler may keep the I/O loop to itself. (https://www.rabbitmq.com/docs/heartbeats)
HEARTBEAT = 30

#: Seconds between tries to connect, growing from one to the other. Of several hosts all are tried between two pauses:
#: the nodes of a cluster that was down come back one by one.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
RETRY = 1.0  # seconds until a handler that raised NotNow is called again
FINISH_WITHIN = 2.5  # seconds that a stop waits for confirms, and where need be for a connection

#: Bytes that may wait to be confirmed, whatever the number of messages, and that a handler is given at once:
#: a message may have 16 MiB.
IN_FLIGHT = 16 * 1024 * 1024
PORTION = 1024 * 1024
#: With `adapt`, a consumer begins with FIRST_PREFETCH deliveries in hand, gets twice QUICK seconds' work where the
#: handler would take less than QUICK for all it has, and half of what it had where that took more than SLOW. What one
#: replica has in hand no other can take over, a stop and the heartbeat wait for it, and yet a fast handler is not to
#: wait for RabbitMQ. Measured: of a backlog of 1,000 for 8 replicas of a model of 20 ms, two with a fixed 500 took
#: all, and so each takes its eighth; a model of 50 µs passes 1.5 times as many with 2,000 in hand as with 100.
FIRST_PREFETCH = 10
QUICK, SLOW = 0.1, 0.4

PIECE = 64 * 1024  # bytes that go to the socket at once while there is more to send


def hosts() -> List[pika.connection.Parameters]:
    """Where RabbitMQ may be found, from the settings; a wrong one stops the script."""
    if not RABBITMQ_URL:
        credentials = pika.PlainCredentials(RABBITMQ_USER, RABBITMQ_PASSWORD)
        names = [name.strip() for name in RABBITMQ_HOST.split(",")]
        if not all(names):
            service.refuse(f"RABBITMQ_HOST={RABBITMQ_HOST!r} is not allowed: it must be a host, or hosts with commas")
        return [pika.ConnectionParameters(name, RABBITMQ_PORT, RABBITMQ_VHOST, credentials) for name in names]
    try:
        return [_parse_url(url.strip()) for url in re.split(r",(?=\s*amqps?://)", RABBITMQ_URL)]
    except Exception:  # whatever pika makes of it; its text may hold the password
        shown = re.sub(r"(?<=://).*@", "***@", RABBITMQ_URL) if "@" in RABBITMQ_URL else RABBITMQ_URL
        service.refuse(
            f"RABBITMQ_URL={shown!r} is not allowed: it must be amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps://…"
        )


def _parse_url(url: str) -> pika.URLParameters:
    parts = urlsplit(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        raise ValueError
    return pika.URLParameters(url)


# --- messages ---------------------------------------------------------------------------------------


class Delivery(NamedTuple):
    """A message that RabbitMQ delivered and waits to have acknowledged."""

    tag: int
    queue: str
    body: bytes
    reply_to: Optional[str]  # the queue that its publisher wants the answer in


class Message(NamedTuple):
    """A message to be published, or published and not confirmed yet."""

    queue: str
    body: bytes
    headers: Optional[Dict[str, str]]
    answers: Optional[int]  # the tag of the delivery that it answers
    reply_to: Optional[str]


class NotNow(Exception):
    """A handler cannot do its work at the moment; the text says why. It is called again in a second.

    To be raised before the handler has published anything.
    """


class CorkableIO(SelectorIOServicesAdapter):
    """pika's I/O on a loop; while corked, what is written goes to the socket in large pieces.

    pika itself sends each of a message's three frames alone, and RabbitMQ wakes up for each. Corked, the
    pipeline takes a third more messages of one sample a second.
    """

    def __init__(self, loop: IOLoop) -> None:
        super().__init__(loop)
        self._corked = False
        self._held: List[bytes] = []
        self._held_bytes = 0
        self._send: Callable[[bytes], None] = lambda data: None

    def create_streaming_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """As pika makes it, except that its protocol writes through this object."""

        def make_protocol() -> Any:
            protocol = protocol_factory()
            connection_made = protocol.connection_made

            def connection_made_through_us(transport: Any) -> None:
                self._held, self._held_bytes = [], 0  # that was for a connection that is gone
                self._send, transport.write = transport.write, self._write
                connection_made(transport)

            protocol.connection_made = connection_made_through_us
            return protocol

        return super().create_streaming_connection(make_protocol, *args, **kwargs)

    def getaddrinfo(self, host: str, port: int, on_done: Callable[[Any], None], *args: Any, **kwargs: Any) -> Any:
        """As pika does it, without addresses for which no socket can be made: pika would fall over one."""

        def without_unusable(found: Any) -> None:
            if not isinstance(found, BaseException):
                errors = [_try_socket(*address[:3]) for address in found]
                found = [address for address, error in zip(found, errors) if not error] or errors[-1]
            on_done(found)

        return super().getaddrinfo(host, port, without_unusable, *args, **kwargs)

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Hold back what is written in this block, up to a piece at a time."""
        self._corked = True
        try:
            yield
        finally:
            self._corked = False
            self._flush()

    def _write(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if not self._corked or self._held_bytes >= PIECE:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._send(b"".join(self._held))
            self._held.clear()
            self._held_bytes = 0


def _try_socket(family: int, kind: int, protocol: int) -> Optional[OSError]:
    """Why no such socket can be made: there is no IPv6 here, too many files are open; None if one can."""
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return error
    return None


class Broker:
    """One connection and one channel to RabbitMQ for one service.

    Parameters
    ----------
    name: the service, as the management UI and the messages' `app_id` show it.
    queues: the queues that the service uses; they are declared at each connection, any other when it is published to.
    """

    def __init__(self, name: str, queues: Sequence[str]) -> None:
        self._name = name
        self._client = f"{name}@{socket.gethostname()}"
        self._queues = [*queues, DEAD_LETTERS]
        self._hosts = deque(hosts())
        for parameters in self._hosts:
            parameters.client_properties = {"connection_name": self._client}
            if parameters.heartbeat is None:
                parameters.heartbeat = HEARTBEAT

        self._loop = IOLoop()
        self._io = CorkableIO(self._loop)
        self._connection: Any = None
        self._channel: Any = None  # set while it is open and everything is declared
        self._blocked = False
        self._why_closed = ""  # where we closed the connection ourselves
        self._pause = FIRST_PAUSE
        self._closed = 0  # how many connections, or tries for one, have ended
        self._retry: Any = None  # the timer for the next try to connect
        self._handler_trouble, self._chore_trouble = service.Trouble(), service.Trouble()
        self._stopping = False  # nothing new is begun
        self._closing = False  # nothing is left to do but to say goodbye

        self._consumed: Sequence[str] = ()
        self._handle: Callable[[List[Delivery]], None] = lambda deliveries: None
        self._prefetch = self._most_prefetch = 0  # no limit: nothing is consumed
        self._adapt = False
        self._consumers: List[str] = []  # their tags, which must not come again on one channel
        self._generation = 0
        self._arrived: List[Delivery] = []  # not handled yet
        self._handling: Any = None  # the timer for the handler
        self._in_hand: Dict[int, int] = OrderedDict()  # delivery tag -> what its acknowledgement waits for

        self._make: Callable[[], bool] = lambda: True
        self._interval = 0.0
        self._window = 0  # 0 = this service produces nothing on its own
        self._due = 0.0  # when the next message is to be made, by the monotonic clock
        self._alarm: Any = None  # the timer for that
        self._all_made = False
        self._published = 0  # on this channel, as its confirms count them
        self._unconfirmed: Dict[int, Message] = OrderedDict()  # by that count
        self._unconfirmed_bytes = 0
        self._outbox: Deque[Message] = deque()  # to be published as soon as there is a channel
        self._chores: List[Callable[[], None]] = []

    # --- what a service says and calls ----------------------------------------------------------------

    def consume(
        self, queues: Sequence[str], handle: Callable[[List[Delivery]], None], prefetch: int, adapt: bool = False
    ) -> None:
        """Have `handle` called with the deliveries that arrived together, at least one.

        When it returns, each delivery is acknowledged as soon as the messages published in answer to it
        are confirmed. When it raises NotNow, they stay in hand and it is called with them again.
        At most `prefetch` deliveries a queue are in hand; with `adapt`, fewer where `handle` is slow.
        """
        self._consumed, self._handle = queues, handle
        self._adapt, self._most_prefetch = adapt, prefetch
        self._prefetch = min(FIRST_PREFETCH, prefetch) if adapt else prefetch

    def produce(self, make: Callable[[], bool], interval: float, window: int) -> None:
        """Have `make` called to publish a message's worth, every `interval` seconds (0 = at full speed).

        It isn't called while `window` messages or 16 MiB wait to be confirmed, while RabbitMQ blocks
        publishers, or without a connection. It returns whether there is more; after the last, `run`
        returns when all is confirmed.
        """
        self._make, self._interval, self._window = make, interval, window

    def every_second(self, chore: Callable[[], None]) -> None:
        """Have `chore` called about once a second, connected or not. It may raise NotNow."""
        self._chores.append(chore)

    def publish(
        self,
        queue: str,
        body: bytes,
        answers: Optional[Delivery] = None,
        headers: Optional[Dict[str, str]] = None,
        reply_to: Optional[str] = None,
    ) -> None:
        """Publish `body` to `queue`, persistent and with a confirm, in answer to a delivery or on its own.

        `reply_to` tells its consumer where the answer belongs.
        """
        message = Message(queue, body, headers, answers.tag if answers else None, reply_to)
        if self._channel:
            self._send(message)
        elif not answers:
            self._outbox.append(message)

    def set_aside(self, delivery: Delivery, body: bytes, reason: str) -> None:
        """Publish `body`, all or part of a bad delivery, unchanged to the dead letters, and say so."""
        reason = " ".join(reason.split())[:500]  # one line, and headers must fit into one frame
        log.warning("a message from %s goes to %s: %s", delivery.queue, DEAD_LETTERS, reason)
        headers = {"x-service": self._name, "x-queue": delivery.queue, "x-reason": reason}
        self.publish(DEAD_LETTERS, body, delivery, headers, delivery.reply_to)

    def run(self) -> int:
        """Work until a stop is requested or all is produced; what was begun is finished first.

        Returns how many messages of the service's own could not be confirmed in time.
        """
        self._connect()
        self._tick()
        self._do_chores()
        self._loop.start()
        return len(self._own_unconfirmed()) + len(self._outbox)

    # --- connecting: open, declare, consume; and again ------------------------------------------------

    def _connect(self) -> None:
        self._retry = None
        pika.SelectConnection(
            self._hosts[0],
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=self._io,
        )

    def _on_open(self, connection: Any) -> None:
        self._connection = connection
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(lambda _: self._start_again("a queue was deleted or moved"))
        channel.add_on_return_callback(lambda *_: self._start_again("a queue was deleted"))
        channel.confirm_delivery(self._on_confirm)
        for queue in self._queues:
            channel.queue_declare(queue, durable=True)
        # RabbitMQ works through a channel in order: when it answers this, all the queues are there.
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _: self._on_ready(channel))

    def _on_ready(self, channel: Any) -> None:
        if not channel.is_open:
            return
        log.info("connected to RabbitMQ at %s", self._where())
        self._channel = channel
        self._due = max(self._due, time.monotonic())  # what was not made while away is not made up for
        self._published = 0
        with self._io.corked():
            while self._outbox:
                self._send(self._outbox.popleft())
        if not self._stopping:
            self._start_consumers()
        self._produce()

    def _on_channel_closed(self, channel: Any, error: BaseException) -> None:
        if channel.connection.is_open:  # it was RabbitMQ that closed the channel, and nothing else
            self._start_again(_cause(error))

    def _start_again(self, reason: str) -> None:
        """Leave this connection for a new one, on which everything is declared anew."""
        self._why_closed = reason
        self._forget_channel()
        if self._connection and self._connection.is_open:
            self._connection.close()

    def _on_closed(self, _connection: Any, error: BaseException) -> None:
        self._forget_channel()
        self._connection = None
        self._blocked = False
        if self._closing:
            self._loop.stop()
            return
        reason, self._why_closed = self._why_closed or _cause(error), ""
        self._closed += 1
        pause = 0.0
        if self._closed % len(self._hosts) == 0:
            pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        log.warning("no connection to RabbitMQ at %s (%s); next try in %g s", self._where(), reason, pause)
        self._retry = self._loop.call_later(pause, self._connect)
        self._hosts.rotate(-1)
        self._close_when_done()

    def _forget_channel(self) -> None:
        self._channel = None
        self._arrived.clear()
        self._cancel_handling()
        self._handler_trouble = service.Trouble()  # it was about deliveries that are gone
        self._in_hand.clear()
        # What answers a delivery is made again when RabbitMQ delivers that again.
        self._outbox.extendleft(reversed(self._own_unconfirmed()))
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0

    def _own_unconfirmed(self) -> List[Message]:
        return [message for message in self._unconfirmed.values() if message.answers is None]

    def _where(self) -> str:
        return f"{self._hosts[0].host}:{self._hosts[0].port}"

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        log.warning("RabbitMQ blocks publishers (%s); waiting", frame.method.reason)
        self._blocked = True

    def _on_unblocked(self, *_: Any) -> None:
        log.info("RabbitMQ takes messages again")
        self._blocked = False
        self._produce()

    # --- publishing, and its confirms -----------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self._published += 1
        self._unconfirmed[self._published] = message
        self._unconfirmed_bytes += len(message.body)
        if message.answers is not None:
            self._in_hand[message.answers] += 1
        if message.queue not in self._queues:
            self._queues.append(message.queue)
            self._channel.queue_declare(message.queue, durable=True)
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent.value,
            app_id=self._name,
            timestamp=int(time.time()),
            headers=message.headers,
            reply_to=message.reply_to,
        )
        # Mandatory: a message for a queue that someone deleted comes back instead of being confirmed
        # and gone. (https://www.rabbitmq.com/docs/publishers#unroutable)
        self._channel.basic_publish("", message.queue, message.body, properties, mandatory=True)

    def _on_confirm(self, frame: Any) -> None:
        if not self._channel or self._closing:
            return  # of a channel that was given up: its messages are published again
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._start_again("RabbitMQ refused a message")
            return
        newest = frame.method.delivery_tag
        several = frame.method.multiple
        for number in list(takewhile(lambda n: n <= newest, self._unconfirmed)) if several else [newest]:
            message = self._unconfirmed.pop(number)
            self._unconfirmed_bytes -= len(message.body)
            if message.answers is not None:
                self._in_hand[message.answers] -= 1
        self._pause = FIRST_PAUSE
        self._acknowledge()
        self._produce()

    # --- consuming, handling, acknowledging -----------------------------------------------------------

    def _start_consumers(self) -> None:
        self._generation += 1
        self._consumers = [f"{self._client}:{queue}:{self._generation}" for queue in self._consumed]
        for queue, tag in zip(self._consumed, self._consumers):
            self._channel.basic_consume(queue, partial(self._on_message, queue), consumer_tag=tag)

    def _fit_prefetch(self, handled: int, seconds: float) -> None:
        """Judge by a handler's time for so many deliveries how many it should have in hand."""
        seconds = max(seconds, 1e-6)  # some clocks are coarse
        if seconds > SLOW:
            wanted = max(1, min(handled, self._prefetch) // 2)
        elif seconds * self._prefetch / handled < QUICK and len(self._in_hand) >= self._prefetch:
            wanted = min(int(2 * QUICK * handled / seconds), self._most_prefetch)
        else:
            return
        if wanted == self._prefetch:
            return
        # It holds for consumers that are started after it. What is on its way to the old ones, pika gives back.
        # (https://www.rabbitmq.com/docs/consumer-prefetch)
        self._prefetch = wanted
        for tag in self._consumers:
            self._channel.basic_cancel(tag)
        self._channel.basic_qos(prefetch_count=wanted)
        self._start_consumers()

    def _on_message(self, queue: str, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if not self._channel or self._stopping:
            return  # RabbitMQ puts it back when the connection closes
        self._in_hand[method.delivery_tag] = 1  # for the handler
        self._arrived.append(Delivery(method.delivery_tag, queue, body, properties.reply_to))
        # Once the socket is read: what arrived together is handled together, and nothing waits.
        self._handle_in(0)

    def _handle_in(self, seconds: float) -> None:
        if not self._handling:
            self._handling = self._loop.call_later(seconds, self._handle_arrived)

    def _cancel_handling(self) -> None:
        if self._handling:
            self._loop.remove_timeout(self._handling)
            self._handling = None

    def _handle_arrived(self) -> None:
        self._handling = None
        if self._stopping:
            return
        size = accumulate(len(delivery.body) for delivery in self._arrived)
        count = 1 + sum(1 for _ in takewhile(lambda total: total < PORTION, size))
        portion = self._arrived[: min(count, self._prefetch * len(self._consumed))]
        begun = time.monotonic()
        if not self._attempt(partial(self._handle, portion), self._handler_trouble):
            self._handle_in(RETRY)
            return
        self._handler_trouble.over()
        if self._adapt:
            self._fit_prefetch(len(portion), time.monotonic() - begun)
        for delivery in portion:
            self._in_hand[delivery.tag] -= 1
        del self._arrived[: len(portion)]
        if self._arrived:
            self._handle_in(0)
        self._pause = FIRST_PAUSE
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Acknowledge, all at once, the deliveries before the first that still waits for something."""
        done = list(takewhile(lambda tag: not self._in_hand[tag], self._in_hand))
        if done:
            for tag in done:
                del self._in_hand[tag]
            self._channel.basic_ack(done[-1], multiple=True)

    def _attempt(self, work: Callable[[], None], trouble: service.Trouble) -> bool:
        try:
            with self._io.corked():
                work()
        except NotNow as error:
            trouble.is_(str(error))
            return False
        return True

    # --- producing ------------------------------------------------------------------------------------

    def _produce(self) -> None:
        if self._alarm:
            self._loop.remove_timeout(self._alarm)
            self._alarm = None
        with self._io.corked():
            while self._may_produce():
                now = time.monotonic()
                if now < self._due:
                    self._alarm = self._loop.call_later(self._due - now, self._produce)
                    return
                self._due = max(self._due + self._interval, now)
                self._all_made = not self._make()
        self._close_when_done()

    def _may_produce(self) -> bool:
        free = len(self._unconfirmed) < self._window and self._unconfirmed_bytes < IN_FLIGHT
        return free and bool(self._channel) and not (self._blocked or self._all_made or self._stopping)

    # --- the clock: chores, the heartbeat, a stop -----------------------------------------------------

    def _do_chores(self) -> None:
        succeeded = [self._attempt(chore, self._chore_trouble) for chore in self._chores]
        if all(succeeded):
            self._chore_trouble.over()
        self._loop.call_later(1.0, self._do_chores)

    def _tick(self) -> None:
        trouble = self._blocked or self._handler_trouble.reason or self._chore_trouble.reason
        service.beat(bool(self._channel) and not trouble)
        if service.stop.requested and not self._stopping:
            self._stopping = True
            self._loop.call_later(FINISH_WITHIN, self._close)
            self._close_when_done()
            if self._retry and not self._closing:  # what is left is worth a last try, at once
                self._loop.remove_timeout(self._retry)
                self._connect()
        self._loop.call_later(service.TICK, self._tick)

    def _close_when_done(self) -> None:
        if (self._stopping or self._all_made) and not self._unconfirmed and not self._outbox:
            self._close()

    def _close(self) -> None:
        if self._closing:
            return
        self._stopping = self._closing = True
        if self._connection and self._connection.is_open:
            self._connection.close()  # behind the acknowledgements, then _on_closed
            self._loop.call_later(0.5, self._loop.stop)  # a broker that blocks us does not answer
        else:
            self._loop.stop()


def _cause(error: BaseException) -> str:
    """The innermost of pika's nested errors, in words; several where a host's addresses fail for several reasons."""
    tries = getattr(error, "exceptions", ())
    if tries:
        return "; ".join(dict.fromkeys(map(_cause, tries)))
    nested = [getattr(error, "exception", None), *error.args]
    for inner in nested:
        if isinstance(inner, BaseException):
            return _cause(inner)
    return getattr(error, "reply_text", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
