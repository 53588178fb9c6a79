"""Models as people write them on a bad day, for the tests: MODEL=support.odd_models:NAME."""

import ctypes
import math
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np

from parts import service


class Untold(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def _raise(error: BaseException) -> None:
    raise error


def _for_ever(depth: int = 0) -> None:
    _for_ever(depth + 1)


#: What befalls the model at a sample that begins with this number.
MISFORTUNES: Dict[float, Callable[[], Any]] = {
    1.0: lambda: _raise(ValueError("\ud800")),
    2.0: lambda: _raise(Untold()),
    3.0: lambda: sys.exit(0),
    4.0: lambda: _raise(KeyboardInterrupt()),
    5.0: lambda: _raise(MemoryError()),
    6.0: _for_ever,
    7.0: lambda: _raise(ValueError("two\nlines\tand " + "x" * 100_000)),
    8.0: lambda: _raise(GeneratorExit()),
    9.0: lambda: _raise(StopIteration("over")),
}


def unlucky(X: np.ndarray) -> np.ndarray:
    for first in X[:, 0]:
        MISFORTUNES.get(first, int)()
    return X.sum(axis=1)


def good_from_a_hundred_on(X: np.ndarray) -> np.ndarray:
    if (X < 100).any():
        raise ValueError("too small")
    return X.sum(axis=1)


def once_it_is_told(X: np.ndarray) -> np.ndarray:
    """Fails on everything until the file GO is there."""
    if not Path(os.environ["GO"]).exists():
        raise ConnectionError("no feature store")
    return X.sum(axis=1)


def as_slow_as_told(X: np.ndarray) -> np.ndarray:
    """Takes SECONDS for each sample."""
    print(f"asked for {len(X)}", flush=True)
    time.sleep(float(os.environ["SECONDS"]) * len(X))
    return X.sum(axis=1)


def slow_now_and_then(X: np.ndarray) -> np.ndarray:
    """Takes some seconds in about one of a hundred calls; for chaos."""
    if random.random() < 0.01:
        time.sleep(3)
    return X.sum(axis=1)


def done_just_after_the_stop(X: np.ndarray) -> np.ndarray:
    """Computes until the service has begun to close its connection, and not until it has closed it."""
    print(f"asked for {len(X)}", flush=True)
    while not service.stop.requested:
        time.sleep(0.001)
    time.sleep(2.85)
    return X.sum(axis=1)


def with_a_process_of_its_own(X: np.ndarray) -> np.ndarray:
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True).start()
    return X.sum(axis=1)


def with_workers_of_its_own(X: np.ndarray) -> Any:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.map(math.fsum, X.tolist())


def with_a_program_that_it_forgets(X: np.ndarray) -> np.ndarray:
    subprocess.Popen(["sleep", "100"])
    return X.sum(axis=1)


def nothing_for_one_column(X: np.ndarray) -> Any:
    return X.sum(axis=1) if X.shape[1] > 1 else None


def without_return(X: np.ndarray) -> None:
    X.sum(axis=1)


def squeezed(X: np.ndarray) -> Any:
    """As many write it: for one sample a number instead of an array of one."""
    return X.sum(axis=1).squeeze()


def complex_numbers(X: np.ndarray) -> np.ndarray:
    return X.sum(axis=1) + 1j


def crash(X: np.ndarray) -> None:
    ctypes.string_at(0)  # a segmentation fault, as of native code


class AClass:
    def __init__(self, X: np.ndarray) -> None:
        pass


def beside_a_thread(X: np.ndarray) -> None:
    """Has a thread that does not end, as a pool's, and answers nothing."""
    threading.Thread(target=threading.Event().wait, daemon=False).start()
