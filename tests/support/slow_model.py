"""A model that takes 20 ms a sample, which tells in the end how many it had; for make bench."""

import atexit
from typing import List

import numpy as np

from examples import slow

answered: List[int] = []
atexit.register(lambda: print(f"answered {sum(answered)}"))


def predict(X: np.ndarray) -> np.ndarray:
    answered.append(len(X))
    return slow.predict(X)
