"""Runs a service that gives RabbitMQ two seconds for an answer, where the service itself waits half a minute.

    python tests/support/impatient.py features

With LOSE_ACKS=1 its first acknowledgement is lost on the way, as where the network of a cluster splits.
"""

import importlib
import os
import sys
from typing import Any

import pika.channel

from parts.rabbitmq import broker, connection

acknowledge = pika.channel.Channel.basic_ack


def lose_one(_channel: Any, *_: Any) -> None:
    pika.channel.Channel.basic_ack = acknowledge


if __name__ == "__main__":
    assert broker.ANSWER_WITHIN == connection.ANSWER_WITHIN == 30
    broker.ANSWER_WITHIN = connection.ANSWER_WITHIN = 2.0
    if os.environ.get("LOSE_ACKS"):
        pika.channel.Channel.basic_ack = lose_one
    importlib.import_module(sys.argv[1]).main()
