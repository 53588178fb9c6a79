"""plot: what happens at a poll, and to the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List

import pytest

import plot
from parts import follower
from parts.summary import Summary, fold
from support.paths import ROOT

HEADER = "id,y_true,y_pred,absolute_error\n"


class Run:
    """plot.main() in this process, with a clock that stands still: `between` runs between two polls, a step a time."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.csv, self.image = folder / "log.csv", folder / "logs" / "picture.png"
        self.page = self.image.with_name("index.html")
        self.drawn: List[int] = []  # the rows of each picture
        self.folded: List[bytes] = []
        self.beats: List[bool] = []
        self._steps: List[Callable[[], Any]] = []
        self._now = 1000.0
        monkeypatch.setattr(plot, "CSV_FILE", str(self.csv))
        monkeypatch.setattr(plot, "IMG_FILE", str(self.image))
        monkeypatch.setattr(plot, "time", self)
        monkeypatch.setattr(plot, "fold", self._fold)
        monkeypatch.setattr(plot, "draw", self._draw)
        monkeypatch.setattr(plot.service, "start", lambda: None)
        monkeypatch.setattr(plot.service, "stop", SimpleNamespace(requested=False))
        monkeypatch.setattr(plot.service, "beat", self.beats.append)

    def main(self, *between: Callable[[], Any]) -> None:
        self._steps = list(between)
        plot.main()

    def monotonic(self) -> float:
        return self._now

    def sleep(self, _seconds: float) -> None:
        if self._steps:
            self._steps.pop(0)()
        else:
            plot.service.stop.requested = True
        self._now += plot.PLOT_INTERVAL

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    def _fold(self, summary: Summary, lines: bytes) -> Summary:
        self.folded.append(lines)
        return fold(summary, lines)

    def _draw(self, summary: Summary, *others: Any) -> Any:
        self.drawn.append(summary.rows)
        return DRAW(summary, *others)

    def append(self, *errors: float) -> None:
        new = not self.csv.exists()
        with self.csv.open("a") as file:
            file.write(HEADER * new + "".join(f"s,0.0,{error},{error}\n" for error in errors))


DRAW = plot.draw


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Run:
    caplog.set_level("INFO")
    return Run(tmp_path, monkeypatch)


def test_a_picture_without_data_comes_first_and_one_with_the_rows_when_they_are_there(run, caplog):
    run.main(lambda: run.append(1.0), lambda: run.append(2.0, 3.0))
    assert run.drawn == [0, 1, 3]
    assert [record.getMessage().split(": ") for record in caplog.records] == [
        ["no rows yet", str(run.image)],
        ["1 row, MAE 1.0000", str(run.image)],
        ["3 rows, MAE 2.0000", str(run.image)],
    ]
    assert set(run.beats) == {True}


def test_a_picture_without_data_is_not_drawn_again_for_a_csv_without_rows(run):
    run.main(run.append, lambda: None)  # metrics begins the CSV with its header
    assert run.drawn == [0]


def test_the_first_picture_does_not_wait_for_a_long_csv(run):
    run.append(1.0, 2.0)
    run.main()
    assert run.drawn == [0, 2]


def test_a_picture_that_was_there_before_stays_until_the_csv_is_read(run):
    run.append(1.0, 2.0)
    run.image.parent.mkdir()
    run.image.write_bytes(b"from yesterday")
    run.main()
    assert run.drawn == [2]


def test_a_poll_reads_no_more_than_what_is_new(run):
    run.append(*range(10_000))
    run.main(lambda: run.append(1.0))
    assert b"".join(run.folded) == run.csv.read_bytes()
    assert run.folded[-1] == b"s,0.0,1.0,1.0\n"


def test_nothing_is_drawn_while_nothing_is_new(run):
    run.append(1.0)
    run.image.parent.mkdir()
    written: List[float] = []
    run.main(*[lambda: written.append(run.image.stat().st_mtime_ns)] * 3)
    assert run.drawn == [0, 1]
    assert len(set(written)) == 1


def test_a_picture_that_somebody_deleted_is_drawn_again_at_the_next_poll(run):
    run.append(1.0)
    run.main(run.image.unlink, lambda: None)
    assert run.drawn == [0, 1, 1]
    assert run.image.exists()


def test_a_csv_that_is_another_one_is_drawn_anew(run):
    run.append(1.0, 2.0)
    run.main(run.csv.unlink, lambda: None, lambda: run.append(3.0))
    assert run.drawn == [0, 2, 0, 1]


def test_the_page_tells_the_figures_of_its_picture(run):
    pages: List[str] = []
    run.main(
        lambda: pages.append(run.page.read_text("utf-8")),
        lambda: run.append(0.5),
        lambda: pages.append(run.page.read_text("utf-8")),
    )
    assert 'alt="No data yet' in pages[0]
    assert "Rows: 1 " in pages[1]
    assert "median 0.5, mean (MAE) 0.5" in pages[1]


def test_a_csv_that_cannot_be_read_is_told_and_its_rows_are_drawn_when_it_can_be(run, caplog):
    run.append(1.0)

    def break_it() -> None:
        run.csv.unlink()
        os.mkfifo(run.csv)

    def mend_it() -> None:
        run.csv.unlink()
        run.append(2.0, 3.0)

    run.main(break_it, lambda: None, mend_it, lambda: None)
    assert run.drawn == [0, 1, 2]
    assert False in run.beats
    assert run.beats[-1]
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("no picture: ") and str(run.csv) in message for message in messages)
    assert messages[-1].startswith("all well again")


def test_a_picture_that_cannot_be_written_is_written_when_it_can_be(run, caplog):
    run.append(1.0)
    run.image.parent.write_text("no folder")

    def more() -> None:
        run.append(2.0)
        assert "no picture: " in caplog.text

    run.main(more, run.image.parent.unlink, lambda: None)
    assert run.drawn[-1] == 2
    assert run.image.exists()
    assert run.beats[-1]


def test_rows_read_before_an_error_are_not_lost(run, monkeypatch):
    monkeypatch.setattr(follower, "CHUNK", 100)
    run.append(*[1.0] * 100)
    whole = follower.Follower.new_lines
    errors = [OSError("input/output error")]

    def failing(self):
        for count, lines in enumerate(whole(self)):
            yield lines
            if count == 3 and errors:
                raise errors.pop()

    monkeypatch.setattr(follower.Follower, "new_lines", failing)
    run.main(lambda: None)
    assert run.drawn == [0, 100]


def test_a_long_csv_is_drawn_as_far_as_it_is_read_and_then_read_on(run, monkeypatch):
    monkeypatch.setattr(follower, "CHUNK", 100)
    monkeypatch.setattr(plot, "fold", lambda *given: run.pass_time(4) or run._fold(*given))
    run.append(*[1.0] * 60)
    run.main()
    assert run.drawn[0] == 0
    assert len(run.drawn) > 3
    assert run.drawn == sorted(set(run.drawn))
    assert run.drawn[-1] == 60
    assert len(run.beats) > len(run.folded)  # alive, too, while it reads


def test_a_request_to_stop_is_heard_in_the_midst_of_a_long_csv(run, monkeypatch):
    monkeypatch.setattr(follower, "CHUNK", 100)

    def fold_once(summary: Summary, lines: bytes) -> Summary:
        plot.service.stop.requested = True
        return run._fold(summary, lines)

    monkeypatch.setattr(plot, "fold", fold_once)
    run.append(*[1.0] * 1000)
    run.main()
    assert len(run.folded) == 1
    assert run.drawn == [0]


def start(folder: Path) -> "subprocess.Popen[str]":
    env = {**os.environ, "CSV_FILE": str(folder / "log.csv"), "IMG_FILE": str(folder / "picture.png")}
    command = [sys.executable, "plot.py"]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_process_draws_at_once_and_ends_when_asked_while_it_reads(tmp_path):
    rows = b"s,0.0,0.25,0.25\n" * 50_000
    with (tmp_path / "log.csv").open("wb") as file:
        for _ in range(100):
            file.write(rows)
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert "no rows yet" in process.stdout.readline()  # two seconds before all is read
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=3)[0].count("\n") == 1  # that it was asked
        assert process.returncode == 0
