"""plot: counts, sums and the course over time of the rows."""

from decimal import Decimal
from itertools import chain
from typing import Any, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parts import summary as module
from parts.summary import LARGEST, SMALLEST, SPANS, Course, Summary, fold

HEADER = b"id,y_true,y_pred,absolute_error\n"

ERRORS = st.lists(
    st.one_of(
        st.floats(SMALLEST, LARGEST),
        st.integers(0, 10_000).map(float),
        st.integers(0, 1000).map(lambda n: n / 20),
        st.integers(0, 1000).map(lambda n: n / 1000),
        st.tuples(st.integers(0, 9999), st.integers(-15, 21)).map(lambda number: float("{}e{}".format(*number))),
    ),
    min_size=1,
    max_size=200,
)


def lines(values: Iterable[Any]) -> bytes:
    return "".join(f"s{i},0.0,{value},{value}\n" for i, value in enumerate(values)).encode()


@given(st.lists(ERRORS, min_size=1, max_size=4), st.sampled_from([1, 2, 25, 5]), st.integers(-18, 21), st.data())
def test_the_counts_between_round_edges_are_numpys(chunks, step, power, data):
    summary = Summary()
    for chunk in chunks:
        summary = fold(summary, lines(chunk))
    edges = np.array([float(f"{i * step}e{power}") for i in range(data.draw(st.integers(1, 40)) + 1)])
    # The largest number as one edge more, since numpy counts what lies on the last edge as well.
    expected = np.histogram(np.concatenate(chunks), [*edges, np.finfo(float).max])[0][:-1]
    assert summary.between(edges).tolist() == expected.tolist()


def test_an_error_on_the_edge_of_a_bar_belongs_to_the_bar_on_its_right():
    summary = fold(Summary(), lines(["0.1", "0.25", "0.3", "0.38"]))
    edges = np.array([float(f"{i * 5}e-2") for i in range(9)])
    assert summary.between(edges).tolist() == [0, 0, 1, 0, 0, 1, 1, 1]


@given(st.integers(1000, 9999), st.integers(-17, 21))
def test_a_number_of_four_digits_is_kept_as_it_is_and_the_next_smaller_one_is_not(digits, power):
    value = float(f"{digits}e{power}")
    assert fold(Summary(), lines([value])).quantile(1) == value
    assert fold(Summary(), lines([np.nextafter(value, 0)])).quantile(1) < value


@given(ERRORS, st.sampled_from([0.0, 0.25, 0.5, 0.95, 1.0]))
def test_a_quantile_is_numpys_or_up_to_a_thousandth_below(values, q):
    expected = np.quantile(values, q, method="inverted_cdf")
    found = fold(Summary(), lines(values)).quantile(q)
    assert found <= expected <= found * 1.001


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_the_course_holds_the_means_of_equal_spans_in_bounded_space(sizes):
    course, values = Course(), np.empty(0)
    for size in sizes:
        new = np.arange(len(values), len(values) + size, dtype=float)
        course = course.plus(new, [f"id{n:.0f},1,2,3" for n in new])
        values = np.append(values, new)
    means, starts = course.means()
    assert len(means) <= SPANS
    span = int(starts[1] - starts[0]) if len(starts) > 1 else SPANS
    assert means.tolist() == [values[start : start + span].mean() for start in starts]
    assert course.ids == tuple(f"id{start}" for start in starts)


@given(st.lists(st.lists(st.integers(0, 10**6).map(lambda n: n / 7)), min_size=1, max_size=4))
def test_rows_folded_in_pieces_are_summarized_as_if_folded_at_once_and_no_summary_changes(chunks):
    summaries = [Summary()]
    for chunk in chunks:
        summaries.append(fold(summaries[-1], lines(chunk)))
    rows = b"".join(map(lines, chunks))
    for upto, summary in enumerate(summaries):
        values = list(chain(*chunks[:upto]))
        assert (summary.rows, summary.unreadable) == (len(values), 0)
        assert summary.sum == pytest.approx(sum(values))
        assert summary.last.tolist() == values
    at_once = fold(Summary(), rows)
    assert np.array_equal(at_once.counts, summaries[-1].counts)
    assert at_once.course.ids == summaries[-1].course.ids


@pytest.mark.parametrize(
    "junk",
    [
        b"nonsense\n",
        b"\n",
        b"a,b,c,d,e,f\n",
        b"a,1,2,x\n",
        b"a,1,2,\n",
        b"a,1,2,nan\n",
        b"a,1,2,-1\n",
        b'"a,1,2,3\n',
        b"\0\n",
        b"\xff\xfe\n",
    ],
)
def test_lines_that_are_no_rows_are_counted_and_skipped(junk):
    summary = fold(Summary(), HEADER + lines([1.0]) + junk + lines([3.0]))
    good = 3 if junk.startswith(b'"') else 2  # a stray quote is only a strange id
    assert (summary.rows, summary.unreadable) == (good, 3 - good)


def test_a_first_line_with_a_field_too_many_takes_no_other_line_with_it():
    summary = fold(Summary(), HEADER + b"a,1,2,1,5\n" + lines([1.0, 3.0]))
    assert (summary.rows, summary.sum) == (3, 5.0)  # its own first four fields make a row


@pytest.mark.parametrize("header", [HEADER, b"\xef\xbb\xbf" + HEADER, b"id," + b"x" * 1000, b""])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_header_is_no_unreadable_line_whatever_an_editor_made_of_it(header, ends):
    rows = header.rstrip(b"\n") + b"\n" * bool(header) + lines([1.0, 2.0])
    summary = fold(Summary(), rows.replace(b"\n", ends))
    assert (summary.rows, summary.sum, summary.unreadable) == (2, 3.0, 0)
    assert summary.course.ids == ("s0", "s1")


def test_an_error_is_read_to_its_last_digit():
    """The C parser of pandas before version 3 misses some decimals by one, and with them the edge of a bar."""
    texts = [str(Decimal(n) / 1000) for n in range(1, 10_000)]
    assert fold(Summary(), lines(texts)).last.tolist() == list(map(float, texts))


def test_what_is_far_too_small_counts_as_zero():
    summary = fold(Summary(), lines([5e-324, SMALLEST, LARGEST]))
    assert summary.last.tolist() == [0, SMALLEST, LARGEST]
    assert (summary.quantile(0), summary.quantile(1)) == (0, LARGEST)


def test_what_is_far_too_large_counts_as_the_largest():
    """And not as unreadable: the picture would leave out the worst."""
    summary = fold(Summary(), lines(["inf", 1.7e308, 1.0]))
    assert (summary.rows, summary.unreadable) == (3, 0)
    assert summary.last.tolist() == [LARGEST, LARGEST, 1.0]


def test_while_there_are_few_rows_none_are_called_recent():
    assert len(fold(Summary(), lines([1.0] * 99)).recent) == 0
    assert len(fold(Summary(), lines([1.0] * 100)).recent) == 20


def test_the_recent_rows_are_the_last_ones_and_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST_RECENT", 50)
    summary = fold(Summary(), lines(np.arange(1000.0)))
    assert summary.recent.tolist() == list(range(950, 1000))
    summary = fold(summary, lines([7.0]))
    assert summary.recent.tolist() == [*range(951, 1000), 7.0]


def test_a_summary_of_ten_times_as_many_rows_is_no_larger():
    def size(summary: Summary) -> int:
        arrays = [summary.counts, summary.course.sums, summary.last]
        return sum(array.nbytes for array in arrays) + sum(map(len, summary.course.ids))

    rows = lines(np.random.default_rng(0).lognormal(size=20_000))
    first = fold(Summary(), rows)
    summary = first
    for _ in range(9):
        summary = fold(summary, rows)
    assert summary.rows == 200_000
    assert size(summary) < 1.1 * size(first) < 4e6
