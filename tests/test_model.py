"""model: predictions, and what becomes of samples that a model cannot digest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import answers, predict


@given(st.lists(st.lists(st.floats(-1e300, 1e300), max_size=20), max_size=40))
def test_every_sample_gets_the_same_sum_as_alone_whatever_stands_beside_it(samples):
    alone = [float(np.sum(np.array(sample, dtype=float))) for sample in samples]
    for found, expected in zip(answers(predict, samples), alone):
        assert found == expected or (isinstance(found, str) and not np.isfinite(expected))


def test_samples_of_one_width_go_to_the_model_in_one_call():
    shapes = []

    def model(X):
        shapes.append(X.shape)
        return X.sum(axis=1)

    assert answers(model, [[1.0, 2.0], [3.0], [4.0, 5.0]]) == [3.0, 3.0, 9.0]
    assert sorted(shapes) == [(1, 1), (2, 2)]


def test_a_sample_that_the_model_fails_on_takes_no_other_with_it():
    def model(X):
        if (X == 13).any():
            raise ValueError("unlucky")
        return X[:, 0]

    found = answers(model, [[float(i)] for i in range(50)])
    assert [y for i, y in enumerate(found) if i != 13] == [float(i) for i in range(50) if i != 13]
    assert found[13] == "the model failed on this sample: ValueError: unlucky"


@pytest.mark.parametrize("answer", [lambda X: X, lambda X: 1.0, lambda X: X[:0, 0], lambda X: None, lambda X: ["x"]])
def test_an_answer_that_is_not_one_number_a_sample_is_refused(answer):
    assert all(isinstance(found, str) for found in answers(answer, [[1.0, 2.0], [3.0, 4.0]]))


def test_of_an_answer_only_the_numbers_that_are_not_finite_are_refused():
    assert answers(lambda X: [1.0, np.nan, np.inf], [[0.0]] * 3) == [
        1.0,
        "the model predicted nan",
        "the model predicted inf",
    ]
