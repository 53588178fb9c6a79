"""In which order what a service makes by itself is published."""

from types import SimpleNamespace
from typing import Any, List

from parts.rabbitmq.producer import Producer
from parts.rabbitmq.publisher import Message
from parts.rabbitmq.wire import PIECE
from parts.service import Trouble


def produced(steps: int, size: int) -> List[str]:
    """The queues of what is published, in their order: of each step one message of so many bytes to either of two."""
    published: List[Message] = []
    producer = Producer(SimpleNamespace(blocked=Trouble()))  # type: ignore[arg-type]
    step = [Message("y_true", bytes(size)), Message("features", bytes(size))]
    producer.start(iter([step] * steps), 0.0, pace=[])
    publisher: Any = SimpleNamespace(publish=published.append, waiting=0, unconfirmed_bytes=0, refused=0)
    producer.begin(None, publisher)
    assert producer.exhausted
    return [message.queue for message in published]


def test_what_goes_to_two_queues_is_published_queue_by_queue():
    """Else RabbitMQ, which confirms many at once where their numbers follow each other, confirms one by one."""
    assert produced(3, 100) == ["features"] * 3 + ["y_true"] * 3


def test_large_messages_do_not_wait_for_others_to_be_made():
    assert produced(3, PIECE) == ["features", "y_true"] * 3
