"""The sum again, in 20 ms a sample, as a neural network on a CPU may take: to see how replicas share the work.

MODEL=examples.slow:predict INTERVAL=0.01 docker compose up --scale model=4
"""

import time

import numpy as np


def predict(X: np.ndarray) -> np.ndarray:
    """(n, d) to (n,), in n times 20 ms."""
    time.sleep(0.02 * len(X))
    return X.sum(axis=1)
