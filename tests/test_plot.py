"""plot: folding, reading, and the picture."""

import os
import re
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Dict, Tuple

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import StepPatch

import picture
import plot
from metrics import Ledger
from picture import TEXTS, draw, sample_time
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


def test_the_parts_of_a_pattern_are_folded_together_and_all_anew_when_one_is_replaced(tmp_path):
    one, other, third = (tmp_path / f"log{part}.csv" for part in ("", ".1", ".2"))
    reader = Reader(str(tmp_path / "log*.csv"))
    assert not reader.poll()
    one.write_text(HEADER + lines([1.0]))
    other.write_text(HEADER + lines([2.0, 4.0]))
    assert reader.poll()
    assert (reader.errors.count, reader.errors.sum) == (3, 7.0)
    third.write_text(HEADER + lines([8.0]))
    with one.open("a") as file:
        file.write(lines([16.0]))
    known = reader.errors
    assert reader.poll()
    assert reader.errors is known  # a new part does not make it read the others again
    assert (reader.errors.count, reader.errors.sum) == (5, 31.0)
    assert reader.last_change == max(path.stat().st_mtime for path in (one, other, third))
    other.unlink()
    assert reader.poll()
    assert (reader.errors.count, reader.errors.sum) == (3, 25.0)
    assert not reader.poll()


def test_what_is_recent_comes_from_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "CHUNK", 1000)
    for part, late in ("", 3.0), (".1", 5.0):
        (tmp_path / f"log{part}.csv").write_text(HEADER + lines([1.0] * 800 + [late] * 200))
    reader = Reader(str(tmp_path / "log*.csv"))
    while reader.poll() or reader.behind:
        pass
    assert {3.0, 5.0} <= set(reader.errors.recent)
    assert reader.errors.recent.mean() > 3.5


def test_a_line_longer_than_memory_is_skipped(csv, monkeypatch):
    monkeypatch.setattr(plot, "CHUNK", 1000)
    csv.write_text(HEADER + "x" * 5000 + "\n" + lines([1.0, 2.0]))
    reader = Reader(str(csv))
    reader.poll()
    assert reader.errors.count == 2


def test_the_time_of_a_sample_is_read_from_its_id():
    assert sample_time("20261123T104500.250000Z-0a1b2c3d") == datetime(
        2026, 11, 23, 10, 45, 0, 250000, tzinfo=timezone.utc
    )
    assert sample_time("1700000000.5") == datetime(2023, 11, 14, 22, 13, 20, 500000, tzinfo=timezone.utc)
    assert sample_time("17") is None
    assert sample_time("sample-T-1") is None
    assert sample_time("00010101T000000.000000") is None
    assert sample_time("1e300") is None


RANDOM = np.random.default_rng(0)
HALF_NORMAL = np.abs(RANDOM.normal(0, 0.1, 1000))
DRIFTED = np.abs(RANDOM.normal(0.5, 0.1, 250))


def read(values, seconds_between: float = 5) -> Errors:
    """Errors of samples that came one after the other since a certain morning."""
    begun = datetime(2026, 11, 23, 10, 45, tzinfo=timezone.utc)
    errors = Errors()
    rows = (
        f"{begun + timedelta(seconds=number * seconds_between):%Y%m%dT%H%M%S.%f}Z-0,0.0,{value!r},{value!r}\n"
        for number, value in enumerate(np.array(values).tolist())
    )
    errors.fold("".join(rows).encode())
    return errors


#: What is to look as in tests/reference, where its figures come from: the errors, the language, what waits unmatched.
CASES: Dict[str, Tuple[Any, str, Any]] = {
    "none": ([], "en", None),
    "one": ([0.068], "en", None),
    "ten equal": ([0.5] * 10, "en", None),
    "many": (HALF_NORMAL, "en", ("0", "0")),
    "outlier": ([*np.tile(HALF_NORMAL, 1000), 1e6], "en", None),
    "tiny": (1e-11 * HALF_NORMAL, "en", None),
    "large": (1e10 * HALF_NORMAL, "en", None),
    "drift": ([*HALF_NORMAL, *DRIFTED], "ru", (">100000", "12")),
}


#: The last matplotlib for Python 3.9 and 3.10 puts letters elsewhere by part of a pixel.
OLD_LETTERS = tuple(map(int, matplotlib.__version__.split(".")[:2])) < (3, 11)


@lru_cache
def drawn(case: str) -> np.ndarray:
    """The picture of a case as it was saved, a quarter as wide and high, 0 to 1, (250, 400, 3)."""
    values, language, waiting = CASES[case]
    errors = read(values) if len(values) else Errors()
    file = BytesIO()
    draw(errors, 1.79e9, TEXTS[language], waiting).savefig(file, format="png")
    file.seek(0)
    return matplotlib.image.imread(file)[:, :, :3].reshape(250, 4, 400, 4, 3).mean(axis=(1, 3))


def difference(picture: np.ndarray, case: str) -> float:
    """The root mean square of what tells it from the reference of that case."""
    path = ROOT / "tests" / "reference" / f"{case.replace(' ', '-')}.png"
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


@pytest.mark.parametrize(
    "values",
    [[0.0] * 10, [1e-320, 1e308], [1.7e308], [1.7e308] * 30],
    ids=["zeros", "extremes", "largest", "infinite sum"],
)
def test_a_picture_of_1600_by_1000_is_drawn_whatever_the_errors_are(values, tmp_path):
    path = tmp_path / "sub" / "picture.png"
    with np.errstate(over="ignore"):
        plot.save(draw(read(values), 1.7e9), str(path))
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[:2] == (1000, 1600)
    assert pixels.std() > 0.01  # it isn't blank
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def labels(errors: Errors) -> Dict[str, float]:
    """The marks of the histogram: what they say."""
    texts = [text.get_text().split("  ") for text in draw(errors, 0).axes[0].texts]
    return {name: float(value) for name, value, *_ in texts}


def test_the_picture_names_mean_median_and_95th_percentile():
    expected = {"median": 0.5, "mean (MAE)": 0.5, "95th percentile": 0.95}
    assert labels(read(np.linspace(0, 1, 100_001), 0.01)) == pytest.approx(expected, rel=2e-3)


def test_no_label_covers_another_wherever_the_marks_are():
    for values in ([0.5] * 10, HALF_NORMAL, DRIFTED, [*HALF_NORMAL, 1e9], [0.0] * 99 + [1.0]):
        figure = draw(read(values), 0)
        figure.canvas.draw()
        legend = [figure.legends[0].get_window_extent()] if figure.legends else []
        boxes = [text.get_window_extent() for text in (*figure.axes[0].texts, *figure.texts)] + legend
        boxes.append(figure.axes[0].patches[0].get_window_extent().expanded(1, 0.99))  # the bars
        assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
        assert all(box.x0 >= 0 and box.x1 <= 1600 and box.y1 <= 1000 for box in boxes)


def test_after_a_drift_the_recent_errors_and_the_end_of_the_strip_stand_apart():
    figure = draw(read([*HALF_NORMAL, *DRIFTED]), 0)
    always, recent = (text.get_text() for text in figure.legends[0].get_texts())
    assert always == f"all 1,250 rows: MAE {np.mean([*HALF_NORMAL, *DRIFTED]):.4f}"
    assert recent == f"the last 250 rows: MAE {DRIFTED.mean():.4f}"
    _, stairs = figure.axes[0].patches
    assert isinstance(stairs, StepPatch)
    shares, edges, _ = stairs.get_data()
    assert shares.sum() == pytest.approx(100)
    assert 0.45 < edges[shares.argmax()] < 0.55
    mae = np.asarray(figure.axes[1].lines[0].get_ydata())
    assert mae[: len(mae) // 2].max() < 0.2 < 0.4 < mae[-len(mae) // 6 :].min()


def test_while_there_are_few_rows_none_are_called_recent():
    assert len(read([1.0] * 99).recent) == 0
    assert len(read([1.0] * 100).recent) == 20


def test_the_recent_rows_are_the_last_ones_and_bounded(monkeypatch):
    monkeypatch.setattr(plot, "MOST_RECENT", 50)
    errors = read(np.arange(1000.0))
    assert errors.recent.tolist() == list(range(950, 1000))
    errors.fold(lines([7.0]).encode())
    assert errors.recent.tolist() == [*range(951, 1000), 7.0]


@pytest.mark.parametrize("language", TEXTS)
def test_each_language_says_all_with_the_same_places_to_fill(language):
    places = [text.count("{}") for text in TEXTS[language]]
    assert places == [text.count("{}") for text in TEXTS["en"]]
    assert all(TEXTS[language])


@given(st.floats(1e-280, 1e280))
def test_a_nice_width_is_at_most_twice_and_a_half_as_large_and_short(width):
    found = picture.nice(width)
    assert width <= found <= 2.5 * width
    assert f"{found:.1e}"[:3] in {"1.0", "2.0", "2.5", "5.0"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.5, "0.5"),
        (0.123456, "0.1235"),
        (1234567.0, "1,235,000"),
        (1e7, "1×10⁷"),
        (2.5e-12, "2.5×10⁻¹²"),
        (np.inf, "∞"),
    ],
)
def test_numbers_are_short(value, text):
    assert picture.number(value, TEXTS["en"]) == text


def test_what_waits_unmatched_is_read_from_the_state_of_metrics(tmp_path, monkeypatch):
    state = str(tmp_path / "a state.db")
    assert plot.unmatched(state) is None
    ledger = Ledger(str(tmp_path / "log.csv"), state)
    ledger.write([("a", "y_true", 1.0), ("b", "y_pred", 1.0), ("c", "y_true", 1.0), ("d", "y_true", 1.0)])
    ledger.write([("d", "y_pred", 1.0)])
    assert plot.unmatched(state) == ("0", "0")  # none for five seconds yet
    monkeypatch.setattr(plot, "OLD", -1)
    assert plot.unmatched(state) == ("2", "1")
    monkeypatch.setattr(plot, "MOST_COUNTED", 1)
    assert plot.unmatched(state) == (">1", "1")
    monkeypatch.setattr(plot, "MOST_COUNTED", 10)
    assert plot.unmatched(str(tmp_path / "none*.db")) is None
    other = Ledger(str(tmp_path / "log.1.csv"), str(tmp_path / "a state.1.db"))
    other.write([("e", "y_true", 1.0)])
    assert plot.unmatched(str(tmp_path / "a state*.db")) == ("3", "1")
    other.close()
    ledger.close()
    Path(state).write_bytes(b"nonsense" * 1000)
    assert plot.unmatched(state) is None


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"the old one")

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    figure = draw(Errors(), 0)
    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot.save(figure, str(path))
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_is_written_again_but_never_over_one_that_is_not_ours(tmp_path, monkeypatch):
    page = tmp_path / "logs" / "index.html"
    plot.write_page(str(page.with_name("a picture.png")))
    assert 'src="a%20picture.png"' in page.read_text()
    monkeypatch.setattr(plot, "PLOT_LANG", "ru")
    plot.write_page(str(page.with_name("picture.png")))
    assert '<html lang="ru">' in page.read_text()
    assert 'src="picture.png"' in page.read_text()
    for other in ("<h1>Somebody else's</h1>", "\0" * 10_000):
        page.write_text(other)
        plot.write_page(str(page.with_name("picture.png")))
        assert page.read_text() == other
    page.unlink()
    page.mkdir()
    plot.write_page(str(page.with_name("picture.png")))  # warns


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(not BROWSER, reason="neither Chromium nor Chrome is installed")
def test_a_browser_shows_the_page_from_the_file_system_and_it_loads_the_picture_again(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "PLOT_INTERVAL", 0.5)
    red = np.zeros((1000, 1600, 3))
    red[:, :, 0] = 1
    matplotlib.image.imsave(tmp_path / "a picture.png", red)
    plot.write_page(str(tmp_path / "a picture.png"))
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
        "--window-size=1600,1000", "--hide-scrollbars", "--virtual-time-budget=3000",
        (tmp_path / "index.html").as_uri(),
    ]  # fmt: skip
    subprocess.run([*command, f"--screenshot={tmp_path}/seen.png"], check=True, capture_output=True, timeout=60)
    seen = matplotlib.image.imread(tmp_path / "seen.png")[:, :, :3]
    assert (seen == [1, 0, 0]).all(axis=2).mean() > 0.9
    dom = subprocess.check_output([*command, "--dump-dom"], text=True, timeout=60, stderr=subprocess.DEVNULL)
    assert re.search(r'src="(file:.*)?a%20picture\.png\?\d+"', dom)  # put there when it was loaded anew
