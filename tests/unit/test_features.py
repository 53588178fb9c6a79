"""features: the data it makes and the ids it gives."""

import re
from datetime import datetime, timezone

import numpy as np

import features
from parts import messages
from parts.ids import Ids


def test_the_same_seed_makes_the_same_data():
    first, second = (features.generate(np.random.default_rng(7), 3, 0.1, 5) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_a_seed_makes_the_same_samples_however_many_are_made_at_a_time():
    random = np.random.default_rng(7)
    pieces = [features.generate(random, 3, 0.1, n) for n in (1, 4, 7)]
    X, y_true = features.generate(np.random.default_rng(7), 3, 0.1, 12)
    assert np.array_equal(np.concatenate([piece[0] for piece in pieces]), X)
    assert np.array_equal(np.concatenate([piece[1] for piece in pieces]), y_true)


def test_true_values_are_the_sum_of_the_features_plus_noise_of_that_deviation():
    X, y_true = features.generate(np.random.default_rng(1), 4, 0.5, 100_000)
    noise = y_true - X.sum(axis=1)
    assert X.shape == (100_000, 4)
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(len(noise))
    assert abs(noise.std() - 0.5) < 0.01


def test_ids_are_unique_sort_by_time_and_keep_the_contract():
    one, other = Ids(), Ids()
    ids = [*one.take(1), *one.take(1000), *one.take(1)]
    assert ids == sorted(ids)
    assert len({*ids, *other.take(1000)}) == len(ids) + 1000
    assert all(re.fullmatch(messages.ID, sample_id) for sample_id in ids)


def test_an_id_tells_the_time_in_utc():
    [sample_id] = Ids().take(1)
    match = re.match(r"(\d{8}T\d{6}\.\d{6})Z-[0-9a-f]{8}$", sample_id)
    assert match
    told = datetime.strptime(match[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=timezone.utc)
    assert abs((datetime.now(timezone.utc) - told).total_seconds()) < 10
