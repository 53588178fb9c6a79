"""Fits the linear model of diabetes.csv by least squares and writes coefficients.json.

    python examples/diabetes/fit.py

Prints the mean absolute error on the rows that it was fitted to, and the one to expect on others: each row
predicted by the model fitted without it.
"""

import json
from pathlib import Path
from typing import Tuple

import numpy as np

HERE = Path(__file__).parent


def fit(X: np.ndarray, y: np.ndarray) -> Tuple[np.ndarray, float]:
    """Coefficients, (d,), and intercept that minimise the squared error on X, (n, d), and y, (n,)."""
    # Centred, the coefficients solve the normal equations, and the intercept follows from the means.
    centred = X - X.mean(axis=0)
    coefficients = np.linalg.solve(centred.T @ centred, centred.T @ (y - y.mean()))
    return coefficients, float(y.mean() - X.mean(axis=0) @ coefficients)


def left_out_errors(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each row's error under the model fitted without that row, (n,).

    These are e / (1 - h), with the error e under the model of all rows and the leverage h: Cook and Weisberg,
    Residuals and Influence in Regression (1982), section 2.2.
    """
    coefficients, intercept = fit(X, y)
    orthonormal, _ = np.linalg.qr(np.column_stack([np.ones(len(X)), X]))
    leverage = (orthonormal**2).sum(axis=1)
    return (y - X @ coefficients - intercept) / (1 - leverage)


if __name__ == "__main__":
    names = (HERE / "diabetes.csv").open().readline().strip().split(",")
    table = np.loadtxt(HERE / "diabetes.csv", delimiter=",", skiprows=1)
    X, y = table[:, :-1], table[:, -1]
    coefficients, intercept = fit(X, y)
    # Ten digits are more than the data have, and the same whichever library solves the equations.
    rounded = {name: float(f"{c:.10g}") for name, c in zip(names, coefficients)}
    fitted = {"intercept": float(f"{intercept:.10g}"), "coefficients": rounded}
    (HERE / "coefficients.json").write_text(json.dumps(fitted, indent=1) + "\n")
    print(f"mean absolute error: {np.abs(y - X @ coefficients - intercept).mean():.1f} on the rows it was fitted to,")
    print(f"                     {np.abs(left_out_errors(X, y)).mean():.1f} on others")
