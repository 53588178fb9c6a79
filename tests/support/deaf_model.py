"""A model whose module takes the signals over, as servers' libraries do: MODEL=support.deaf_model:predict."""

import signal

import numpy as np

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)


def predict(X: np.ndarray) -> np.ndarray:
    return X.sum(axis=1)
