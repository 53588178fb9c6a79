"""In which order what a service makes by itself is published, and how much of it."""

from types import SimpleNamespace
from typing import Any, List

from parts.rabbitmq.consumer import Delivery
from parts.rabbitmq.producer import ENOUGH, Producer
from parts.rabbitmq.publisher import Message, aside
from parts.rabbitmq.wire import PIECE
from parts.service import Trouble


def produced(steps: int, size: int) -> List[str]:
    """The queues of what is published, in their order: of each step one message of so many bytes to either of two."""
    published: List[Message] = []
    producer = Producer(SimpleNamespace(blocked=Trouble()))  # type: ignore[arg-type]
    step = [Message("y_true", bytes(size)), Message("features", bytes(size))]
    producer.start(iter([step] * steps), steps, 0.0, pace=[])
    publisher: Any = SimpleNamespace(publish=published.append, waiting=0, unconfirmed_bytes=0, refused=0)
    producer.begin(publisher)
    assert not producer.steps_left
    return [message.queue for message in published]


def test_what_goes_to_two_queues_is_published_queue_by_queue():
    """Else RabbitMQ, which confirms many at once where their numbers follow each other, confirms one by one."""
    assert produced(3, 100) == ["features"] * 3 + ["y_true"] * 3


def test_large_messages_do_not_wait_for_others_to_be_made():
    assert produced(3, PIECE) == ["features", "y_true"] * 3


def test_what_rabbitmq_has_not_confirmed_counts_as_waiting():
    """It may count what a queue holds before it has queued what it was sent earlier."""
    published: List[Message] = []
    connector: Any = SimpleNamespace(blocked=Trouble(), ask=lambda: None)
    publisher: Any = SimpleNamespace(publish=published.append, waiting=0, unconfirmed_bytes=0, refused=0)
    producer = Producer(connector)
    producer.start(iter([[Message("y_true", b"")]] * ENOUGH), ENOUGH, 0.0, pace=["features", "y_true"])
    producer.begin(publisher)
    assert not published
    publisher.waiting = 100  # half of them for either queue
    producer.on_depths({"features": 30, "y_true": 20, "dead_letters": 1000})
    assert len(published) == ENOUGH - 30 - 50


def test_a_reason_is_one_line_of_what_can_be_printed():
    """Else somebody's message would clear the terminal on which the log is read."""
    headers = aside(Delivery(1, "y_true", b"", 0.0), b"", "bad \n key \x1b[2J, ж \udcff").headers
    assert headers
    assert headers["x-reason"] == r"bad key \x1b[2J, ж \udcff"
