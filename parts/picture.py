"""The picture of the error: how it is distributed, lately and always, and how it changes over time."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from parts.summary import Summary

HERE = Path(__file__).parent

Words = Dict[str, str]
WORDS: Dict[str, Words] = {name: json.loads((HERE / f"{name}.json").read_text("utf-8")) for name in ("en", "ru")}

BARS, RECENT, COURSE = "#8ecbf0", "#a0458a", "#0072b2"
MEDIAN, MEAN, P95 = "#000000", "#d55e00", "#009e73"  # stay apart for colour-blind eyes (Okabe and Ito, 2008)

LABELS = (0.95, 0.88, 0.81)  # how high the marks' labels stand, each in a line of its own: none covers another
HIGHEST_BAR = 0.77

DAY = "%Y-%m-%d"
LATEST = datetime.max.replace(tzinfo=timezone.utc).timestamp() - 1  # a file may tell a time that no calendar has


class Mark(NamedTuple):
    """A value that is marked in the histogram, what is said of it, and how its line is drawn."""

    value: float
    text: str
    color: str
    style: str


@rc_context(fname=HERE / "picture.mplstyle")
def draw(summary: Summary, last_change: float, words: Words) -> Figure:
    """The picture, of 1600 x 1000 pixels; `last_change` is when the last row came, Unix time."""
    figure = Figure()
    if not summary.rows:
        figure.text(0.5, 0.55, words["no_data"], size=40, ha="center", color="0.3")
        figure.text(0.5, 0.47, words["soon"], size=20, ha="center", color="0.5")
        return figure
    figure.text(0.03, 0.935, words["title"], size=27)
    time = datetime.fromtimestamp(min(max(last_change, 0), LATEST), timezone.utc)
    facts = [words["rows"].format(whole(summary.rows)), words["updated"].format(f"{time:{DAY} %H:%M:%S}")]
    if summary.unreadable:
        facts.append(words["unreadable"].format(whole(summary.unreadable)))
    figure.text(0.03, 0.885, "  ·  ".join(facts), size=16, color="0.35")
    above, below = figure.add_axes((0.09, 0.36, 0.88, 0.505)), figure.add_axes((0.09, 0.075, 0.88, 0.165))
    for axis in (above.xaxis, above.yaxis, below.xaxis, below.yaxis):
        axis.set_major_formatter(lambda x, _: number(x))
    _draw_histogram(above, summary, words)
    _draw_marks(above, marks(summary, words))
    _draw_course(below, summary, words)
    if len(summary.recent):
        figure.legend(*above.get_legend_handles_labels(), loc="upper right", bbox_to_anchor=(0.98, 0.995))
    return figure


def in_words(summary: Summary, words: Words) -> str:
    """What the picture tells, in a line, for whoever doesn't see it."""
    if not summary.rows:
        return words["no_data"]
    figures = [words["rows"].format(whole(summary.rows)), *(mark.text for mark in marks(summary, words))]
    return f"{words['title']}. {', '.join(figures)}"


def marks(summary: Summary, words: Words) -> List[Mark]:
    """Median, mean and 95th percentile of all errors."""
    median, p95 = (summary.quantile(q) for q in (0.5, 0.95))  # known to 0.1 %: three digits
    return [
        Mark(median, f"{words['median']} {number(median, 3)}", MEDIAN, "-"),
        Mark(summary.mae, f"{words['mean']} {number(summary.mae)}", MEAN, "--"),
        Mark(p95, f"{words['p95']} {number(p95, 3)}", P95, "-."),
    ]


def _draw_histogram(axes: Any, summary: Summary, words: Words) -> None:
    recent, largest = summary.recent, summary.quantile(1)
    # Up to the 99.5th percentile, so that one outlier among a million does not squeeze all into one bar; and as far
    # as the recent errors go.
    reach = max(summary.quantile(0.995), np.quantile(recent, 0.95) if len(recent) else 0)
    top = 1.1 * reach if largest > 1.65 * reach else 1.05 * largest
    edges = bar_edges(top, min(40, max(10, int(2 * summary.rows**0.5))))
    counts = summary.between(edges)
    label = words["always"].format(whole(summary.rows), number(summary.mae))
    shares = 100 * counts / summary.rows
    axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=BARS, edgecolor="white", label=label)
    highest = shares.max()
    if len(recent):
        shares = 100 * np.diff(np.searchsorted(np.sort(recent), edges)) / len(recent)
        label = words["recent"].format(whole(len(recent)), number(recent.mean()))
        axes.stairs(shares, edges, color=RECENT, linewidth=3, label=label)
        highest = max(highest, shares.max())
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0, highest / HIGHEST_BAR)
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= min(100, axes.get_ylim()[1])])
    beyond = summary.rows - int(counts.sum())
    note = f"   ({words['beyond'].format(whole(beyond), number(largest))})" if beyond else ""
    axes.set_xlabel(words["error"] + note)
    axes.set_ylabel(words["share"])


def bar_edges(top: float, most: int) -> np.ndarray:
    """Numbers from 0 to `top` or a little beyond, a round step apart: at most `most` steps, and not much fewer.

    A round step is 1, 2, 2.5 or 5 times a power of ten, and each number is the double nearest to that decimal.
    """
    edges = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top or 1.0)
    return np.array([float(f"{edge:.4g}") for edge in edges])


def _draw_marks(axes: Any, found: Sequence[Mark]) -> None:
    """A line for each mark, and its label beside it; of one beyond the right edge at that edge, with an arrow."""
    right = axes.get_xlim()[1]
    found = sorted(found)
    places = [min(mark.value, right) for mark in found]
    for height, (i, side) in zip(LABELS, arrange([place / right for place in places])):
        value, text, color, style = found[i]
        axes.axvline(places[i], ymax=height + 0.02, color=color, linestyle=style, linewidth=2.5, clip_on=False)
        axes.annotate(
            text + ("  →" if value > right else ""), (places[i], height), (8 * side, 0), size=17, color=color,
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="left" if side > 0 else "right", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )  # fmt: skip


def arrange(places: Sequence[float]) -> List[tuple]:
    """The marks from the highest label to the lowest: which one, and the label's side, 1 right of the mark or -1 left.

    `places`, ascending, are parts of the width; a label takes up to a quarter of it, and a mark is as high as its
    label. So none covers a mark: all stand on the right, where there is room; else on both sides of the widest gap.
    """
    gaps = np.diff([0.0, *places])
    n_right = len(places) if places[-1] <= 0.75 else int(np.argmax(gaps))
    return [(i, 1) for i in range(n_right)] + [(i, -1) for i in reversed(range(n_right, len(places)))]


def _draw_course(axes: Any, summary: Summary, words: Words) -> None:
    means, starts = summary.course.means()
    axes.plot(starts + 1, means, color=COURSE, linewidth=2, marker=".", markersize=8)
    axes.axhline(summary.mae, color=MEAN, linestyle="--", linewidth=1.5)
    axes.set_ylim(0, 1.15 * means.max() or 1.0)
    axes.locator_params(axis="y", nbins=4)
    axes.set_title(words["course"])
    times = [time for time in map(sample_time, summary.course.ids) if time]
    if len(times) < len(means):
        axes.set_xlabel(words["row"])
    else:  # every span's id tells its time
        # Row by row all the same: by time, a night between two runs would leave each a few pixels.
        axes.set_xlabel(words["sample_time"])
        ticks = np.unique(np.linspace(0, len(times) - 1, 6).astype(int))
        axes.set_xticks(starts[ticks] + 1, [f"{times[tick]:%m-%d %H:%M:%S}" for tick in ticks])


def sample_time(sample_id: str) -> Optional[datetime]:
    """The UTC time with which features' own ids begin; None for other ids."""
    try:
        return datetime.strptime(sample_id[:22], "20%y%m%dT%H%M%S.%f").replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def number(value: float, digits: int = 4) -> str:
    """A number as short as it can be read at a glance."""
    return f"{float(f'{value:.{digits}g}'):,.7g}".replace(",", "\u202f")


def whole(value: int) -> str:
    """A whole number with all its digits."""
    return f"{value:,}".replace(",", "\u202f")
