"""Runs a service that kills itself, with SIGKILL, when it reaches one point of its work.

    python tests/support/crash.py POINT

A point is a function wrapped so that the process dies before, after or in it; all else is the service as it is.
"""

import os
import signal
import sys
from io import FileIO
from typing import Any, Callable, Dict, List, NoReturn

import features
import metrics
import model
from parts import csv_file
from parts.rabbitmq.consumer import Consumer, Delivery
from parts.rabbitmq.publisher import Message, Publisher


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit  # not reached


def wrap(owner: Any, name: str, reached: Callable[..., bool], first: bool) -> None:
    """Have the process die where `reached` is true of the call's arguments, before the call or after it."""
    function = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        fatal = reached(*args)
        if fatal and first:
            die()
        result = function(*args, **kwargs)
        if fatal:
            die()
        return result

    setattr(owner, name, wrapped)


def tear_rows() -> None:
    def torn(csv: csv_file.CsvFile, data: Any) -> int:
        if csv_file.HEADER.startswith(data):
            return FileIO.write(csv, data)
        FileIO.write(csv, bytes(data)[: len(data) // 2 + 3])
        die()

    csv_file.CsvFile.write = torn  # type: ignore[assignment, method-assign]


def holds_rows(_csv: csv_file.CsvFile, data: bytes) -> bool:
    return data != csv_file.HEADER


def settles(consumer: Consumer, deliveries: List[Delivery]) -> bool:
    return bool(deliveries) and all(delivery.waits_for == 1 for delivery in deliveries)


def to_features(_publisher: Publisher, message: Message) -> bool:
    return message.queue == "features"


POINTS: Dict[str, Callable[[], None]] = {
    "metrics: after the append, before the commit": lambda: wrap(csv_file.CsvFile, "append", holds_rows, first=False),
    "metrics: after the commit, before the acknowledgement": lambda: wrap(Consumer, "done", settles, first=True),
    "metrics: in the middle of the write": tear_rows,
    "model: between the confirm and the acknowledgement": lambda: wrap(Consumer, "done", settles, first=True),
    "features: between its two publishes": lambda: wrap(Publisher, "publish", to_features, first=True),
    "features: between the publish and the confirm": lambda: wrap(
        Publisher, "_on_confirm", lambda *_: True, first=True
    ),
}


if __name__ == "__main__":
    POINTS[sys.argv[1]]()
    {"features": features, "metrics": metrics, "model": model}[sys.argv[1].split(":")[0]].main()
