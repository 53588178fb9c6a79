"""A linear model of how diabetes progresses within a year, from ten numbers taken at its beginning.

    MODEL=examples.diabetes.model:predict DATASET=examples/diabetes/diabetes.csv docker compose up

fit.py beside it made the coefficients, README.md tells where the data come from.
"""

import json
from pathlib import Path

import numpy as np

FITTED = json.loads(Path(__file__).with_name("coefficients.json").read_text())
COEFFICIENTS = np.array(list(FITTED["coefficients"].values()))  # in the order of the data's columns


def predict(X: np.ndarray) -> np.ndarray:
    """Progression in a year's time, for patients with the ten measurements of diabetes.csv. (n, 10) to (n,)"""
    return X @ COEFFICIENTS + FITTED["intercept"]
