"""metrics: joins true values and predictions by id and appends each pair's absolute error to a CSV.

    RABBITMQ_HOST=localhost CSV_FILE=logs/metric_log.csv STATE_FILE=/tmp/metrics.db python metrics.py

A half (one of the two values of a sample) is stored before it is acknowledged, and may wait for its other half for
weeks. An id gets at most one row, whatever is killed when; any number of replicas share the state and the CSV.
"""

import logging
from functools import partial
from typing import Iterator, List

from parts import service, settings  # first: from here on a request to stop is kept

# isort: split
from parts import messages
from parts.ledger import Halves, Known, Ledger, Paired
from parts.rabbitmq.broker import Broker, Delivery, Message, aside

CSV_FILE = settings.text("CSV_FILE", "/app/logs/metric_log.csv")
STATE_FILE = settings.text("STATE_FILE", "/app/state/metrics.db")  # what waits for its other half, and what is written
PENDING_TTL = settings.number("PENDING_TTL", 0.0, 0, 1e12)  # forget a half alone for so many seconds; 0 = never

progress = service.Progress("row", "written")
contradictions = service.Progress("more contradiction", "dropped", most=20, level=logging.WARNING)


def pair(halves: Halves, known: Known) -> Paired:
    """Join new halves with each other and with what is known; the first value of a half wins."""
    found = Paired([], [], [])
    samples: Known = {}  # known and new together, of the ids that come
    for half, ids, values in halves:
        side = int(half == "y_pred")  # of a sample
        for sample_id, value in zip(ids, values):
            sample = samples.get(sample_id)
            if sample is None:
                sample = samples[sample_id] = [*known.get(sample_id, (None, None))]
            if sample[side] is None:
                sample[side] = value
            elif sample[side] != value:
                found.contradictions.append((sample_id, half, value))
    for sample_id, sample in samples.items():
        if sample != known.get(sample_id):  # else it waits already, or is written
            (found.waiting if None in sample else found.rows).append((sample_id, sample[0], sample[1]))
    return found


def store(ledger: Ledger, deliveries: List[Delivery]) -> Iterator[Message]:
    """Put the halves in these messages into the ledger; what is to be set aside of them."""
    progress.flush()
    contradictions.flush()
    ledger.look(PENDING_TTL)
    decoded = [messages.decode(delivery.body, messages.VALUES) for delivery in deliveries]
    halves = [(delivery.queue, message.ids, message.bodies) for delivery, message in zip(deliveries, decoded)]
    paired = ledger.write(halves)  # where there are none, it begins or mends the CSV
    for contradiction in paired.contradictions:
        contradictions.add(partial("{}: a later, different {} is dropped: {!r}".format, *contradiction))
    if paired.rows:
        sample_id, y_true, y_pred = paired.rows[-1]
        line = "{}: y_true {:.4f}, y_pred {:.4f}, error {:.4f}".format
        progress.add(partial(line, sample_id, y_true, y_pred, abs(y_true - y_pred)), len(paired.rows))
    for delivery, message in zip(deliveries, decoded):
        for piece, reason in messages.offending(delivery.body, message, message.faults):
            yield aside(delivery, piece, reason)


def main() -> None:
    service.start()
    settings.differ("STATE_FILE", STATE_FILE, "CSV_FILE", CSV_FILE)
    ledger = Ledger(CSV_FILE, STATE_FILE, pair)
    broker = Broker("metrics", ["y_true", "y_pred"])
    broker.consume(["y_true", "y_pred"], partial(store, ledger))
    broker.run()
    ledger.close()


if __name__ == "__main__":
    main()
