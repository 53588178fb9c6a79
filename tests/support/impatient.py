"""Runs a service that gives RabbitMQ two seconds for a confirm, where the service itself waits half a minute.

python tests/support/impatient.py features
"""

import importlib
import sys

from parts.rabbitmq import broker

if __name__ == "__main__":
    assert broker.CONFIRM_WITHIN == 30
    broker.CONFIRM_WITHIN = 2.0
    importlib.import_module(sys.argv[1]).main()
