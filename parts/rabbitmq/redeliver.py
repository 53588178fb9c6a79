"""Moves dead letters back to the queues that they came from, once what was wrong is mended.

    docker compose run --rm model python -m parts.rabbitmq.redeliver
    docker compose run --rm model python -m parts.rabbitmq.redeliver 'the model failed'

With a text, only those whose reason holds it. Each is acknowledged when RabbitMQ has confirmed it in its old queue:
killed in between, it is there twice, and the id makes one row of it. Those that are set aside meanwhile stay.
"""

import os
import sys
from typing import Any

import pika

from parts import service
from parts.rabbitmq.connection import cause
from parts.rabbitmq.hosts import hosts
from parts.rabbitmq.publisher import DEAD_LETTERS


def redeliver(channel: Any, text: str) -> int:
    """Move those of the dead letters that are there now whose reason holds `text`; how many.

    Those whose old queue is gone stay. Raises pika's errors where RabbitMQ refuses one.
    """
    channel.confirm_delivery()
    moved, gone = 0, set()
    for _ in range(channel.queue_declare(DEAD_LETTERS, durable=True).method.message_count):
        method, properties, body = channel.basic_get(DEAD_LETTERS)
        if method is None:
            break
        headers = properties.headers or {}
        queue = headers.get("x-queue")
        if isinstance(queue, str) and len(queue.encode()) < 256 and text in str(headers.get("x-reason", "")):
            properties.headers = None
            properties.delivery_mode = pika.DeliveryMode.Persistent.value
            try:
                channel.basic_publish("", queue, body, properties, mandatory=True)
            except pika.exceptions.UnroutableError:
                gone.add(queue)
                continue
            channel.basic_ack(method.delivery_tag)
            moved += 1
    for queue in gone:
        print(f"some stay: there is no queue {queue!r}")
    return moved  # the others go back to their places when the channel closes


def main() -> None:
    # At once, whatever it does; and by a handler, without which a container's first process hears no signal.
    service.listen(lambda number, _: os._exit(128 + number))
    text = " ".join(sys.argv[1:])
    try:
        with pika.BlockingConnection(hosts()) as connection:
            print(f"moved back: {redeliver(connection.channel(), text)}")
    except (pika.exceptions.AMQPError, OSError) as error:
        sys.exit(f"the rest stays in {DEAD_LETTERS}: {cause(error)}")


if __name__ == "__main__":
    main()
