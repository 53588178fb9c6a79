"""A model that takes all over, as servers' libraries do, and more: MODEL=support.deaf_model:predict."""

import logging.config
import os
import signal
import sys

import numpy as np

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)


def take_the_log_over() -> None:
    logging.config.dictConfig({"version": 1})  # disables the loggers that are there
    logging.basicConfig(filename=os.devnull, force=True)
    logging.getLogger().setLevel(logging.ERROR)
    logging.disable(logging.CRITICAL)


take_the_log_over()


def predict(X: np.ndarray) -> np.ndarray:
    take_the_log_over()
    sys.stdout.close()
    return X.sum(axis=1)
