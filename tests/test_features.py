"""features: the data it makes and the ids it gives."""

import re
from datetime import datetime, timezone

import numpy as np
import pytest

import features
import messages


def test_the_same_seed_makes_the_same_data():
    first, second = (features.generate(np.random.default_rng(7), 5, 3, 0.1) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_true_values_are_the_sum_of_the_features_plus_noise_of_that_deviation():
    X, y_true = features.generate(np.random.default_rng(1), 100_000, 4, 0.5)
    noise = y_true - X.sum(axis=1)
    assert X.shape == (100_000, 4)
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(len(noise))
    assert abs(noise.std() - 0.5) < 0.01


def test_a_data_set_is_sent_over_and_over_each_time_in_another_order(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a,b,label\n" + "".join(f"{i},{10 * i},{100 * i}\n" for i in range(20)))
    dataset = features.read_dataset(str(path))
    assert dataset.names == ["a", "b", "label"]
    random = np.random.default_rng(1)
    X, y_true = map(np.concatenate, zip(*[dataset.take(random, n) for n in (1, 12, 50, 7, 10)]))
    assert np.array_equal(X, np.column_stack([y_true / 100, y_true / 10]))
    rounds = (y_true / 100).reshape(4, 20)
    assert all(sorted(each) == list(range(20)) for each in rounds)
    assert len({tuple(each) for each in rounds}) == 4
    again = features.read_dataset(str(path)).take(np.random.default_rng(1), 1)
    assert (again[0].tolist(), again[1].tolist()) == (X[:1].tolist(), y_true[:1].tolist())


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff"a","b"\r\n"1", 2\r\n3,4e0',
        "a,b\n\n1,2\n  \n3,4\n\n",
    ],
    ids=["as spreadsheets write it", "with empty lines"],
)
def test_a_data_set_may_be_written_in_several_ways(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    dataset = features.read_dataset(str(path))
    assert dataset.names == ["a", "b"]
    assert dataset.table.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_name_in_a_header_may_have_a_comma(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('"weight, kg",label\n1,2\n')
    assert features.read_dataset(str(path)).names == ["weight, kg", "label"]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "its first line must name the columns"),
        (b"\0" * 5_000_000, "its first line must name the columns"),
        (b"1,2\n3,4\n", "its first line must name the columns"),
        (b"a;b\n1;2\n", "with commas between"),
        (b"a,b\n", "it must have a row below its header"),
        (b"a,b\n1,2\n\n3\n", "line 4 must have 2 columns as the header, not 1"),
        (b"a,b\n1,2\n3,4,5\n", "line 3 must have 2 columns as the header, not 3"),
        (b"a,b\n1,2\n3,x\n", "line 3, column 'b': 'x' must be a finite number"),
        (b"a,b\n1,2\n,4\n", "line 3, column 'a': '' must be a finite number"),
        (b"a,b\nnan,2\n", "line 2, column 'a': 'nan' must be"),
        (b"a,b\n1,1e999\n", "line 2, column 'b': '1e999' must be"),
        (b"a,b\n1,\xff\n", "line 2, column 'b': '\ufffd' must be"),
        (b"a,b\n1,2 # two\n", "line 2, column 'b': '2 # two' must be"),
        (b"a,b\n1_0,2\n", "line 2, column 'a': '1_0' must be a finite number"),
        (b'a,b\n1,"2\n3,4\n', "lines 2 to 3 must hold numbers"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_with_line_and_column(tmp_path, data, complaint):
    path = tmp_path / "data.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        features.read_dataset(str(path))


def test_a_fault_far_down_in_a_long_data_set_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "BLOCK", 1000)
    path = tmp_path / "data.csv"
    lines = ["a,b", *(f"{i},1" for i in range(2, 3001))]
    path.write_text("\n".join(lines))
    assert len(features.read_dataset(str(path)).table) == 2999
    lines[2499] = "2500,one"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="line 2500, column 'b'"):
        features.read_dataset(str(path))


def test_a_data_set_larger_than_memory_is_meant_to_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "LARGEST_DATASET", 100)
    path = tmp_path / "data.csv"
    path.write_text("a,b\n" + "1,2\n" * 51)
    with pytest.raises(ValueError, match="at most 100 numbers"):
        features.read_dataset(str(path))


def test_ids_are_unique_sort_by_time_and_keep_the_contract():
    one, other = features.Ids(), features.Ids()
    ids = [*one.take(1), *one.take(1000), *one.take(1)]
    assert ids == sorted(ids)
    assert len({*ids, *other.take(1000)}) == len(ids) + 1000
    assert all(messages.ID.fullmatch(sample_id) for sample_id in ids)


def test_an_id_tells_the_time_in_utc():
    [sample_id] = features.Ids().take(1)
    match = re.match(r"(\d{8}T\d{6}\.\d{6})Z-[0-9a-f]{8}$", sample_id)
    assert match
    told = datetime.strptime(match[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=timezone.utc)
    assert abs((datetime.now(timezone.utc) - told).total_seconds()) < 10
