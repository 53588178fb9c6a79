"""What one channel published and RabbitMQ has not confirmed. Dies with its channel."""

import logging
import time
from collections import OrderedDict
from functools import lru_cache
from itertools import takewhile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

import pika

from parts import service
from parts.rabbitmq.consumer import Delivery

DEAD_LETTERS = "dead_letters"

#: Bytes of a message that RabbitMQ takes from version 4 on; where more is sent, it closes the channel.
#: (max_message_size, https://www.rabbitmq.com/docs/configure)
LARGEST = 16 * 1024 * 1024

PAUSE = 1.0  # seconds until what RabbitMQ refused is published again


class Message(NamedTuple):
    """A message to be published, persistent and confirmed."""

    queue: str
    body: bytes
    answers: Optional[Delivery] = None  # whose acknowledgement waits for its confirm; None: the service's own
    headers: Optional[Dict[str, str]] = None


def aside(delivery: Delivery, body: bytes, reason: str) -> Message:
    """The message that sets `body`, all or part of a bad delivery, aside unchanged, for a person to look at."""
    reason = " ".join(reason.split())[:500]  # one line, and headers must fit into one frame
    reason = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in reason)
    return Message(DEAD_LETTERS, body, delivery, {"x-queue": delivery.queue, "x-reason": reason})


def allowed(answer: Message) -> Message:
    """This answer, where RabbitMQ takes one so large; else what sets aside the delivery that it answers."""
    if len(answer.body) <= LARGEST or not answer.answers or answer.headers:
        return answer
    reason = f"its answer of {len(answer.body)} bytes is larger than RabbitMQ takes, {LARGEST}"
    return aside(answer.answers, answer.answers.body, reason)


class Publisher:
    """Publishes on one channel; tells `on_confirmed` which messages RabbitMQ has safe.

    (https://www.rabbitmq.com/docs/confirms#publisher-confirms)
    """

    def __init__(self, channel: Any, app_id: str, on_confirmed: Callable[[List[Message]], None]) -> None:
        self.channel = channel
        self._app_id = app_id
        self._on_confirmed = on_confirmed
        self._published = 0  # on this channel, as its confirms count them
        self._unconfirmed: Dict[int, Message] = OrderedDict()  # by that count
        self._refused: List[Message] = []  # by RabbitMQ, to be published again after a pause
        self._refused_at = 0.0
        self._tried_again: Set[int] = set()  # what was refused before, by that count
        self._trouble = service.Trouble()
        self._dead = service.Progress("more dead letter", "set aside", most=20, level=logging.WARNING)
        self.unconfirmed_bytes = 0
        self._heard_at = time.monotonic()  # when a confirm came, or none was due
        channel.confirm_delivery(self._on_confirm)

    @property
    def waiting(self) -> int:
        """How many messages are not confirmed."""
        return len(self._unconfirmed) + len(self._refused)

    @property
    def refused(self) -> int:
        """How many messages RabbitMQ has refused and not yet confirmed, as a full queue does."""
        return len(self._refused) + len(self._tried_again)

    def silence(self, blocked: bool) -> float:
        """For how many seconds RabbitMQ has confirmed nothing of what is due; while it blocks publishers nothing is."""
        if blocked or not self._unconfirmed:
            self._heard_at = time.monotonic()
        return time.monotonic() - self._heard_at

    def unconfirmed(self) -> List[Message]:
        """The messages that are not confirmed, in their order."""
        return [*self._refused, *self._unconfirmed.values()]

    def publish(self, message: Message) -> None:
        if message.headers and "x-service" not in message.headers:
            message.headers["x-service"] = self._app_id
            said = "a message from {x-queue} goes to dead_letters: {x-reason}".format_map(message.headers)
            self._dead.add(lambda: said)
        self._published += 1
        self._unconfirmed[self._published] = message
        self.unconfirmed_bytes += len(message.body)
        properties = _properties(self._app_id, int(time.time()), tuple((message.headers or {}).items()))
        # Mandatory: a message for a queue that someone deleted comes back instead of being confirmed
        # and gone. (https://www.rabbitmq.com/docs/publishers#unroutable)
        self.channel.connection.publish(self.channel, message.queue, properties, message.body)

    def tend(self) -> None:
        """Try those again, and only those, that RabbitMQ refused, after a pause; to be called now and then."""
        self._dead.flush()
        messages = service.counted(self.refused, "message")
        told = f"RabbitMQ refuses {messages}, as a full queue does; trying again"
        self._trouble.tell(told if self.refused else "")
        if time.monotonic() - self._refused_at >= PAUSE:
            again, self._refused = self._refused, []
            for message in again:
                self.unconfirmed_bytes -= len(message.body)
                self.publish(message)
                self._tried_again.add(self._published)

    def _on_confirm(self, frame: Any) -> None:
        self._heard_at = time.monotonic()
        newest = frame.method.delivery_tag
        several = frame.method.multiple
        numbers = list(takewhile(lambda n: n <= newest, self._unconfirmed)) if several else [newest]
        messages = [self._unconfirmed.pop(number) for number in numbers]
        self._tried_again.difference_update(numbers)
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._refused += messages
            self._refused_at = time.monotonic()
            return
        self.unconfirmed_bytes -= sum(len(message.body) for message in messages)
        self._on_confirmed(messages)


@lru_cache(maxsize=1)  # most of a second are the same
def _properties(app_id: str, timestamp: int, headers: Tuple[Tuple[str, str], ...]) -> bytes:
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        app_id=app_id,
        timestamp=timestamp,
        headers=dict(headers) or None,
    )
    return b"".join(properties.encode())
