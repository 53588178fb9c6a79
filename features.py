"""features: makes samples and publishes them, the features to `features`, the true values to `y_true`.

    RABBITMQ_HOST=localhost INTERVAL=1 python features.py

A true value is the sum of its sample's features plus Gaussian noise. Both messages of a sample carry its
id; RabbitMQ confirms both, or they are published again with the same id.
"""

import logging
import secrets
import time
from datetime import datetime, timezone
from typing import List, Optional, Tuple

import numpy as np

import messages
import service
from broker import Broker

INTERVAL = service.number("INTERVAL", 5.0, 0, 86400)  # seconds between messages; 0 = as fast as confirmed
BATCH_SIZE = service.whole("BATCH_SIZE", 1, 1, 100_000)  # samples in one message
SAMPLES = service.whole("SAMPLES", 0, 0, 10**12)  # stop after so many, all confirmed; 0 = never
N_FEATURES = service.whole("N_FEATURES", 10, 1, 100_000)  # numbers in one sample
NOISE = service.number("NOISE", 0.1, 0, 1e300)  # standard deviation of the noise in y_true
SEED = service.whole("SEED", None, 0, 2**128)  # makes the same data every time; unset = other data every time

WINDOW = 1000  # messages that may wait for their confirms: enough to keep the broker busy, little to send again
LARGEST_MESSAGE = 500_000  # numbers, about 10 MB: RabbitMQ 4 takes messages of up to 16 MiB

log = logging.getLogger("features")


def generate(
    random: np.random.Generator, n_samples: int, n_features: int, noise: float
) -> Tuple[np.ndarray, np.ndarray]:
    """Standard normal features of four decimals, (n_samples, n_features), and their true values, (n_samples,)."""
    # Four decimals, as a sensor might give: readable in the queue, and written and read in half the time of 17 digits.
    X = random.standard_normal((n_samples, n_features)).round(4)
    return X, X.sum(axis=1) + random.normal(0.0, noise, n_samples)


class Ids:
    """Ids that sort by time and never come twice: the microsecond in UTC and who made it.

    `20261123T104500.123456Z-9f86d081`: a process never uses a microsecond twice, and its random suffix
    tells it from the other replicas and from itself after a restart.
    """

    def __init__(self) -> None:
        self._suffix = "Z-" + secrets.token_hex(4)
        self._next = 0  # the first microsecond since 1970 that is not used yet

    def take(self, count: int) -> List[str]:
        first = max(self._next, time.time_ns() // 1000)
        self._next = first + count
        ids: List[str] = []
        while len(ids) < count:  # second by second: to format a time takes ten times as long as a number
            second, microsecond = divmod(first + len(ids), 10**6)
            name = f"{datetime.fromtimestamp(second, timezone.utc):%Y%m%dT%H%M%S}."
            end = min(microsecond + count - len(ids), 10**6)
            ids += [f"{name}{us:06}{self._suffix}" for us in range(microsecond, end)]
        return ids


def main(seed: Optional[int] = SEED) -> None:
    service.start("features")
    if BATCH_SIZE * N_FEATURES > LARGEST_MESSAGE:
        service.refuse(
            f"BATCH_SIZE={BATCH_SIZE} with N_FEATURES={N_FEATURES} is not allowed:"
            f" a message must hold at most {LARGEST_MESSAGE} numbers"
        )
    random = np.random.default_rng(seed)
    ids = Ids()
    left = SAMPLES
    progress = service.Progress("samples published")
    broker = Broker("features", ["features", "y_true"])

    def publish_a_message() -> bool:
        nonlocal left
        n = min(BATCH_SIZE, left) if SAMPLES else BATCH_SIZE
        left -= n
        X, y_true = generate(random, n, N_FEATURES, NOISE)
        sample_ids, labels = ids.take(n), y_true.tolist()
        broker.publish("y_true", messages.encode(sample_ids, labels, is_batch=BATCH_SIZE > 1))
        broker.publish("features", messages.encode(sample_ids, X.tolist(), is_batch=BATCH_SIZE > 1))
        more = f" and {n - 1} more" if n > 1 else ""
        progress.add(n, lambda: f"{sample_ids[-1]}{more}: y_true {labels[-1]:.4f}")
        return not SAMPLES or left > 0

    broker.produce(publish_a_message, INTERVAL, WINDOW)
    broker.every_second(progress.flush)
    unconfirmed = broker.run()
    if unconfirmed:
        log.warning("%d messages were not confirmed before the stop", unconfirmed)
    elif SAMPLES and not left:
        log.info("all %d samples published and confirmed", SAMPLES)


if __name__ == "__main__":
    main()
