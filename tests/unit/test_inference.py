"""model: predictions, and what becomes of samples that a model cannot digest."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.diabetes import fit
from model import predict
from parts.inference import FIRST_FAILURES, Inference, Unusable, load
from parts.service import NotNow
from support.paths import ROOT


def answers(model, samples):
    return Inference(model).answers(samples, [*range(len(samples))])


@given(st.lists(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20), max_size=40))
def test_every_sample_gets_the_same_sum_as_alone_whatever_stands_beside_it(samples):
    alone = [float(np.sum(np.array(sample, dtype=float))) for sample in samples]
    for found, expected in zip(answers(predict, samples), alone):
        assert found == expected or (isinstance(found, str) and not np.isfinite(expected))


def test_samples_go_to_the_model_in_one_call_and_the_halves_of_those_that_differ_in_width():
    shapes = []

    def model(X):
        shapes.append(X.shape)
        return X.sum(axis=1)

    assert answers(model, []) == []
    assert answers(model, [[1.0, 2.0], [3.0, 4.0]]) == [3.0, 7.0]
    assert shapes == [(2, 2)]
    shapes.clear()
    assert answers(model, [[1.0, 2.0], [4.0, 5.0], [3.0], [6.0, 7.0]]) == [3.0, 9.0, 3.0, 13.0]
    assert shapes == [(2, 2), (1, 1), (1, 2)]


def test_a_sample_that_the_model_fails_on_takes_no_other_with_it():
    def model(X):
        if (X == 13).any():
            raise ValueError("unlucky")
        return X[:, 0]

    found = answers(model, [[float(i)] for i in range(50)])
    assert [y for i, y in enumerate(found) if i != 13] == [float(i) for i in range(50) if i != 13]
    assert found[13] == "the model failed on this sample: ValueError: unlucky"


class Tensor:
    """Says no as torch's do while they have a gradient."""

    def __array__(self, *_args, **_kwargs):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


@pytest.mark.parametrize(
    "answer",
    [
        lambda X: X,
        lambda X: 1.0,
        lambda X: X[:0, 0],
        lambda X: None,
        lambda X: ["x"],
        lambda X: [10**400] * 2,
        lambda X: Tensor(),
        lambda X: [1j, 2j],
        lambda X: np.array(["NaT", "2026-11-24"], dtype="M8[s]"),
        lambda X: np.array([1, 2], dtype="m8[s]"),
    ],
)
def test_a_model_that_does_not_answer_one_number_a_sample_cannot_be_used(answer):
    with pytest.raises(Unusable, match="it must answer one number for each sample, and gave"):
        answers(answer, [[1.0, 2.0], [3.0, 4.0]])


def test_a_model_may_answer_in_a_column():
    assert answers(lambda X: X[:, :1], [[1.0, 2.0], [3.0, 4.0]]) == [1.0, 3.0]


def test_of_an_answer_only_the_numbers_that_are_not_finite_are_refused():
    assert answers(lambda X: [1.0, np.nan, np.inf], [[0.0]] * 3) == [
        1.0,
        "the model predicted nan",
        "the model predicted inf",
    ]


def test_the_diabetes_model_is_what_its_script_fits():
    table = np.loadtxt(ROOT / "examples/diabetes/diabetes.csv", delimiter=",", skiprows=1)
    assert table.shape == (442, 11)
    X, y = table[:, :-1], table[:, -1]
    design = np.column_stack([X, np.ones(len(X))])
    *coefficients, intercept = np.linalg.lstsq(design, y, rcond=None)[0]
    fitted = json.loads((ROOT / "examples/diabetes/coefficients.json").read_text())
    assert list(fitted["coefficients"].values()) == pytest.approx(coefficients)
    assert fitted["intercept"] == pytest.approx(intercept)
    y_pred = answers(load("examples.diabetes.model:predict"), X.tolist())
    assert y_pred == pytest.approx(design @ [*coefficients, intercept])
    [short] = answers(load("examples.diabetes.model:predict"), [[1.0] * 9])
    assert isinstance(short, str)


def test_errors_left_out_are_those_of_models_fitted_without_the_row():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(20, 3)), random.normal(size=20)
    expected = []
    for row in range(20):
        coefficients, intercept = fit.fit(np.delete(X, row, axis=0), np.delete(y, row))
        expected.append(y[row] - X[row] @ coefficients - intercept)
    assert fit.left_out_errors(X, y) == pytest.approx(expected)


def test_a_model_that_changes_its_array_and_then_fails_is_asked_again_with_fresh_data():
    def model(X):
        X -= 10
        if (X[:, 0] == 3).any():
            raise ValueError("unlucky")
        return X[:, 0]

    assert answers(model, [[11.0], [13.0], [12.0]]) == [
        1.0,
        "the model failed on this sample: ValueError: unlucky",
        2.0,
    ]


class Untold(Exception):
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(0), "SystemExit: 0"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (Untold(), "Untold: its text cannot be told, RuntimeError"),
        (ValueError("\ud800"), "ValueError: \ud800"),
    ],
)
def test_whatever_a_model_raises_becomes_a_reason(error, reason):
    def model(X):
        raise error

    assert answers(model, [[1.0]]) == [f"the model failed on this sample: {reason}"]


def test_a_model_that_returns_nothing_is_told_that_a_return_is_missing():
    with pytest.raises(Unusable, match="gave None: does it end without a return"):
        answers(lambda X: None, [[1.0]])


def test_a_model_that_has_never_answered_does_not_go_through_all_samples():
    def model(X):
        if (X < 1000).any():
            raise ValueError("no")
        return X[:, 0]

    inference = Inference(model)
    with pytest.raises(NotNow, match=r"answered none of its first 20 messages, the others wait: .*ValueError: no"):
        inference.answers([[float(n)] for n in range(1000)], [*range(1000)])
    assert inference.answers([[1000.0], [5.0]], [1, 2]) == [1000.0, "the model failed on this sample: ValueError: no"]
    many = 2 * FIRST_FAILURES
    assert len(inference.answers([[1.0]] * many, [*range(many)])) == many  # it has answered


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("class predict:\n    def __init__(self, X): pass", "is a class: make an object of it"),
        ("def predict(): pass", "it must take one argument, the array of samples: too many positional arguments"),
        ("def predict(X, y): pass", "it must take one argument, the array of samples: missing a required argument"),
        ("predict = 7", "it must be callable, and is of type int"),
        ("raise __import__('asyncio').CancelledError('no')", "it must be there to import: CancelledError: no"),
    ],
)
def test_what_cannot_be_a_model_is_known_before_the_first_message(tmp_path, monkeypatch, text, complaint):
    name = f"mine_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Unusable, match=complaint):
        load(f"{name}:predict")


def test_a_decorator_may_give_the_model_more_than_the_samples(tmp_path, monkeypatch):
    (tmp_path / "decorated.py").write_text(
        "from functools import wraps\n"
        "def with_factor(predict):\n"
        "    return wraps(predict)(lambda X: predict(X, 2))\n"
        "@with_factor\n"
        "def predict(X, factor):\n"
        "    return factor * X.sum(axis=1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert answers(load("decorated:predict"), [[1.0, 2.0]]) == [6.0]


def test_a_model_that_recurses_deeply_leaves_a_message_of_lists_in_lists_readable(tmp_path):
    (tmp_path / "deep.py").write_text("import sys; sys.setrecursionlimit(10**6); predict = sum")
    read = "messages.decode(b'[' * 10_000_000, messages.FEATURES).faults[0]"
    code = f"from parts import inference, messages; inference.load('deep:predict'); print({read})"
    said = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, text=True)
    assert said.startswith("it cannot be read: ")


def test_a_masked_answer_is_none():
    masked = Inference(lambda X: np.ma.masked_array([1, 2, 3], mask=[False, True, False]))
    assert masked.answers([[1.0]] * 3, [1, 2, 3]) == [1.0, "the model predicted nan", 3.0]
