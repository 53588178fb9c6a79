"""features: makes samples and publishes them, the features to `features`, the true values to `y_true`.

    RABBITMQ_HOST=localhost INTERVAL=1 python features.py
    RABBITMQ_HOST=localhost INTERVAL=1 DATASET=examples/diabetes/diabetes.csv python features.py

A true value is the sum of its sample's features plus Gaussian noise; with a data set, features and true values are
its rows. Both messages of a sample carry its id; RabbitMQ confirms both, or they are published again with the same id.
"""

import csv
import itertools
import logging
import math
import os
import secrets
import time
from datetime import datetime, timezone
from textwrap import shorten
from typing import Callable, List, NamedTuple, Tuple

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
DATASET = service.text("DATASET", "")  # a CSV to send over and over instead; its last column is the label
SHARDS = service.whole("SHARDS", 1, 1, 100)  # of metrics, each with its own two queues, that take turns


class Drift(NamedTuple):
    """From sample `start` on, the first being 1, all true values are higher by `shift`."""

    start: int
    shift: float


def _drift(text: str) -> Drift:
    start, shift = text.split(":")
    drift = Drift(int(start), float(shift))
    if drift.start < 1 or not math.isfinite(drift.shift):
        raise ValueError
    return drift


DRIFT = service.setting("DRIFT", None, _drift, "SAMPLE:SHIFT, as in 500:0.5, to add 0.5 to y_true from sample 500 on")

WINDOW = 1000  # messages that may wait for their confirms: enough to keep the broker busy, little to send again
LARGEST_MESSAGE = 500_000  # numbers, at most 13 MB: RabbitMQ 4 takes messages of up to 16 MiB
ID_AND_BRACES = 3  # numbers that they take as much room as
LARGEST_DATASET = 20_000_000  # numbers, 160 MB in memory
LONGEST_HEADER = 4_000_000  # characters; what has no line's end before is no CSV
BLOCK = 4_000_000  # characters of a data set that are read at a time

log = logging.getLogger("features")


Samples = Tuple[np.ndarray, np.ndarray]  # features, (n_samples, n_features), and true values, (n_samples,)


def generate(random: np.random.Generator, n_samples: int, n_features: int, noise: float) -> Samples:
    """Standard normal features of four decimals, and true values: their sum plus noise of that deviation."""
    # Four decimals, as a sensor might give: readable in the queue, and written and read in half the time of 17 digits.
    X = random.standard_normal((n_samples, n_features)).round(4)
    return X, X.sum(axis=1) + random.normal(0.0, noise, n_samples)


class Dataset:
    """The rows of a CSV over and over, each time in another random order."""

    def __init__(self, names: List[str], table: np.ndarray) -> None:
        self.names = names  # of the columns, the label's last
        self.table = table  # (n_rows, n_features + 1) float64
        self._order = np.empty(0, dtype=np.int64)

    def take(self, random: np.random.Generator, n_samples: int) -> Samples:
        while len(self._order) < n_samples:
            self._order = np.concatenate((self._order, random.permutation(len(self.table))))
        rows = self.table[self._order[:n_samples]]
        self._order = self._order[n_samples:]
        return rows[:, :-1], rows[:, -1]


def read_dataset(path: str) -> Dataset:
    """A CSV of finite numbers with a header. Raises OSError, or ValueError that names line and column."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it must be a file")
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        names = _cells(file.readline(LONGEST_HEADER))
        if len(names) < 2 or any(_is_finite(name) for name in names):
            raise ValueError("its first line must name the columns, two or more with commas between, the label last")
        blocks: List[np.ndarray] = []
        first, size = 2, 0
        for lines in iter(lambda: file.readlines(BLOCK), []):
            blocks.append(_block(lines, first, names))
            first += len(lines)
            size += blocks[-1].size
            if size > LARGEST_DATASET:
                raise ValueError(f"it must hold at most {LARGEST_DATASET:,} numbers")
    if not size:
        raise ValueError("it must have a row below its header")
    return Dataset(names, np.concatenate(blocks))


def _block(lines: List[str], first: int, names: List[str]) -> np.ndarray:
    """The numbers in these lines, the first of which has the number `first`; (n_rows, n_columns)."""
    rows = [line for line in lines if not line.isspace()]
    try:
        block = np.loadtxt(rows, delimiter=",", comments=None, quotechar='"', ndmin=2) if rows else np.empty((0, 0))
        if not rows or (block.shape[1] == len(names) and np.isfinite(block).all()):
            return block.reshape(-1, len(names))
        unread = ""
    except ValueError as error:
        unread = str(error)
    for number, line in enumerate(lines, first):  # slowly now: where is it wrong?
        if line.isspace():
            continue
        cells = _cells(line)
        if len(cells) != len(names):
            raise ValueError(f"line {number} must have {len(names)} columns as the header, not {len(cells)}")
        for name, cell in zip(names, cells):
            if not _is_finite(cell):
                raise ValueError(f"line {number}, column {name!r}: {cell[:50]!r} must be a finite number")
    raise ValueError(f"lines {first} to {first + len(lines) - 1} must hold numbers: {unread}")


def _cells(line: str) -> List[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]
    except csv.Error:  # as binary files give
        return [line]


def _is_finite(cell: str) -> bool:
    try:  # float() takes 1_000 and other alphabets' digits too
        return math.isfinite(float(cell)) and "_" not in cell and cell.isascii()
    except ValueError:
        return False


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


def source(random: np.random.Generator) -> Tuple[Callable[[int], Samples], int]:
    """What makes samples, given how many: the data set where one is set, else the generator; and their width."""
    if not DATASET:
        return lambda n: generate(random, n, N_FEATURES, NOISE), N_FEATURES
    try:
        dataset = read_dataset(DATASET)
    except OSError as error:
        service.refuse(f"DATASET={DATASET!r} is not allowed: it must be a CSV that can be read: {error.strerror}")
    except ValueError as error:
        service.refuse(f"DATASET={DATASET!r} is not allowed: {error}")
    *names, label = dataset.names
    log.info(
        "%d rows of %s: the features are %s, the label is %s",
        len(dataset.table), DATASET, shorten(", ".join(names), 1000, placeholder=" …"), label,
    )  # fmt: skip
    return lambda n: dataset.take(random, n), len(names)


def main() -> None:
    service.start("features")
    make, n_features = source(np.random.default_rng(SEED))
    largest = LARGEST_MESSAGE // (n_features + ID_AND_BRACES)
    if largest < BATCH_SIZE:
        service.refuse(
            f"BATCH_SIZE={BATCH_SIZE} is not allowed: with {n_features} features it must be at most {largest}"
        )
    ids = Ids()
    made = 0
    progress = service.Progress("samples published")
    broker = Broker("features", ["features", "y_true"])
    shards = itertools.cycle(range(SHARDS))

    def publish_a_message() -> bool:
        nonlocal made
        n = min(BATCH_SIZE, SAMPLES - made) if SAMPLES else BATCH_SIZE
        X, y_true = make(n)
        if DRIFT:
            y_true = y_true + DRIFT.shift * (np.arange(made + 1, made + n + 1) >= DRIFT.start)
        made += n
        sample_ids, labels = ids.take(n), y_true.tolist()
        shard = next(shards)
        reply_to = messages.shard("y_pred", shard) if shard else None  # both halves come to the same shard
        broker.publish(messages.shard("y_true", shard), messages.encode(sample_ids, labels, is_batch=BATCH_SIZE > 1))
        broker.publish("features", messages.encode(sample_ids, X.tolist(), BATCH_SIZE > 1), reply_to=reply_to)
        more = f" and {n - 1} more" if n > 1 else ""
        progress.add(n, lambda: f"{sample_ids[-1]}{more}: y_true {labels[-1]:.4f}")
        return not SAMPLES or made < SAMPLES

    broker.produce(publish_a_message, INTERVAL, WINDOW)
    broker.every_second(progress.flush)
    unconfirmed = broker.run()
    if unconfirmed:
        log.warning("%d messages were not confirmed before the stop", unconfirmed)
    elif SAMPLES and made == SAMPLES:
        log.info("all %d samples published and confirmed", SAMPLES)


if __name__ == "__main__":
    main()
