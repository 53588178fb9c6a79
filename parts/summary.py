"""All that the picture tells of the rows, in little space: counts, sums, the course over time.

Everything here is a value: `fold` takes a summary and lines of the CSV, and returns the summary of both.
"""

import math
from itertools import compress
from typing import List, NamedTuple, Tuple

import numpy as np

SPANS = 240  # points of the MAE over time, at most
MOST_RECENT = 10_000  # errors that are kept, to be drawn once more as the recent ones

#: 0 and all numbers of four significant digits from 1e-15 up to 1e25. What is counted is how many errors come to each,
#: rounded down. The edges of bars in a picture are among them, so that the counts in the bars are exact, as if each
#: error had been kept; and a quantile is at most 0.1 % too low.
#: (Each is one exact number times or by another, which IEEE 754 rounds to the double nearest to the decimal.)
DIGITS, POWERS = np.arange(1000.0, 10_000.0), [float(10**power) for power in range(22)]
STEPS = np.concatenate([[0.0], *(DIGITS / power for power in POWERS[18:0:-1]), *(DIGITS * power for power in POWERS)])
SMALLEST, LARGEST = STEPS[[1, -1]]  # a smaller error counts as 0, a larger one as the largest


class Course(NamedTuple):
    """A mean over time, in at most SPANS spans of equally many values; neighbours merge when it gets longer."""

    length: int = 0  # values
    span: int = 1  # values in a span
    sums: np.ndarray = np.zeros(SPANS)
    ids: Tuple[str, ...] = ()  # of the first sample in each span

    def plus(self, values: np.ndarray, rows: List[str]) -> "Course":
        """This one with more values, (n,), and the rows of the CSV that they come from."""
        begin, span, sums, ids = self
        end = begin + len(values)
        while end > span * SPANS:
            sums = np.concatenate((sums.reshape(-1, 2).sum(axis=1), np.zeros(SPANS // 2)))
            ids = ids[::2]
            span *= 2
        sums = sums + np.bincount(np.arange(begin, end) // span, weights=values, minlength=SPANS)
        ids += tuple(row.partition(",")[0] for row in rows[-begin % span :: span])
        return Course(end, span, sums, ids)

    def means(self) -> Tuple[np.ndarray, np.ndarray]:
        """Each span's mean and the number of its first value, both (n_spans,)."""
        starts = np.arange(0, self.length, self.span)
        return self.sums[: len(starts)] / np.minimum(self.span, self.length - starts), starts


class Summary(NamedTuple):
    """What is known of the rows read so far."""

    rows: int = 0
    sum: float = 0.0
    unreadable: int = 0  # lines that are no rows, or whose error is no number from 0 on
    counts: np.ndarray = np.zeros(len(STEPS), dtype=np.int64)  # of the errors at each of STEPS
    course: Course = Course()
    last: np.ndarray = np.empty(0)  # the last errors, at most MOST_RECENT

    @property
    def mae(self) -> float:
        return self.sum / self.rows

    @property
    def recent(self) -> np.ndarray:
        """The errors of the last fifth of the rows, at most MOST_RECENT; none while these are too few to compare."""
        count = min(self.rows // 5, MOST_RECENT)
        return self.last[-count:] if count >= 20 else self.last[:0]

    def quantile(self, q: float) -> float:
        """The error that a fraction q of all does not exceed, rounded down to one of STEPS."""
        return float(STEPS[np.searchsorted(self.counts.cumsum(), max(1, math.ceil(q * self.rows)))])

    def between(self, edges: np.ndarray) -> np.ndarray:
        """How many errors lie between neighbours of `edges`, (n + 1,), the left one included, (n,)."""
        return np.diff(np.append(0, self.counts.cumsum())[np.searchsorted(STEPS, edges)])


def fold(summary: Summary, lines: bytes) -> Summary:
    """The summary with more whole lines of the CSV; its header may be among them."""
    rows = lines.decode("utf-8-sig", "replace").splitlines()  # some editors put a byte order mark first
    errors = np.array([_error(row) for row in rows])
    errors = np.minimum(errors, LARGEST)  # so that no sum overflows; NaN stays NaN
    good = errors >= 0
    bad = [row for row in compress(rows, ~good) if not row.startswith("id,")]
    errors = np.where(errors < SMALLEST, 0.0, errors)[good]
    return Summary(
        summary.rows + len(errors),
        summary.sum + float(errors.sum()),
        summary.unreadable + len(bad),
        summary.counts + np.bincount(np.searchsorted(STEPS, errors, side="right") - 1, minlength=len(STEPS)),
        summary.course.plus(errors, list(compress(rows, good))),
        np.concatenate((summary.last, errors))[-MOST_RECENT:],
    )


def _error(row: str) -> float:
    """The absolute error in a row, NaN if there is none.

    Python's own float: some versions of pandas are wrong in the last digit, so that 0.3 would miss its bar.
    """
    try:
        return float(row.split(",", 4)[3])
    except (IndexError, ValueError):
        return math.nan
