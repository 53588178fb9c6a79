"""plot: draws how the absolute error is distributed, from the CSV that metrics writes.

    CSV_FILE=logs/metric_log.csv IMG_FILE=logs/error_distribution.png python plot.py

Each poll reads only the rows that are new and folds them into sums and counts, so that its time grows
with the new rows and its memory with nothing. How the picture looks is in picture.py. Beside it, index.html
shows it in a browser and keeps it fresh.
"""

import csv
import gc
import logging
import os
import socket
import sqlite3
import time
from contextlib import closing
from glob import glob
from io import BytesIO
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple
from urllib.parse import quote

import numpy as np
from matplotlib.figure import Figure

import service
from picture import TEXTS, draw, whole

CSV_FILE = service.text("CSV_FILE", "/app/logs/metric_log.csv")  # or with *, where metrics has shards
IMG_FILE = service.text("IMG_FILE", "/app/logs/error_distribution.png")
STATE_FILE = service.text("STATE_FILE", "/app/state/metrics.db")  # the same; only read, to tell what waits unmatched
PLOT_INTERVAL = service.number("PLOT_INTERVAL", 10.0, 0.1, 86400)  # seconds between polls
PLOT_LANG = service.choice("PLOT_LANG", "en", list(TEXTS))  # of the picture

CHUNK = 1024 * 1024  # bytes of CSV in memory at a time
SPANS = 240  # points of the MAE over time, at most
MOST_RECENT = 10_000  # rows that are drawn once more, as the recent ones
OLD = 5.0  # seconds that a half waits before it counts as unmatched: others are on their way
MOST_COUNTED = 100_000  # of these, lest a million of them take half a second at every poll

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
        self._last = np.empty(0)

    @property
    def mae(self) -> float:
        return self.sum / self.count

    @property
    def recent(self) -> np.ndarray:
        """The errors of the last fifth of the rows, at most MOST_RECENT; none while these are too few to compare."""
        count = min(self.count // 5, MOST_RECENT)
        return self._last[-count:] if count >= 20 else self._last[:0]

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
            self._last = np.concatenate((self._last, errors))[-MOST_RECENT:]


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


def named(pattern: str) -> List[str]:
    """The files that a pattern with * names; without one, it is the name of one file, there or not."""
    return sorted(glob(pattern)) if "*" in pattern else [pattern]


class Part:
    """Follows one file: whole lines only, each once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: Optional[BinaryIO] = None
        self.rewind()

    def rewind(self) -> None:
        self.offset = 0  # of the first byte not read yet
        self._tail = b""  # the last bytes before that
        self.behind = False  # there was more than one poll could read

    def follow(self) -> bool:
        """Have the file open that now has the name; whether what was read of it counts no more."""
        try:
            found: Optional[BinaryIO] = open(self._path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            found = None
        if self._file and found and self._goes_on(self._file, found):
            found.close()
            return False
        # The old one stays open until now: a file deleted and made anew cannot have its identity.
        if self._file:
            self._file.close()
        self._file = found
        return self.offset > 0

    def _goes_on(self, known: BinaryIO, found: BinaryIO) -> bool:
        status = os.fstat(found.fileno())
        if not os.path.samestat(status, os.fstat(known.fileno())) or status.st_size < self.offset:
            return False
        found.seek(self.offset - len(self._tail))
        return found.read(len(self._tail)) == self._tail  # else it was emptied, and has grown since

    @property
    def last_change(self) -> float:
        """Unix time."""
        return os.fstat(self._file.fileno()).st_mtime if self._file else 0.0

    def read(self, fold: Callable[[bytes], None]) -> None:
        """Give `fold` the lines that are new, at most a chunk of them."""
        if not self._file:
            self.behind = False
            return
        self._file.seek(self.offset)
        chunk = self._file.read(CHUNK)
        self.behind = len(chunk) == CHUNK
        end = chunk.rfind(b"\n") + 1
        if not end and self.behind:
            end = CHUNK  # such a line is no row of ours, and is not to fill the memory
        lines = chunk[:end]
        if not self.offset and lines.startswith(b"id,"):
            lines = lines.partition(b"\n")[2]
        if lines:
            fold(lines)
        self.offset += end
        self._tail = chunk[max(0, end - 64) : end] or self._tail


class Reader:
    """Folds the CSV, or all that a pattern with * names; anew when one shrinks or is another file."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._parts: Dict[str, Part] = {}
        self.errors = Errors()

    def poll(self, seconds: float = 1.0) -> bool:
        """Fold in what is new, for about so long; whether anything changed. OSError: it cannot be read."""
        for path in named(self._pattern):
            self._parts.setdefault(path, Part(path))
        parts = self._parts.values()
        gone = [part.follow() for part in parts]
        anew = any(gone)
        if anew:
            self.errors = Errors()
            for part in parts:
                part.rewind()
        before = [part.offset for part in parts]
        deadline = time.monotonic() + seconds
        more = True
        while more and time.monotonic() < deadline:
            for part in parts:  # in turn, so that what is recent comes from all of them
                part.read(self.errors.fold)
            more = self.behind
        return anew or before != [part.offset for part in parts]

    @property
    def behind(self) -> bool:
        """There was more than one poll could read."""
        return any(part.behind for part in self._parts.values())

    @property
    def last_change(self) -> float:
        """When the last row came, Unix time."""
        return max((part.last_change for part in self._parts.values()), default=0.0)


# --- files ------------------------------------------------------------------------------------------


def unmatched(pattern: str) -> Optional[Tuple[str, str]]:
    """How many true values and how many predictions wait in metrics' state for their other half for OLD seconds.

    None where it cannot be read, as on another machine or while metrics rests: it is only worth a mention.
    """
    counts = [0, 0]
    paths = named(pattern)
    if not paths:
        return None
    try:
        for path in paths:
            with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", timeout=0.1, uri=True)) as db:
                for index, other in enumerate(("y_pred", "y_true")):
                    query = f"SELECT 1 FROM samples WHERE {other} IS NULL AND since < ? LIMIT ?"  # noqa: S608
                    limits = time.time() - OLD, MOST_COUNTED + 1
                    counts[index] += db.execute(f"SELECT count(*) FROM ({query})", limits).fetchone()[0]  # noqa: S608
    except sqlite3.Error as error:
        log.debug("%s: %s", pattern, error)
        return None
    texts = TEXTS[PLOT_LANG]
    true_values, predictions = (
        f">{whole(MOST_COUNTED, texts)}" if count > MOST_COUNTED else whole(count, texts) for count in counts
    )
    return true_values, predictions


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


def write_page(picture: str) -> None:
    """Write index.html beside the picture, unless there is one that is not ours."""
    folder, name = os.path.split(picture)
    path = os.path.join(folder, "index.html")
    page = PAGE.format(
        lang=PLOT_LANG,
        title=TEXTS[PLOT_LANG].title,
        picture=quote(name),
        seconds=PLOT_INTERVAL,
        reload=max(1, round(PLOT_INTERVAL)),
    )
    try:
        os.makedirs(folder or ".", exist_ok=True)
        with open(path, "r+" if os.path.exists(path) else "w+", encoding="utf-8") as file:
            there = file.read(len(page) + 1000)
            if there != page and (not there or PAGE_IS_OURS in there):
                file.seek(0)
                file.truncate()
                file.write(page)
    except (OSError, ValueError) as error:
        log.warning("no page to show the picture: %s", error)


PAGE_IS_OURS = "<!-- written by plot.py -->"
PAGE = f"""<!doctype html>
{PAGE_IS_OURS}
<html lang="{{lang}}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{title}}</title>
<style>
  body {{{{ margin: 0; background: white }}}}
  img {{{{ display: block; margin: auto; max-width: 100%; max-height: 100vh }}}}
</style>
<noscript><meta http-equiv="refresh" content="{{reload}}"></noscript>
<img id="picture" src="{{picture}}" alt="{{title}}">
<script>
  const shown = document.getElementById("picture");
  setInterval(() => {{{{
    const next = new Image();  // loaded out of sight: the picture never flickers, nor vanishes
    next.onload = () => {{{{ shown.src = next.src; }}}};
    next.src = "{{picture}}?" + Date.now();
  }}}}, 1000 * {{seconds:g}});
</script>
"""


# --- the service ------------------------------------------------------------------------------------


def main() -> None:
    service.start("plot")
    reader = Reader(CSV_FILE)
    trouble = service.Trouble()
    next_poll = 0.0
    stale = True  # the picture does not show what is known
    waiting: Optional[Tuple[str, str]] = None

    write_page(IMG_FILE)

    def show() -> None:
        save(draw(reader.errors, reader.last_change, TEXTS[PLOT_LANG], waiting), IMG_FILE)

    def update(due: bool) -> None:
        nonlocal stale, waiting
        try:
            if not os.path.exists(IMG_FILE):  # shown at once, even where a long CSV is to be read first
                show()
            stale = reader.poll() or stale
            if due:
                before, waiting = waiting, unmatched(STATE_FILE)
                stale = stale or (waiting != before and reader.errors.count > 0)
            if stale and (due or not reader.behind):
                show()
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
        log.info("%d row%s, MAE %.4f: %s", errors.count, "s" * (errors.count > 1), errors.mae, IMG_FILE)
    else:
        log.info("no rows yet: %s", IMG_FILE)


if __name__ == "__main__":
    main()
