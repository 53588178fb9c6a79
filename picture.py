"""The picture of the error: how it is distributed, lately and always, and how it changes over time.

Nothing here reads or writes a file. All text is in TEXTS, once a language.
"""

from datetime import datetime, timedelta, timezone
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from plot import Errors

LARGEST = 1e300  # matplotlib draws no larger numbers

# Five that stay apart for colour-blind eyes (Okabe and Ito, 2008), and greys.
BARS, RECENT, MEAN, MEDIAN, P95, MAE = "#8ecbf0", "#a0458a", "#d55e00", "#000000", "#009e73", "#0072b2"
SOFT, FAINT = "0.35", "0.9"

DAY = "%Y-%m-%d"
TIME_LABELS = ["%Y", "%Y-%m", "%m-%d", "%H:%M", "%H:%M:%S", "%H:%M:%S.%f"]  # by years, months, … fractions
TIME_OFFSETS = ["", "%Y", "%Y", DAY, DAY, f"{DAY} %H:%M"]  # what these leave out

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Texts(NamedTuple):
    """What the picture and its page say, in one language."""

    thousands: str  # what stands between them in a number
    title: str
    rows: str
    one_row: str
    updated: str
    waiting: str
    unreadable: str
    always: str
    recent: str
    median: str
    mean: str
    p95: str
    share: str
    error: str
    beyond: str
    course: str
    sample_time: str
    row: str
    no_data: str
    soon: str


TEXTS = {
    "en": Texts(
        thousands=",",
        title="Distribution of the absolute error",
        rows="{} rows",
        one_row="1 row",
        updated="updated {} UTC",
        waiting="unmatched: {} y_true, {} y_pred",
        unreadable="unreadable lines: {}",
        always="all {} rows: MAE {}",
        recent="the last {} rows: MAE {}",
        median="median",
        mean="mean (MAE)",
        p95="95th percentile",
        share="% of rows",
        error="absolute error  |y_true − y_pred|",
        beyond="beyond the right edge: {} of the rows, up to {}",
        course="MAE over time",
        sample_time="time of the sample (UTC)",
        row="row",
        no_data="No data yet",
        soon="the first rows of the CSV will show here",
    ),
    "ru": Texts(
        thousands="\N{NO-BREAK SPACE}",
        title="Распределение абсолютной ошибки",
        rows="строк: {}",
        one_row="строк: 1",
        updated="обновлено {} UTC",
        waiting="без пары: y_true {}, y_pred {}",
        unreadable="нечитаемых строк: {}",
        always="все строки ({}): MAE {}",
        recent="последние строки ({}): MAE {}",
        median="медиана",
        mean="среднее (MAE)",
        p95="95-й перцентиль",
        share="% строк",
        error="абсолютная ошибка  |y_true − y_pred|",
        beyond="правее края строк: {}, до {}",
        course="MAE во времени",
        sample_time="время примера (UTC)",
        row="строка",
        no_data="Данных пока нет",
        soon="здесь появятся первые строки CSV",
    ),
}


def draw(
    errors: "Errors", last_change: float, texts: Texts = TEXTS["en"], waiting: Optional[Tuple[str, str]] = None
) -> Figure:
    """The picture of 1600 x 1000 pixels.

    `last_change` is when the last row came, Unix time; `waiting`, where known, how many true values and how many
    predictions wait for their other half.
    """
    figure = Figure(figsize=(16, 10), dpi=100)
    FigureCanvasAgg(figure)
    if not errors.count:
        figure.text(0.5, 0.55, texts.no_data, size=40, ha="center", color="0.3")
        figure.text(0.5, 0.47, texts.soon, size=20, ha="center", color="0.5")
        return figure
    figure.text(0.03, 0.935, texts.title, size=27)
    facts = [
        texts.rows.format(whole(errors.count, texts)) if errors.count > 1 else texts.one_row,
        texts.updated.format(f"{datetime.fromtimestamp(last_change, timezone.utc):%Y-%m-%d %H:%M:%S}"),
    ]
    if waiting:
        facts.append(texts.waiting.format(*waiting))
    if errors.unreadable:
        facts.append(texts.unreadable.format(whole(errors.unreadable, texts)))
    figure.text(0.03, 0.885, "  ·  ".join(facts), size=16, color=SOFT)
    above, below = figure.add_axes((0.09, 0.36, 0.88, 0.505)), figure.add_axes((0.09, 0.075, 0.88, 0.165))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=15)
        axes.grid(axis="y", color=FAINT)
        axes.set_axisbelow(True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda x, _: number(x, texts)))
    _draw_histogram(above, errors, texts)
    _draw_course(below, errors, texts)
    if len(errors.recent):
        figure.legend(*above.get_legend_handles_labels(), fontsize=16, loc="upper right", bbox_to_anchor=(0.98, 0.995))
    return figure


def _draw_histogram(axes: Any, errors: "Errors", texts: Texts) -> None:
    histogram, recent = errors.histogram, errors.recent
    median, p95 = histogram.quantile(0.5), histogram.quantile(0.95)
    # Up to the 99.5th percentile, so that one outlier among a million does not squeeze all into one bar; and as far
    # as the recent errors go.
    reach = 1.1 * max(histogram.quantile(0.995), p95, *(np.quantile(recent, [0.95]) if len(recent) else ()))
    top = reach if errors.largest > 1.5 * reach else 1.05 * errors.largest
    top = min(top, LARGEST) or 1.0
    width = nice(top / min(40, max(10, 2 * errors.count**0.5)))
    bars = ceil(top / width)
    counts, edges = histogram.bars(bars * width, bars)
    shares = 100 * counts / errors.count
    label = texts.always.format(whole(errors.count, texts), number(errors.mae, texts))
    axes.stairs(shares, edges, fill=True, color=BARS, label=label)
    axes.vlines(edges[1:-1], 0, np.minimum(shares[1:], shares[:-1]), color="white", linewidth=1)
    highest = shares.max()
    if len(recent):
        recent_shares = 100 * np.histogram(recent, edges)[0] / len(recent)
        label = texts.recent.format(whole(len(recent), texts), number(recent.mean(), texts))
        axes.stairs(recent_shares, edges, color=RECENT, linewidth=3, label=label)
        highest = max(highest, recent_shares.max())
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0, (highest or 1.0) / 0.77)  # above that, a line of its own for each label: none covers another
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= min(100, axes.get_ylim()[1])])
    for height, name, value, digits, color, style in (  # a quantile is known to 0.1 %
        (0.95, texts.median, median, 3, MEDIAN, "-"),
        (0.88, texts.mean, errors.mae, 4, MEAN, "--"),
        (0.81, texts.p95, p95, 3, P95, "-."),
    ):
        x = min(value, edges[-1])
        axes.axvline(x, ymax=height + 0.02, color=color, linestyle=style, linewidth=2.5)
        label = f"{name}  {number(value, texts, digits)}" + ("  →" if value > x else "")
        side, points = ("right", -8) if x > 0.6 * edges[-1] else ("left", 8)
        axes.annotate(
            label, (x, height), (points, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha=side, va="center", size=17, color=color,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )  # fmt: skip
    beyond = errors.count - int(counts.sum())
    note = f"   ({texts.beyond.format(whole(beyond, texts), number(errors.largest, texts))})" if beyond else ""
    axes.set_xlabel(texts.error + note, size=17)
    axes.set_ylabel(texts.share, size=17)


def _draw_course(axes: Any, errors: "Errors", texts: Texts) -> None:
    means, starts, ids = errors.course.means()
    times = [sample_time(sample_id) for sample_id in ids]
    known = [time for time in times if time]
    x: np.ndarray
    if len(known) == len(times):  # every span's id tells its time
        order = np.argsort(np.array(known), kind="stable")
        x, means = np.array(known)[order], means[order]
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(
            ConciseDateFormatter(locator, formats=TIME_LABELS, zero_formats=TIME_LABELS, offset_formats=TIME_OFFSETS)
        )
        axes.xaxis.get_offset_text().set_size(15)
        axes.set_xlabel(texts.sample_time, size=17)
        if x[0] == x[-1]:
            axes.set_xlim(x[0] - timedelta(minutes=1), x[0] + timedelta(minutes=1))
    else:
        x = starts + 1
        axes.set_xlabel(texts.row, size=17)
    means = np.minimum(means, LARGEST)
    axes.plot(x, means, color=MAE, linewidth=2, marker="o" if len(x) < 30 else "", markersize=5)
    axes.axhline(min(errors.mae, LARGEST), color=MEAN, linestyle="--", linewidth=1.5)
    axes.set_ylim(0, max(1.15 * means.max(), 1e-300))
    axes.yaxis.get_major_locator().set_params(nbins=4)
    axes.set_title(texts.course, size=18, loc="left")


def nice(width: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `width`."""
    if not 1e-290 < width < LARGEST:
        return width
    power = 10.0 ** floor(log10(width))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= width)


def number(value: float, texts: Texts, digits: int = 4) -> str:
    """A number as short as it can be read at a glance."""
    if not isfinite(value):
        return "∞"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if value and not -4 <= int(exponent) < 7:
        return f"{float(mantissa):g}×10{str(int(exponent)).translate(SUPERSCRIPT)}"
    rounded = float(f"{mantissa}e{exponent}")
    return (f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}").replace(",", texts.thousands)


def whole(value: int, texts: Texts) -> str:
    """A whole number with all its digits."""
    return f"{value:,}".replace(",", texts.thousands)


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
