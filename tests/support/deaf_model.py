"""A model whose module takes signals and loggers over, as servers' libraries do: MODEL=support.deaf_model:predict."""

import logging.config
import signal

import numpy as np

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
logging.config.dictConfig({"version": 1})  # disables the loggers that are there
logging.getLogger().setLevel(logging.ERROR)
logging.disable(logging.CRITICAL)


def predict(X: np.ndarray) -> np.ndarray:
    return X.sum(axis=1)
