"""The picture of the error: how it is distributed, lately and always, and how it changes over time."""

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np

os.environ["MPLBACKEND"] = "agg"  # a notebook's may be one that is not installed here
from matplotlib import rc_context, rcdefaults
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from parts.summary import Summary

HERE = Path(__file__).parent
rcdefaults()  # whatever the user's own matplotlibrc says

Words = Dict[str, str]
WORDS: Dict[str, Words] = {name: json.loads((HERE / f"{name}.json").read_text("utf-8")) for name in ("en", "ru")}

BARS, RECENT, COURSE = "#8ecbf0", "#a0458a", "#0072b2"
#: Of median, mean and 95th percentile: colours that stay apart for colour-blind eyes (Okabe and Ito, 2008).
MARKS = MEDIAN, MEAN, P95 = ("#000000", "-"), ("#d55e00", "--"), ("#009e73", "-.")

LATEST = datetime.max.replace(tzinfo=timezone.utc).timestamp() - 1  # a file may tell a time that no calendar has


@rc_context(fname=HERE / "picture.mplstyle")
def draw(summary: Summary, last_change: float, words: Words) -> Figure:
    """The picture, of 1600 x 1000 pixels; `last_change` is when the last row came, Unix time."""
    figure = Figure()
    if not summary.rows:
        figure.text(0.5, 0.55, words["no_data"], size=40, ha="center", color="0.3")
        figure.text(0.5, 0.47, words["soon"], size=20, ha="center", color="0.5")
        return figure
    figure.text(0.03, 0.93, words["title"], size=26)
    time = datetime.fromtimestamp(min(max(last_change, 0), LATEST), timezone.utc)
    facts = [words["rows"].format(whole(summary.rows)), words["updated"].format(f"{time:%Y-%m-%d %H:%M:%S}")]
    if summary.unreadable:
        facts.append(words["unreadable"].format(whole(summary.unreadable)))
    figure.text(0.03, 0.87, "  ·  ".join(facts), size=16, color="0.35")
    above, below = figure.add_axes((0.09, 0.36, 0.88, 0.49)), figure.add_axes((0.09, 0.075, 0.88, 0.165))
    for axis in (above.xaxis, above.yaxis, below.xaxis, below.yaxis):
        axis.set_major_formatter(lambda x, _: number(x))
    median, p95 = (summary.quantile(q) for q in (0.5, 0.95))  # known to 0.1 %: three digits
    marks = ("median", median, 3), ("mean", summary.mae, 4), ("p95", p95, 3)
    for (name, value, digits), (color, style) in zip(marks, MARKS):
        label = f"{words[name]} {number(value, digits)}"
        above.axvline(value, color=color, linestyle=style, linewidth=2.5, label=label)
    _draw_histogram(above, summary, words)
    _draw_course(below, summary, words)
    figure.legend(loc="upper right", bbox_to_anchor=(0.97, 0.99), borderaxespad=0, ncol=2)
    return figure


def in_words(figure: Figure) -> str:
    """What the title, the facts and the legend of a picture say, for whoever doesn't see it."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    return ", ".join(text.get_text() for text in texts)


def _draw_histogram(axes: Any, summary: Summary, words: Words) -> None:
    recent, largest = summary.recent, summary.quantile(1)
    # Up to the 99.5th percentile, so that one outlier among a million does not squeeze all into one bar; and as far
    # as the recent errors go.
    reach = max(summary.quantile(0.995), np.quantile(recent, 0.95) if len(recent) else 0)
    top = 1.1 * reach if largest > 1.65 * reach else 1.05 * largest
    edges = bar_edges(top, min(40, max(10, int(2 * summary.rows**0.5))))
    counts = summary.between(edges)
    shares = 100 * counts / summary.rows
    axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=BARS, edgecolor="white", label=words["always"])
    if len(recent):
        shares = 100 * np.diff(np.searchsorted(np.sort(recent), edges)) / len(recent)
        label = words["recent"].format(whole(len(recent)), number(recent.mean()))
        axes.stairs(shares, edges, color=RECENT, linewidth=3, label=label)
    axes.set_xlim(0, edges[-1])
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


def _draw_course(axes: Any, summary: Summary, words: Words) -> None:
    means, starts = summary.course.means()
    axes.plot(starts + 1, means, color=COURSE, linewidth=2, marker=".", markersize=8)
    axes.axhline(summary.mae, color=MEAN[0], linestyle=MEAN[1], linewidth=1.5)
    axes.set_ylim(0, 1.15 * means.max() or 1.0)
    axes.locator_params(axis="y", nbins=4)
    axes.set_title(words["course"])
    times = [time for time in map(sample_time, summary.course.ids) if time]
    if len(times) < len(means):
        axes.set_xlabel(words["row"])
    else:  # every span's id tells its time
        # Row by row all the same: by time, a night between two runs would leave each a few pixels.
        axes.set_xlabel(words["sample_time"])
        every = -(-len(times) // 6)
        axes.set_xticks(starts[::every] + 1, [f"{time:%m-%d %H:%M:%S}" for time in times[::every]])


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
