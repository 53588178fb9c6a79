"""plot: the picture, its marks and its words."""

import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Dict, List, Tuple

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.patches import StepPatch

from parts.picture import WORDS, bar_edges, draw, in_words, number, sample_time
from parts.summary import LARGEST, SMALLEST, Summary, fold
from support.paths import ROOT

EN = WORDS["en"]

DRAW = """
import sys
from parts.image_file import save_image
from parts.picture import WORDS, draw
from parts.summary import Summary
save_image(draw(Summary(), 0, WORDS["en"]), sys.argv[1])
"""

RANDOM = np.random.default_rng(0)
HALF_NORMAL = np.abs(RANDOM.normal(0, 0.1, 1000))
DRIFTED = np.abs(RANDOM.normal(0.5, 0.1, 250))


def read(values: Any, seconds_between: float = 5) -> Summary:
    """The summary of samples that came one after the other since a certain morning."""
    begun = datetime(2026, 11, 23, 10, 45, tzinfo=timezone.utc)
    rows = (
        f"{begun + timedelta(seconds=n * seconds_between):%Y%m%dT%H%M%S.%f}Z-0,0.0,{value!r},{value!r}\n"
        for n, value in enumerate(np.array(values).tolist())
    )
    return fold(Summary(), "".join(rows).encode())


#: What is to look as in reference/: the errors and the language.
CASES: Dict[str, Tuple[Any, str]] = {
    "none": ([], "en"),
    "one": ([0.068], "en"),
    "four": ([0.1, 0.25, 0.3, 0.38], "en"),
    "ten equal": ([0.5] * 10, "en"),
    "whole numbers": (np.repeat(range(5), [200, 300, 250, 150, 100]), "en"),
    "many": (HALF_NORMAL, "en"),
    "outlier": ([*np.tile(HALF_NORMAL, 100), 1e6], "en"),
    "tiny": (1e-11 * HALF_NORMAL, "en"),
    "large": (1e10 * HALF_NORMAL, "en"),
    "drift": ([*HALF_NORMAL, *DRIFTED], "ru"),
}


#: The last matplotlib for Python 3.9 and 3.10 puts letters elsewhere by part of a pixel.
OLD_LETTERS = tuple(map(int, matplotlib.__version__.split(".")[:2])) < (3, 11)


@lru_cache
def drawn(case: str) -> np.ndarray:
    """The picture of a case as it was saved, a quarter as wide and high, 0 to 1, (250, 400, 3)."""
    values, language = CASES[case]
    file = BytesIO()
    draw(read(values), 1.79e9, WORDS[language]).savefig(file, format="png")
    file.seek(0)
    return matplotlib.image.imread(file)[:, :, :3].reshape(250, 4, 400, 4, 3).mean(axis=(1, 3))


def difference(picture: np.ndarray, case: str) -> float:
    """The root mean square of what tells it from the reference of that case."""
    path = Path(__file__).with_name("reference") / f"{case.replace(' ', '-')}.png"
    if os.environ.get("UPDATE_REFERENCES"):
        matplotlib.image.imsave(path, drawn(case))
    return float(np.sqrt(((picture - matplotlib.image.imread(path)[:, :, :3]) ** 2).mean()))


@pytest.mark.parametrize("case", CASES)
def test_the_picture_looks_as_its_reference(case):
    """With UPDATE_REFERENCES=1 they are written anew, to be looked at before they are committed."""
    picture = drawn(case)
    if OLD_LETTERS:
        assert difference(picture, case) < 0.075
        return
    assert difference(picture, case) < 0.01
    assert difference(np.roll(picture, 1, axis=1), case) > 0.01  # so much, four pixels, is noticed
    assert min(difference(picture, other) for other in CASES if other != case) > 0.01


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize(
    "values",
    [[0.0] * 10, [5e-324], [1e-320, LARGEST], [LARGEST] * 200, [SMALLEST] * 30, [SMALLEST] + [0.0] * 1000],
    ids=["zeros", "smallest", "extremes", "large", "small", "small mean"],
)
def test_a_picture_of_1600_by_1000_is_drawn_whatever_the_errors_are(values, language):
    file = BytesIO()
    draw(read(values), 1.7e9, WORDS[language]).savefig(file, format="png")
    file.seek(0)
    pixels = matplotlib.image.imread(file)
    assert pixels.shape[:2] == (1000, 1600)
    assert pixels.std() > 0.01  # it isn't blank


def test_the_picture_names_mean_median_and_95th_percentile():
    texts = [text.get_text() for text in draw(read([*range(1, 100), 105]), 0, EN).legends[0].get_texts()]
    assert texts == ["median 50", "mean (MAE) 50.55", "95th percentile 95", "the last 20 rows: MAE 90.75", "all rows"]


def test_an_error_on_the_edge_of_a_bar_is_drawn_in_the_bar_on_its_right():
    counts, edges = _bars([0.1, 0.25, 0.3, 0.38])
    assert counts[np.isin(edges[:-1], [0.1, 0.25, 0.3, 0.35])].tolist() == [1, 1, 1, 1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=100), st.sampled_from([1, 2, 5, 10, 20, 1000]))
@example([3] * 100, 10)  # 0.3 is not three times 0.1
def test_the_bars_are_exact_where_errors_are_whole_numbers_or_decimals(numbers, parts):
    values = [n / parts for n in numbers]
    counts, edges = _bars(values)
    assert counts.tolist() == np.histogram(values, edges)[0].tolist()
    assert counts.sum() == len(values)


def _bars(values: List[float]) -> Tuple[np.ndarray, np.ndarray]:
    """How many errors are drawn in each bar, and the edges of these."""
    bars: Any = draw(read(values), 0, EN).axes[0].containers[0]
    counts = np.array([bar.get_height() for bar in bars]) * len(values) / 100
    assert counts == pytest.approx(counts.round())
    return counts.round(), np.array([*(bar.get_x() for bar in bars), bars[-1].get_x() + bars[-1].get_width()])


@pytest.mark.parametrize("moment", [-1e12, 1e12])
def test_a_file_with_a_time_that_no_calendar_has_is_drawn(moment):
    assert draw(read([1.0]), moment, EN)


@given(st.floats(SMALLEST, LARGEST), st.integers(10, 40))
@example(0.3, 30)
@example(0.95, 20)
def test_the_edges_of_bars_are_round_numbers_that_reach_to_the_top(top, most):
    edges = bar_edges(top, most)
    assert most / 2.5 <= len(edges) - 1 + 1e-9 <= most + 1
    assert edges[0] == 0
    assert edges[-2] <= top * (1 + 1e-9)
    assert top <= edges[-1] * (1 + 1e-9)
    step = f"{edges[1]:.1e}".split("e")
    assert step[0] in {"1.0", "2.0", "2.5", "5.0"}
    assert edges.tolist() == [float(f"{round(float(step[0]) * 10) * i}e{int(step[1]) - 1}") for i in range(len(edges))]


SPREADS = {
    "one": [0.068],
    "two": [0.05, 0.12],
    "four": [0.1, 0.25, 0.3, 0.38],
    "close": [0.9, 0.91, 0.905],
    "equal": [0.5] * 10,
    "equal, many": [0.5] * 1000,
    "whole numbers": [0, 1, 1, 2, 4] * 20,
    "wrong or right": [0.0] * 93 + [1.0] * 7,
    "half normal": HALF_NORMAL,
    "far from zero": 1 - HALF_NORMAL / 10,
    "heavy tail": 1 / np.linspace(1e-6, 1, 3000) ** 2,
    "outlier": [*HALF_NORMAL, 1e9],
    "outlier beside equals": [0.01] * 300 + [1e4],
    "drift": [*HALF_NORMAL, *DRIFTED],
    "zeros": [0.0] * 99 + [1.0],
}


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("values", SPREADS.values(), ids=SPREADS)
def test_neither_legend_nor_text_covers_another_or_the_histogram(values, language):
    figure = draw(fold(read(values), b"junk\n" * 1234), 0, WORDS[language])
    figure.draw_without_rendering()
    [legend] = figure.legends
    boxes = [text.get_window_extent() for text in (*figure.texts, figure.axes[0].xaxis.label, figure.axes[1].title)]
    boxes += [legend.get_window_extent(), figure.axes[0].get_window_extent(), figure.axes[1].get_window_extent()]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert all(box.x0 >= 0 and box.x1 <= 1600 and box.y1 <= 1000 for box in boxes)


@pytest.mark.parametrize("values", SPREADS.values(), ids=SPREADS)
def test_a_mark_stands_where_its_words_in_the_legend_say(values):
    figure = draw(read(values), 0, EN)
    axes: Any = figure.axes[0]
    lines = {line.get_label(): line.get_xdata()[0] for line in axes.lines}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:3] == list(lines)
    for label, value in lines.items():
        assert float(label.split(" ")[-1].replace("\u202f", "")) == pytest.approx(value, rel=6e-3)
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 3


def test_after_a_drift_the_recent_errors_and_the_end_of_the_strip_stand_apart():
    figure = draw(read([*HALF_NORMAL, *DRIFTED]), 0, EN)
    _, mean, _, recent, _ = (text.get_text() for text in figure.legends[0].get_texts())
    assert mean == f"mean (MAE) {np.mean([*HALF_NORMAL, *DRIFTED]):.4f}"
    assert recent == f"the last 250 rows: MAE {DRIFTED.mean():.4f}"
    stairs = figure.axes[0].patches[-1]
    assert isinstance(stairs, StepPatch)
    shares, edges, _ = stairs.get_data()
    assert sum(shares) == pytest.approx(100)
    assert 0.45 < edges[np.argmax(shares)] < 0.55
    mae = np.asarray(figure.axes[1].lines[0].get_ydata())
    assert mae[: len(mae) // 2].max() < 0.2 < 0.4 < mae[-len(mae) // 6 :].min()


def test_the_facts_under_the_title_are_rows_time_and_unreadable_lines():
    def facts(summary: Summary) -> str:
        return draw(summary, 1.7e9, EN).texts[1].get_text()

    assert facts(read([1.0])) == "Rows: 1  ·  updated 2023-11-14 22:13:20 UTC"
    assert facts(fold(read([1.0] * 1234), b"junk\n")) == (
        "Rows: 1\u202f234  ·  updated 2023-11-14 22:13:20 UTC  ·  unreadable lines: 1"
    )


def test_the_picture_in_words_says_what_is_written_in_it():
    assert in_words(draw(Summary(), 0, EN)) == "No data yet, the first rows of the CSV will show here"
    assert in_words(draw(read([0.1, 0.2, 0.3]), 1.7e9, EN)) == (
        "Distribution of the absolute error, Rows: 3  ·  updated 2023-11-14 22:13:20 UTC, "
        "median 0.2, mean (MAE) 0.2, 95th percentile 0.3, all rows"
    )


@pytest.mark.parametrize("language", WORDS)
def test_each_language_says_all_with_the_same_places_to_fill(language):
    assert {key: text.count("{}") for key, text in WORDS[language].items()} == {
        key: text.count("{}") for key, text in EN.items()
    }
    assert all(WORDS[language].values())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.5, "0.5"),
        (0.123456, "0.1235"),
        (1234567.0, "1\u202f235\u202f000"),
        (1e7, "1e+07"),
        (2.5e-12, "2.5e-12"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_the_time_of_a_sample_is_read_from_its_id():
    assert sample_time("20261123T104500.250000Z-0a1b2c3d") == datetime(
        2026, 11, 23, 10, 45, 0, 250000, tzinfo=timezone.utc
    )
    assert sample_time("sample-1") is None
    assert sample_time("00010101T000000.000000") is None  # too long ago for matplotlib


def test_the_picture_is_the_same_whatever_matplotlib_is_told_by_the_user(tmp_path):
    (tmp_path / "matplotlibrc").write_text("savefig.dpi: 300\nsavefig.bbox: tight\nfont.size: 30\n")
    env = {"MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "module://not.installed", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / "picture.png")], check=True, env={**os.environ, **env})
    assert matplotlib.image.imread(tmp_path / "picture.png").shape[:2] == (1000, 1600)
