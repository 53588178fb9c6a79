"""plot: draws how the absolute error is distributed, from the CSV that metrics writes.

    CSV_FILE=logs/metric_log.csv IMG_FILE=logs/error_distribution.png python plot.py

Each poll reads only the rows that are new and folds them into sums and counts, so that its time grows
with the new rows and its memory with nothing.
"""

import csv
import gc
import logging
import os
import socket
import time
from datetime import datetime, timedelta, timezone
from io import BytesIO
from typing import Any, BinaryIO, List, Optional, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

import service

CSV_FILE = service.text("CSV_FILE", "/app/logs/metric_log.csv")
IMG_FILE = service.text("IMG_FILE", "/app/logs/error_distribution.png")
PLOT_INTERVAL = service.number("PLOT_INTERVAL", 10.0, 0.1, 86400)  # seconds between polls

CHUNK = 1024 * 1024  # bytes of CSV in memory at a time
BARS = 60  # of the histogram as drawn
SPANS = 240  # points of the MAE over time, at most

# Three that stay apart for colour-blind eyes, and a blue for the bars (Okabe and Ito, 2008).
BLUE, MEAN, MEDIAN, P95 = "#56b4e9", "#d55e00", "#000000", "#009e73"

TIME_LABELS = ["%Y", "%b %Y", "%d %b", "%H:%M", "%H:%M:%S", "%H:%M:%S.%f"]  # by years, months, … fractions

log = logging.getLogger("plot")


# --- the errors, folded -----------------------------------------------------------------------------


class Histogram:
    """Counts of non-negative numbers over all magnitudes, each bin 0.1 % as wide as its place is high.

    The bits of a non-negative double, read as an integer, sort like the double itself (IEEE 754): its
    leading bits are the number of its bin. The bins take 16 MiB of address space, of which only what is
    counted in takes memory.
    """

    DROPPED_BITS = 52 - 10  # keeps the exponent and ten bits of the fraction

    def __init__(self) -> None:
        self._counts = np.zeros(self._bin(np.array([np.inf]))[0], dtype=np.int64)
        self._first, self._end = len(self._counts), 0  # the bins outside are empty

    @classmethod
    def _bin(cls, values: np.ndarray) -> np.ndarray:
        return values.view(np.int64) >> cls.DROPPED_BITS

    @classmethod
    def _left_edge(cls, bins: Any) -> Any:
        return (bins << cls.DROPPED_BITS).view(np.float64)

    def add(self, values: np.ndarray) -> None:
        """Count finite, non-negative float64 values, (n,)."""
        if not len(values):
            return
        bins = self._bin(values + 0.0)  # -0.0 becomes 0.0
        first, end = bins.min(), bins.max() + 1
        self._counts[first:end] += np.bincount(bins - first, minlength=end - first)
        self._first, self._end = min(self._first, first), max(self._end, end)

    def quantile(self, q: float) -> float:
        """The value that a fraction q of all counted values does not exceed, to 0.1 %."""
        cumulative = np.cumsum(self._counts[self._first : self._end])
        rank = max(1, int(np.ceil(q * cumulative[-1])))
        found = self._first + np.searchsorted(cumulative, rank)
        middle = float(self._left_edge(np.int64(found))) * (1 + 2.0**-11)
        return middle if found else 0.0

    def bars(self, top: float, count: int) -> Tuple[np.ndarray, np.ndarray]:
        """Counts in `count` bars from 0 to about `top`, and their edges, (count,) and (count + 1,).

        Each edge is moved to the nearest edge of a bin, less than 0.1 % of it away, so that the counts
        are exact for the edges returned.
        """
        bins = self._bin(np.linspace(0.0, top, count + 1) * (1 + 2.0**-11))
        edges = self._left_edge(bins)
        inside = self._counts[: bins[-1]]
        used = np.clip(bins, 0, self._end)
        sums = np.concatenate(([0], np.cumsum(inside[self._first : self._end]))) if len(inside) else np.zeros(1)
        at = np.clip(used - self._first, 0, len(sums) - 1)
        return np.diff(sums[at]), edges


class Course:
    """A mean over time in at most SPANS spans of equally many values; neighbours merge when it gets longer."""

    def __init__(self) -> None:
        self._span = 1  # values in a span
        self._count = 0
        self._sums = np.zeros(SPANS)
        self._ids: List[str] = []  # of the first value in each span

    def add(self, values: np.ndarray, ids: np.ndarray) -> None:
        """Add values, (n,), and the ids of their samples, (n,)."""
        while self._count + len(values) > self._span * SPANS:
            pairs = self._sums.reshape(-1, 2).sum(axis=1)
            self._sums = np.concatenate((pairs, np.zeros(SPANS // 2)))
            self._ids = self._ids[::2]
            self._span *= 2
        spans = np.arange(self._count, self._count + len(values)) // self._span
        self._sums += np.bincount(spans, weights=values, minlength=SPANS)
        self._ids += ids[-self._count % self._span :: self._span].tolist()
        self._count += len(values)

    def means(self) -> Tuple[np.ndarray, np.ndarray, List[str]]:
        """Each span's mean, the number of its first value and that one's id."""
        used = len(self._ids)
        starts = np.arange(used) * self._span
        sizes = np.minimum(self._span, self._count - starts)
        return self._sums[:used] / sizes, starts, self._ids


class Errors:
    """Everything that the picture needs to know of the rows read so far."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.largest = 0.0
        self.unreadable = 0  # lines that are no rows, or whose error is not a finite number
        self.histogram = Histogram()
        self.course = Course()

    @property
    def mae(self) -> float:
        return self.sum / self.count

    def fold(self, lines: bytes) -> None:
        """Add whole lines of the CSV, without its header."""
        ids, errors, unreadable = parse(lines)
        self.unreadable += unreadable
        if len(errors):
            self.count += len(errors)
            self.sum += float(errors.sum())
            self.largest = max(self.largest, float(errors.max()))
            self.histogram.add(errors)
            self.course.add(errors, ids)


def parse(lines: bytes) -> Tuple[np.ndarray, np.ndarray, int]:
    """The ids and absolute errors in lines of the CSV, both (n,), and how many lines hold none."""
    import pandas as pd  # noqa: PLC0415  # takes a quarter of a second, which the first picture does not wait for

    def read(error_type: type) -> pd.DataFrame:
        return pd.read_csv(
            BytesIO(b"id,y_true,y_pred,absolute_error\n" + lines),
            usecols=["id", "absolute_error"],
            dtype={"id": str, "absolute_error": error_type},
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,  # a stray quote swallows no lines
            on_bad_lines="skip",
            index_col=False,  # else a first line with a field too many shifts all columns
            encoding_errors="replace",
        )

    try:
        table = read(float)
    except ValueError:  # a person edited the file: some cell is no number
        table = read(str)
    errors = pd.to_numeric(table["absolute_error"], errors="coerce").to_numpy(np.float64)
    good = np.isfinite(errors) & (errors >= 0)
    return table["id"].to_numpy(object)[good], errors[good], lines.count(b"\n") - int(good.sum())


class Reader:
    """Follows the CSV: whole lines only, each once; anew when the file shrinks or is another one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: Optional[BinaryIO] = None
        self._start_over()

    def _start_over(self) -> None:
        self._offset = 0  # of the first byte not read yet
        self._tail = b""  # the last bytes before that
        self.errors = Errors()
        self.last_change = 0.0  # Unix time
        self.behind = False  # there was more than one poll could read

    def poll(self, seconds: float = 1.0) -> bool:
        """Fold in what is new, for about so long; whether anything changed. OSError: it cannot be read."""
        anew = self._follow()
        before = self._offset
        if self._file:
            self.last_change = os.fstat(self._file.fileno()).st_mtime
            self._fold_new_lines(self._file, time.monotonic() + seconds)
        return anew or before != self._offset

    def _follow(self) -> bool:
        """Have the file open that now has the name; whether what was read of it counts no more."""
        try:
            found: Optional[BinaryIO] = open(self._path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            found = None
        if self._file and found and self._goes_on(self._file, found):
            found.close()
            return False
        if not self._file and not found:
            return False
        # The old one stays open until now: a file deleted and made anew cannot have its identity.
        if self._file:
            self._file.close()
        self._file = found
        self._start_over()
        return True

    def _goes_on(self, known: BinaryIO, found: BinaryIO) -> bool:
        status = os.fstat(found.fileno())
        if not os.path.samestat(status, os.fstat(known.fileno())) or status.st_size < self._offset:
            return False
        found.seek(self._offset - len(self._tail))
        return found.read(len(self._tail)) == self._tail  # else it was emptied, and has grown since

    def _fold_new_lines(self, file: BinaryIO, deadline: float) -> None:
        self.behind = True
        while time.monotonic() < deadline:
            file.seek(self._offset)
            chunk = file.read(CHUNK)
            end = chunk.rfind(b"\n") + 1
            if not end and len(chunk) == CHUNK:
                end = CHUNK  # such a line is no row of ours, and is not to fill the memory
            lines = chunk[:end]
            if not self._offset and lines.startswith(b"id,"):
                lines = lines.partition(b"\n")[2]
            if lines:
                self.errors.fold(lines)
            self._offset += end
            self._tail = chunk[max(0, end - 64) : end] or self._tail
            if len(chunk) < CHUNK:
                self.behind = False
                return


# --- the picture ------------------------------------------------------------------------------------


def draw(errors: Errors, last_change: float) -> Figure:
    """The picture of 1600 x 1000 pixels: the distribution of the errors, and under it the MAE over time.

    `last_change` is when the last row came, Unix time.
    """
    layout = ConstrainedLayoutEngine(h_pad=0.15, w_pad=0.15)  # inches
    figure = Figure(figsize=(16, 10), dpi=100, layout=layout)
    FigureCanvasAgg(figure)
    if not errors.count:
        figure.text(0.5, 0.55, "No data yet", size=40, ha="center", color="0.3")
        figure.text(0.5, 0.47, "the first rows of the CSV will show here", size=20, ha="center", color="0.5")
        return figure
    above, below = figure.subplots(2, 1, height_ratios=[4, 1])
    _draw_histogram(above, errors)
    _draw_course(below, errors)
    when = datetime.fromtimestamp(last_change, timezone.utc)
    unreadable = f" · {errors.unreadable:,} lines unreadable" if errors.unreadable else ""
    above.set_title(
        f"{errors.count:,} row{'s' * (errors.count > 1)} · last one {when:%Y-%m-%d %H:%M:%S} UTC{unreadable}",
        size=16,
        loc="right",
        color="0.35",
    )
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=14)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    return figure


def _draw_histogram(axes: Any, errors: Errors) -> None:
    median, p95 = errors.histogram.quantile(0.5), errors.histogram.quantile(0.95)
    # Up to the 99.5th percentile, so that one outlier among a million does not squeeze all into one bar.
    reach = max(1.1 * errors.histogram.quantile(0.995), 1.1 * p95)
    top = reach if errors.largest > 1.5 * reach else 1.1 * errors.largest
    counts, edges = errors.histogram.bars(min(top, 1e300) or 1.0, BARS)  # matplotlib draws no larger numbers
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, edgecolor="white", linewidth=0.7)
    axes.set_xlim(0, edges[-1])
    if not counts.any():
        axes.set_ylim(0, 1)
    for label, value, color, style in (
        (f"median  {median:.3g}", median, MEDIAN, "-"),
        (f"mean (MAE)  {errors.mae:.4g}", errors.mae, MEAN, "--"),
        (f"95th percentile  {p95:.3g}", p95, P95, "-."),
    ):
        axes.axvline(min(value, edges[-1]), color=color, linestyle=style, linewidth=2.5, label=label)
    beyond = errors.count - int(counts.sum())
    if beyond:
        axes.plot([], [], " ", label=f"{beyond:,} beyond, up to {errors.largest:.4g}")
    axes.legend(fontsize=16, loc="best", framealpha=0.85, edgecolor="none")
    axes.set_title("Distribution of the absolute error", size=22, loc="left")
    axes.set_xlabel("absolute error  |y_true − y_pred|", size=16)
    axes.set_ylabel("rows", size=16)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _draw_course(axes: Any, errors: Errors) -> None:
    means, starts, ids = errors.course.means()
    times = [sample_time(sample_id) for sample_id in ids]
    known = [time for time in times if time]
    x: np.ndarray
    if len(known) == len(times):  # every span's id tells its time
        order = np.argsort(np.array(known), kind="stable")
        x, means = np.array(known)[order], means[order]
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, formats=TIME_LABELS, zero_formats=TIME_LABELS))
        axes.xaxis.get_offset_text().set_size(14)
        axes.set_xlabel("time of the sample (UTC)", size=16)
        if x[0] == x[-1]:
            axes.set_xlim(x[0] - timedelta(minutes=1), x[0] + timedelta(minutes=1))
    else:
        x = starts + 1
        axes.set_xlabel("row", size=16)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    means = np.minimum(means, 1e300)  # matplotlib draws no larger numbers
    axes.plot(x, means, color=MEAN, linewidth=2, marker="o" if len(x) < 30 else "", markersize=5)
    axes.axhline(min(errors.mae, 1e300), color=MEAN, linestyle="--", linewidth=1)
    axes.set_ylim(0, max(1.15 * means.max(), 1e-300))
    axes.set_title("MAE over time", size=16, loc="left")
    axes.set_ylabel("MAE", size=16)


def sample_time(sample_id: str) -> Optional[datetime]:
    """The UTC time that an id tells: features' own ids, or a Unix time in seconds; else None."""
    try:
        if sample_id[8:9] == "T":
            time = datetime.strptime(sample_id[:22], "%Y%m%dT%H%M%S.%f").replace(tzinfo=timezone.utc)
        else:
            time = datetime.fromtimestamp(float(sample_id), timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return time if 2000 <= time.year < 2100 else None  # else it only looks like one


def save(figure: Figure, path: str) -> None:
    """Write the picture as PNG; whoever opens `path` meanwhile sees the old one or the new one, whole."""
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    unfinished = os.path.join(folder, f".{name}.{socket.gethostname()}-{os.getpid()}")
    try:
        # Packed as tightly as by default, it takes half as long again, and is a tenth smaller.
        figure.savefig(unfinished, format="png", pil_kwargs={"compress_level": 1})
        os.replace(unfinished, path)
        # A figure is a web of references to itself; Python would let dozens pile up, 60 MB, before it looks.
        gc.collect()
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


# --- the service ------------------------------------------------------------------------------------


def main() -> None:
    service.start("plot")
    reader = Reader(CSV_FILE)
    trouble = service.Trouble()
    next_poll = 0.0
    stale = True  # the picture does not show what is known

    def update(due: bool) -> None:
        nonlocal stale
        try:
            if not os.path.exists(IMG_FILE):  # shown at once, even where a long CSV is to be read first
                save(draw(reader.errors, reader.last_change), IMG_FILE)
            stale = reader.poll() or stale
            if stale and (due or not reader.behind):
                save(draw(reader.errors, reader.last_change), IMG_FILE)
                stale = False
                tell(reader.errors)
            trouble.over()
        except OSError as error:
            trouble.is_(f"no picture: {error}")

    while not service.stop.requested:
        due = time.monotonic() >= next_poll
        if due:
            next_poll = time.monotonic() + PLOT_INTERVAL
        if due or reader.behind:
            update(due)
        service.beat(not trouble.reason)
        if trouble.reason or not reader.behind:
            time.sleep(service.TICK)


def tell(errors: Errors) -> None:
    if errors.count:
        log.info("%d rows, MAE %.4f: %s", errors.count, errors.mae, IMG_FILE)
    else:
        log.info("no rows yet: %s", IMG_FILE)


if __name__ == "__main__":
    main()
