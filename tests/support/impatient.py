"""Runs a service that gives RabbitMQ two seconds for an answer, where the service itself waits half a minute.

python tests/support/impatient.py features
"""

import importlib
import sys

from parts.rabbitmq import broker, connection

if __name__ == "__main__":
    assert broker.ANSWER_WITHIN == connection.ANSWER_WITHIN == 30
    broker.ANSWER_WITHIN = connection.ANSWER_WITHIN = 2.0
    importlib.import_module(sys.argv[1]).main()
