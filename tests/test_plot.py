"""plot: folding, reading, and the picture."""

from datetime import datetime, timezone
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plot
from plot import Course, Errors, Histogram, Reader

HEADER = "id,y_true,y_pred,absolute_error\n"
ERRORS = st.lists(st.floats(0, 1e300), min_size=1, max_size=200)


@given(st.lists(ERRORS, min_size=1, max_size=4), st.floats(1e-300, 1e300), st.integers(1, 80))
def test_bars_agree_with_numpy_on_their_own_edges(chunks, top, count):
    histogram = Histogram()
    for chunk in chunks:
        histogram.add(np.array(chunk))
    counts, edges = histogram.bars(top, count)
    assert np.allclose(edges, np.linspace(0, top, count + 1), rtol=1e-3)
    values = np.concatenate([np.array(chunk) for chunk in chunks])
    expected = [np.count_nonzero((low <= values) & (values < high)) for low, high in zip(edges, edges[1:])]
    assert counts.tolist() == expected


@given(ERRORS, st.sampled_from([0.0, 0.25, 0.5, 0.95, 1.0]))
def test_a_quantile_is_within_a_thousandth_of_numpys(values, q):
    histogram = Histogram()
    histogram.add(np.array(values))
    expected = np.quantile(values, q, method="inverted_cdf")
    assert histogram.quantile(q) == pytest.approx(expected, rel=1e-3, abs=1e-300)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_the_course_holds_the_means_of_equal_spans_in_bounded_space(sizes):
    course, values = Course(), np.empty(0)
    for size in sizes:
        new = np.arange(len(values), len(values) + size, dtype=float)
        course.add(new, np.array([f"id{n:.0f}" for n in new], dtype=object))
        values = np.append(values, new)
    means, starts, first_ids = course.means()
    assert len(means) <= plot.SPANS
    span = int(starts[1] - starts[0]) if len(starts) > 1 else plot.SPANS
    assert means.tolist() == [values[start : start + span].mean() for start in starts]
    assert first_ids == [f"id{start}" for start in starts]


def lines(values) -> str:
    return "".join(f"s{i},0.0,{value!r},{value!r}\n" for i, value in enumerate(values))


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "log.csv"


def test_only_new_whole_lines_are_read_and_each_once(csv):
    reader = Reader(str(csv))
    assert not reader.poll()
    csv.write_text(HEADER + lines([1.0, 2.0]) + "s3,0.0,3.")
    assert reader.poll()
    assert (reader.errors.count, reader.errors.sum) == (2, 3.0)
    assert not reader.poll()
    with csv.open("a") as file:
        file.write("0,3.0\n")
    assert reader.poll()
    assert (reader.errors.count, reader.errors.sum, reader.errors.unreadable) == (3, 6.0, 0)


def test_a_poll_reads_no_more_than_what_is_new(csv, monkeypatch):
    csv.write_text(HEADER + lines(np.arange(10_000.0).tolist()))
    reader = Reader(str(csv))
    reader.poll()
    folded = []
    monkeypatch.setattr(Errors, "fold", lambda self, new: folded.append(new))
    with csv.open("a") as file:
        file.write("x,0.0,1.0,1.0\n")
    reader.poll()
    assert folded == [b"x,0.0,1.0,1.0\n"]


@pytest.mark.parametrize("change", ["shrink", "replace", "delete", "make anew"])
def test_a_file_that_shrinks_or_is_another_one_is_read_anew(csv, change):
    csv.write_text(HEADER + lines([1.0, 2.0, 3.0]))
    reader = Reader(str(csv))
    reader.poll()
    if change == "shrink":
        csv.write_text(HEADER + lines([5.0]))
    elif change == "replace":
        other = csv.with_suffix(".new")
        other.write_text(HEADER + lines([5.0] * 50))
        other.replace(csv)
    else:
        csv.unlink()
        if change == "make anew":  # many file systems give it the same number
            csv.write_text(HEADER + lines([5.0] * 50))
    assert reader.poll()
    expected = {"shrink": (1, 5.0), "delete": (0, 0.0)}.get(change, (50, 250.0))
    assert (reader.errors.count, reader.errors.sum) == expected


def test_a_long_file_is_read_in_pieces_that_leave_time_to_stop(csv, monkeypatch):
    monkeypatch.setattr(plot, "CHUNK", 1000)
    csv.write_text(HEADER + lines([1.0] * 10_000))
    reader = Reader(str(csv))
    polls = 0
    while reader.poll(seconds=0.001) or reader.behind:
        polls += 1
    assert polls > 1
    assert (reader.errors.count, reader.errors.sum) == (10_000, 10_000.0)


@pytest.mark.parametrize(
    "junk",
    [
        "nonsense\n",
        "\n",
        "a,b,c,d,e,f\n",
        "a,1,2,x\n",
        "a,1,2,nan\n",
        "a,1,2,inf\n",
        "a,1,2,-1\n",
        '"a,1,2,3\n',
        "\0\n",
    ],
)
def test_lines_that_are_no_rows_are_counted_and_skipped(csv, junk):
    csv.write_text(HEADER + lines([1.0]) + junk + lines([3.0]))
    reader = Reader(str(csv))
    reader.poll()
    good = 3 if junk.startswith('"') else 2  # a stray quote is only a strange id
    assert (reader.errors.count, reader.errors.unreadable) == (good, 3 - good)


def test_a_first_line_with_a_field_too_many_takes_no_other_line_with_it(csv):
    csv.write_text(HEADER + "a,1,2,1,5\n" + lines([1.0, 3.0]))
    reader = Reader(str(csv))
    reader.poll()
    assert (reader.errors.count, reader.errors.sum) == (3, 5.0)  # its own first four fields make a row


def test_a_csv_emptied_and_longer_than_before_at_the_next_poll_is_read_anew(csv):
    csv.write_text(HEADER + lines([1.0, 2.0]))
    reader = Reader(str(csv))
    reader.poll()
    csv.write_text(HEADER + lines([5.0, 6.0, 7.0]))  # the same file, not a new one
    assert reader.poll()
    assert (reader.errors.count, reader.errors.sum) == (3, 18.0)


def test_a_header_without_an_end_is_no_row_and_stops_nothing(csv):
    csv.write_text("id," + "x" * plot.CHUNK + "\n" + lines([1.0]))
    reader = Reader(str(csv))
    reader.poll()
    assert (reader.errors.count, reader.errors.sum) == (1, 1.0)


def test_a_csv_that_cannot_be_opened_is_read_when_it_can_be(csv):
    csv.write_text(HEADER + lines([1.0]))
    reader = Reader(str(csv))
    reader.poll()
    csv.unlink()
    csv.mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match="directory"):
            reader.poll()
    csv.rmdir()
    csv.write_text(HEADER + lines([2.0, 3.0]))
    assert reader.poll()
    assert reader.errors.sum == 5.0


def test_a_line_longer_than_memory_is_skipped(csv, monkeypatch):
    monkeypatch.setattr(plot, "CHUNK", 1000)
    csv.write_text(HEADER + "x" * 5000 + "\n" + lines([1.0, 2.0]))
    reader = Reader(str(csv))
    reader.poll()
    assert reader.errors.count == 2


def test_the_time_of_a_sample_is_read_from_its_id():
    assert plot.sample_time("20261123T104500.250000Z-0a1b2c3d") == datetime(
        2026, 11, 23, 10, 45, 0, 250000, tzinfo=timezone.utc
    )
    assert plot.sample_time("1700000000.5") == datetime(2023, 11, 14, 22, 13, 20, 500000, tzinfo=timezone.utc)
    assert plot.sample_time("17") is None
    assert plot.sample_time("sample-T-1") is None
    assert plot.sample_time("00010101T000000.000000") is None
    assert plot.sample_time("1e300") is None


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.25],
        [0.0] * 10,
        [0.5] * 10,
        [*np.abs(RANDOM.normal(0, 0.1, 100_000)), 1e6],
        np.abs(RANDOM.normal(0, 1e-12, 1000)),
        np.abs(RANDOM.normal(0, 1e9, 1000)),
        [1e-320, 1e308],
        [1.7e308],
    ],
    ids=["none", "one", "zeros", "equal", "outlier", "tiny", "large", "extremes", "largest"],
)
def test_a_picture_of_1600_by_1000_is_drawn_whatever_the_errors_are(values, tmp_path):
    errors = Errors()
    if len(values):
        errors.fold(lines(np.array(values).tolist()).encode())
    path = tmp_path / "sub" / "picture.png"
    plot.save(plot.draw(errors, 1.7e9), str(path))
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[:2] == (1000, 1600)
    assert pixels.std() > 0.01  # it isn't blank
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_the_picture_names_mean_median_and_95th_percentile():
    errors = Errors()
    errors.fold(lines(np.linspace(0, 1, 100_001).tolist()).encode())
    legend = plot.draw(errors, 0).axes[0].get_legend()
    assert legend
    labels = [text.get_text() for text in legend.get_texts()]
    values = {label.rsplit("  ", 1)[0]: float(label.rsplit("  ", 1)[1]) for label in labels}
    assert values == pytest.approx({"median": 0.5, "mean (MAE)": 0.5, "95th percentile": 0.95}, rel=2e-3)


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"the old one")

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    figure = plot.draw(Errors(), 0)
    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot.save(figure, str(path))
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]
