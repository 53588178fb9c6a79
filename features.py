"""features: makes samples and publishes them, the features to `features`, the true values to `y_true`.

    RABBITMQ_HOST=localhost INTERVAL=1 python features.py
    RABBITMQ_HOST=localhost INTERVAL=1 DATASET=examples/diabetes/diabetes.csv python features.py

A true value is the sum of its sample's features plus Gaussian noise; with a data set, features and true values are
its rows. Both messages of a sample carry its id; RabbitMQ confirms both, or they are published again with the same id.
"""

import math
from functools import partial
from textwrap import shorten
from typing import Callable, Iterator, List, Tuple

from parts import service, settings  # first: from here on a request to stop is kept

# isort: split
import numpy as np

from parts import dataset, messages
from parts.ids import Ids
from parts.rabbitmq.broker import Broker, Message
from parts.service import log

INTERVAL = settings.number("INTERVAL", 5.0, 0, 86400)  # seconds between messages; 0 = as fast as the others keep up
BATCH_SIZE = settings.number("BATCH_SIZE", 1, 1, 100_000, int)  # samples in one message
SAMPLES = settings.number("SAMPLES", 0, 0, 10**12, int) or math.inf  # stop after so many, all confirmed; 0 = never
N_FEATURES = settings.number("N_FEATURES", 10, 1, 100_000, int)  # numbers in one sample
NOISE = settings.number("NOISE", 0.1, 0, 1e300)  # standard deviation of the noise in y_true
SEED = settings.number("SEED", None, 0, 2**128, int)  # makes the same samples every time; unset = others every time
DATASET = settings.text("DATASET", "")  # a CSV to send over and over instead; its last column is the label
DRIFT = settings.number("DRIFT", 0.0, -1e290, 1e290)  # added to every true value; too small to make one infinite

AT_ONCE = 100  # samples made together at full speed: a sixth of the time that they take one by one
LARGEST_MESSAGE = 500_000  # numbers, at most 13 MB: RabbitMQ 4 takes messages of up to 16 MiB
ID_AND_BRACES = 3  # numbers that they take as much room as

Samples = Tuple[np.ndarray, np.ndarray]  # features, (n_samples, n_features), and true values, (n_samples,)

progress = service.Progress("sample", "published")


def generate(random: np.random.Generator, n_features: int, noise: float, n_samples: int) -> Samples:
    """Standard normal features of four decimals, and true values: their sum plus noise of that standard deviation.

    Drawn sample by sample, so that a seed makes the same ones however many are made at a time.
    """
    drawn = random.standard_normal((n_samples, n_features + 1))
    # Four decimals, as a sensor might give: readable in the queue, and written and read in half the time of 17 digits.
    X = drawn[:, :-1].round(4)
    return X, X.sum(axis=1) + noise * drawn[:, -1]


def published(take: Callable[[int], Samples], at_once: int) -> Iterator[List[Message]]:
    """The messages, step by step: a batch's true values and its features. So many samples are made at once."""
    ids = Ids()
    left = SAMPLES
    while left:
        n = int(min(at_once, left))
        left -= n
        X, y_true = take(n)
        samples = ids.take(n), X.tolist(), (y_true + DRIFT).tolist()
        for start in range(0, n, BATCH_SIZE):
            sample_ids, features, labels = (values[start : start + BATCH_SIZE] for values in samples)
            more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
            progress.add(partial("{}{}: y_true {:.4f}".format, sample_ids[-1], more, labels[-1]), len(labels))
            is_batch = BATCH_SIZE > 1
            yield [
                Message("y_true", messages.encode(sample_ids, labels, is_batch)),
                Message("features", messages.encode(sample_ids, features, is_batch)),
            ]


def source() -> Tuple[Callable[[int], Samples], int]:
    """What gives the next samples, so many, and how many features they have. A wrong data set stops the script."""
    random = np.random.default_rng(SEED)
    if not DATASET:
        return partial(generate, random, N_FEATURES, NOISE), N_FEATURES
    try:
        data = dataset.read(DATASET)
    except ValueError as error:
        settings.refuse("DATASET", DATASET, str(error))
    *names, label = (shorten(name, 100, placeholder=" …") for name in data.names)
    features = shorten(", ".join(names), 1000, placeholder=" …")
    rows = service.counted(len(data.table), "row")
    log.info("%s of %s: the features are %s, the label is %s", rows, DATASET, features, label)
    random.shuffle(data.order)  # many a file is sorted
    return data.take, len(names)


def main() -> None:
    service.start()
    take, n_features = source()
    largest = LARGEST_MESSAGE // (n_features + ID_AND_BRACES)
    if largest < BATCH_SIZE:
        settings.refuse("BATCH_SIZE", BATCH_SIZE, f"with {n_features} features it must be at most {largest}")
    broker = Broker("features", ["features", "y_true"])
    at_once = 1 if INTERVAL else max(1, min(AT_ONCE, largest) // BATCH_SIZE)
    steps = np.ceil(SAMPLES / BATCH_SIZE)
    broker.produce(published(take, at_once * BATCH_SIZE), steps, INTERVAL, pace=["features", "y_true"])
    unconfirmed = broker.run()
    if unconfirmed:
        log.warning("not confirmed before the stop: %s", service.counted(unconfirmed, "message"))
    elif not service.stop.requested:
        log.info("all %s published and confirmed", service.counted(int(SAMPLES), "sample"))


if __name__ == "__main__":
    main()
