"""metrics: the join, its ledger and the CSV, on real files."""

import contextlib
import fcntl
import logging
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import metrics
from metrics import pair
from parts import csv_file, ledger
from parts.csv_file import is_torn, lines, parse
from parts.ledger import Halves, Known, Ledger, Paired
from parts.rabbitmq.broker import Delivery
from parts.service import NotNow

HEADER = csv_file.HEADER.decode()
Half = Tuple[str, str, float]  # id, "y_true" or "y_pred", value
HALVES = st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["y_true", "y_pred"]), st.sampled_from([0.0, 1.0, 2.5]))


def by_dictionary(halves: List[Half]) -> List[csv_file.Row]:
    """The join as one would write it where nothing can fail."""
    seen: Dict[str, Dict[str, float]] = {}
    rows = []
    for sample_id, column, value in halves:
        values = seen.setdefault(sample_id, {})
        if column not in values:
            values[column] = value
            if len(values) == 2:
                rows.append((sample_id, values["y_true"], values["y_pred"]))
    return rows


def as_given(halves: List[Half]) -> Halves:
    """As metrics gives them to the ledger, a message each."""
    return [(half, [sample_id], [value]) for sample_id, half, value in halves]


@given(st.lists(HALVES))
def test_pairing_agrees_with_a_dictionary(halves):
    assert sorted(pair(as_given(halves), {}).rows) == sorted(by_dictionary(halves))


@given(st.lists(HALVES), st.integers(1, 5))
def test_pairing_piece_by_piece_agrees_with_a_dictionary(halves, size):
    known: Known = {}
    rows = []
    for start in range(0, len(halves), size):
        paired = pair(as_given(halves[start : start + size]), known)
        known.update({sample_id: values for sample_id, *values in [*paired.waiting, *paired.rows]})
        rows += paired.rows
    assert sorted(rows) == sorted(by_dictionary(halves))


def test_a_later_different_value_is_reported_and_a_repeated_one_is_not():
    known: Known = {"a": [1.0, None], "b": [1.0, 2.0]}
    paired = pair([("y_true", ["a", "b"], [1.0, 3.0]), ("y_pred", ["b"], [2.0])], known)
    assert paired == ([], [], [("b", "y_true", 3.0)])


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_csv_line_reads_back_exactly(y_true, y_pred):
    line = csv_line(("a", y_true, y_pred))
    assert parse(line.encode()) == ("a", y_true, y_pred)
    assert float(line.split(",")[3]) == abs(y_true - y_pred)


IDS = st.sampled_from(["a", "null", "-3", "inf", "1e+22", "x" * 128])
ROWS = st.tuples(IDS, st.floats(-1.7e308, 1.7e308), st.floats(-1.7e308, 1.7e308))


@given(st.lists(ROWS, min_size=1))
def test_many_lines_are_the_lines_one_by_one(rows):
    assert lines(rows) == b"".join(lines([row]) for row in rows)
    assert [parse(line) for line in lines(rows).splitlines()] == rows


@given(ROWS)
def test_every_beginning_of_a_line_of_ours_is_torn_and_the_whole_is_not(row):
    line = lines([row]).rstrip(b"\n")
    assert all(is_torn(line[:end]) for end in range(1, len(line)))
    assert not is_torn(line)


@pytest.mark.parametrize("line", [b"b,1,.5,0.5", b"b,1.0,0.5,0.50", b"my notes", b"=1", b"b;1;2", b"b,1.0,0.5,0.5,x"])
def test_what_a_person_wrote_is_not_torn(line):
    assert not is_torn(line)


# --- the ledger -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Tuple[Path, Path]:
    return tmp_path / "logs" / "log.csv", tmp_path / "state" / "metrics.db"


def csv_line(row: csv_file.Row) -> str:
    return lines([row]).decode()


class LedgerOfHalves(Ledger):
    """One that is given halves as they come."""

    def add(self, halves: List[Half]) -> Paired:
        return self.write(as_given(halves))


def ledger_of(files: Tuple[Path, Path]) -> LedgerOfHalves:
    return LedgerOfHalves(str(files[0]), str(files[1]), pair)


def both(sample_id: str, y_true: float = 1.0, y_pred: float = 0.5) -> List[Half]:
    return [(sample_id, "y_true", y_true), (sample_id, "y_pred", y_pred)]


def rows_in(csv: Path) -> List[str]:
    header, *lines = csv.read_text().splitlines(keepends=True)
    assert header == HEADER
    assert all(line.endswith("\n") for line in lines)
    return [line.split(",")[0] for line in lines]


@given(st.lists(HALVES, max_size=30), st.integers(1, 7))
def test_the_csv_agrees_with_a_dictionary_over_restarts(tmp_path_factory, halves, size):
    files = tmp_path_factory.mktemp("ledger") / "log.csv", tmp_path_factory.mktemp("state") / "metrics.db"
    ledger_of(files).add([])
    for start in range(0, len(halves), size):
        ledger_of(files).add(halves[start : start + size])
    header, *rows = files[0].read_text().splitlines(keepends=True)
    assert header == HEADER
    assert sorted(rows) == sorted(map(csv_line, by_dictionary(halves)))


def test_a_pair_is_one_row_with_its_error(files):
    ledger = ledger_of(files)
    assert ledger.add(both("a", 1.25, 1.0)).rows == [("a", 1.25, 1.0)]
    assert files[0].read_text() == HEADER + "a,1.25,1.0,0.25\n"


def test_a_half_finds_its_partner_after_a_restart(files):
    ledger_of(files).add(both("a")[:1])
    assert ledger_of(files).unmatched()[:2] == (1, 0)
    ledger_of(files).add(both("a")[1:])
    assert rows_in(files[0]) == ["a"]
    assert ledger_of(files).unmatched()[:2] == (0, 0)


def test_an_id_that_is_written_is_not_written_again(files):
    ledger = ledger_of(files)
    ledger.add(both("a"))
    ledger.add(both("a"))
    ledger.add(both("a", 9.0, 9.0))
    assert rows_in(files[0]) == ["a"]


def crashed_after_append(files, ids) -> None:
    """The CSV has rows of which the state does not know, as when metrics is killed before its commit."""
    with files[0].open("a") as csv:
        csv.writelines(csv_line((sample_id, 1.0, 0.5)) for sample_id in ids)


def test_rows_appended_before_a_crash_are_taken_as_written(files):
    ledger_of(files).add([*both("a"), both("b")[0]])
    crashed_after_append(files, ["b", "c"])
    ledger_of(files).add([*both("a"), *both("b"), *both("c"), *both("d")])
    assert rows_in(files[0]) == ["a", "b", "c", "d"]
    assert ledger_of(files).unmatched()[:2] == (0, 0)


@pytest.mark.parametrize("torn", ["b", "b,1.0", "b,1.0,0.5,0.", "b,1.0,0.5,"])
def test_a_torn_last_line_is_cut_off_and_its_row_written_whole(files, torn):
    ledger_of(files).add(both("a"))
    with files[0].open("a") as csv:
        csv.write(torn)
    ledger = ledger_of(files)
    ledger.add([])
    assert rows_in(files[0]) == ["a"]
    ledger.add(both("b"))
    assert files[0].read_text() == HEADER + "a,1.0,0.5,0.5\nb,1.0,0.5,0.5\n"


@pytest.mark.parametrize("deleted", [False, True])
def test_a_row_torn_in_the_write_that_begins_the_csv_is_cut_off_and_written_whole(files, monkeypatch, deleted):
    if deleted:
        ledger_of(files).add(both("a"))
        files[0].unlink()

    def torn(csv, data):
        if csv_file.HEADER.startswith(data):
            return FileIO.write(csv, data)
        FileIO.write(csv, bytes(data)[:-4])
        raise SystemExit("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(csv_file.CsvFile, "write", torn)
        ledger_of(files).add(both("b", 1.0, 13.5))
    assert files[0].read_text() == HEADER + "b,1.0,13.5,1"
    ledger_of(files).add(both("b", 1.0, 13.5))
    assert files[0].read_text() == HEADER + "b,1.0,13.5,12.5\n"


def test_a_last_line_that_lacks_only_its_newline_is_kept(files):
    ledger_of(files).add(both("a"))
    with files[0].open("a") as csv:
        csv.write("b,1.0,0.5,0.5")
    ledger_of(files).add(both("b"))
    assert rows_in(files[0]) == ["a", "b"]


def test_a_deleted_csv_is_begun_again_and_old_ids_stay_written(files):
    ledger = ledger_of(files)
    ledger.add(both("a"))
    files[0].unlink()
    ledger.add([])
    assert rows_in(files[0]) == []
    ledger.add([*both("a"), *both("b")])
    assert rows_in(files[0]) == ["b"]


def test_a_shortened_csv_keeps_the_rows_that_the_user_left(files):
    ledger = ledger_of(files)
    ledger.add([*both("a"), *both("b"), *both("c")])
    files[0].write_text(HEADER + csv_line(("b", 1.0, 0.5)).rstrip("\n"))
    ledger.add([*both("a"), *both("d")])
    assert rows_in(files[0]) == ["b", "d"]


def test_a_row_that_a_user_left_without_its_newline_is_kept_however_it_is_written(files):
    ledger = ledger_of(files)
    ledger.add([*both("a"), *both("b"), *both("c")])
    files[0].write_text(HEADER + "a,1,0.5,0.5\nb,1,.5,0.5")
    ledger.add(both("d"))
    assert rows_in(files[0]) == ["a", "b", "d"]


def test_a_header_without_its_newline_is_completed(files):
    files[0].parent.mkdir()
    files[0].write_text(HEADER.rstrip())
    ledger_of(files).add(both("a"))
    assert rows_in(files[0]) == ["a"]


def test_an_error_too_large_for_a_float_has_its_row(files):
    ledger = ledger_of(files)
    ledger.add([*both("a"), *both("b", 1.7e308, -1.7e308)])
    assert files[0].read_text().splitlines()[-1] == "b,1.7e308,-1.7e308,inf"


def test_a_file_without_the_header_is_kept_under_another_name(files):
    files[0].parent.mkdir()
    files[0].write_text("my notes\n")
    ledger_of(files).add(both("a"))
    assert rows_in(files[0]) == ["a"]
    [kept] = files[0].parent.glob("log.csv.*")
    assert kept.read_text() == "my notes\n"


def test_lines_that_are_no_rows_are_left_alone(files):
    ledger = ledger_of(files)
    ledger.add(both("a"))
    with files[0].open("a") as csv:
        csv.write("what is this?\nb;1,0;0,5;0,5\nc,nan,1,1\n")
    ledger.add([*both("a"), *both("c")])
    assert files[0].read_text().splitlines()[-2:] == ["c,nan,1,1", "c,1.0,0.5,0.5"]


def test_without_its_state_the_ids_are_read_back_from_the_csv(files):
    ledger = ledger_of(files)
    ledger.add(both("a"))
    ledger.close()
    for file in files[1].parent.iterdir():
        file.unlink()
    ledger_of(files).add([*both("a"), *both("b")])
    assert rows_in(files[0]) == ["a", "b"]


def test_a_damaged_state_is_left_as_it_is_until_somebody_moves_it_away(files):
    ledger = ledger_of(files)
    ledger.add(both("a"))
    ledger.close()
    damaged = b"this is not a database" * 1000
    files[1].write_bytes(damaged)
    ledger = ledger_of(files)
    for _ in range(2):
        with pytest.raises(NotNow, match="is damaged: move it away, and its ids are read back from the CSV"):
            ledger.add(both("b"))
    assert files[1].read_bytes() == damaged
    assert rows_in(files[0]) == ["a"]
    files[1].rename(files[1].with_suffix(".aside"))
    ledger.add([*both("a"), *both("b")])
    assert rows_in(files[0]) == ["a", "b"]


def test_a_state_of_the_first_version_is_taken_over(files):
    files[0].parent.mkdir()
    files[0].write_text(HEADER + "w,1.0,0.5,0.5\n")
    files[1].parent.mkdir()
    with contextlib.closing(sqlite3.connect(files[1])) as db:
        db.executescript(
            """
            CREATE TABLE samples (id TEXT PRIMARY KEY, y_true REAL, y_pred REAL, since REAL NOT NULL) WITHOUT ROWID;
            CREATE INDEX no_y_true ON samples (since) WHERE y_true IS NULL;
            CREATE TABLE csv (only INTEGER PRIMARY KEY, length INTEGER, row_count INTEGER, error_sum REAL);
            INSERT INTO csv VALUES (1, 46, 1, 0.5);
            INSERT INTO samples VALUES ('w', 1.0, 0.5, 1.7e9), ('t', 2.0, NULL, 1.7e9), ('p', NULL, 3.0, 1.7e9);
            """
        )
    ledger = ledger_of(files)
    ledger.add([*both("w"), ("t", "y_pred", 2.5)])
    assert rows_in(files[0]) == ["w", "t"]
    assert ledger.unmatched()[:2] == (0, 1)
    ledger.close()
    assert ledger_of(files).unmatched()[:2] == (0, 1)


def test_a_state_deleted_under_a_running_process_is_begun_again(files):
    ledger = ledger_of(files)
    ledger.add(both("a"))
    for file in files[1].parent.iterdir():
        file.unlink()
    ledger.add([*both("a"), *both("b")])
    ledger_of(files).add(both("b"))
    assert rows_in(files[0]) == ["a", "b"]


@pytest.mark.parametrize("instead", ["/dev/full", "/proc/version", "/", "/dev/full/x.csv"])
def test_a_csv_that_cannot_be_written_is_reported_and_nothing_counts_as_written(files, instead):
    with pytest.raises(NotNow, match="cannot store"):
        LedgerOfHalves(instead, str(files[1]), pair).add(both("a"))
    ledger_of(files).add(both("a"))
    assert rows_in(files[0]) == ["a"]


def test_while_another_replica_writes_a_transaction_waits_or_says_so(files, monkeypatch):
    monkeypatch.setattr("parts.ledger.BUSY", 0.05)
    ledger = ledger_of(files)
    ledger.add([])
    with contextlib.closing(sqlite3.connect(files[1], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotNow, match="locked"):
            ledger.add(both("a"))
        other.execute("ROLLBACK")
    ledger.add(both("a"))
    assert rows_in(files[0]) == ["a"]


def test_many_unmatched_halves_survive_a_restart_and_find_their_partners(files):
    ids = [f"id{number}" for number in range(100_000)]
    ledger_of(files).add([(sample_id, "y_true", 1.0) for sample_id in ids])
    assert ledger_of(files).unmatched()[:2] == (100_000, 0)
    ledger_of(files).add([(sample_id, "y_pred", 1.0) for sample_id in reversed(ids)])
    assert ledger_of(files).unmatched()[:2] == (0, 0)
    assert rows_in(files[0]) == ids[::-1]


@pytest.fixture
def clocks(monkeypatch):
    """The wall clock and the monotonic one, to be set."""
    clocks = {"time": 1.7e9, "monotonic": 1000.0}
    monkeypatch.setattr(ledger.time, "time", lambda: clocks["time"])
    monkeypatch.setattr(ledger.time, "monotonic", lambda: clocks["monotonic"])
    return clocks


def test_what_is_forgotten_is_told_and_what_waits_told_again_when_it_is_twice_as_old(files, clocks, caplog):
    caplog.set_level(logging.INFO)
    filled = ledger_of(files)
    filled.add([both(sample_id)[0] for sample_id in "abcde"])
    for age in (3, 5, 8, 20, 2000):
        clocks["monotonic"] = 1000.0 + age
        filled.look(1000.0)
    told = "unmatched: 5 true values, 0 predictions, the oldest for {} s".format
    assert caplog.messages == [
        told(3),
        told(8),
        told(20),
        "forgotten after 1000 s without their other half: 5",
        "unmatched: 0 true values, 0 predictions",
    ]


def test_the_csv_is_locked_while_it_is_open_for_a_transaction(tmp_path):
    """Another state's metrics, as that of `make local`, would take rows that are half written for torn ones."""
    first = csv_file.CsvFile(str(tmp_path / "log"))
    with ThreadPoolExecutor(1) as others:
        second = others.submit(csv_file.CsvFile, str(tmp_path / "log"))
        with open(tmp_path / "log") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.append(b"a,1.0,1.0,0.0\n")
        first.close()
        with contextlib.closing(second.result(20)) as csv:
            assert csv.length == len(HEADER) + 14


def test_halves_older_than_asked_are_forgotten_and_written_ids_are_not(files, clocks):
    ledger = ledger_of(files)
    ledger.add([*both("a"), both("b")[0], both("c")[1]])
    clocks["monotonic"] += 60
    ledger.add([both("d")[0]])
    assert ledger.forget(61) == 0
    assert ledger.unmatched() == (2, 1, 60.0)
    assert ledger.forget(59) == 2
    assert ledger.unmatched() == (1, 0, 0.0)
    ledger.add([*both("a"), both("b")[1]])
    assert rows_in(files[0]) == ["a"]


def test_a_clock_that_is_set_forgets_nothing_early(files, clocks):
    ledger_of(files).add([both("a")[0]])
    clocks["time"] += 1e6  # corrected
    assert ledger_of(files).forget(10) == 0
    clocks["monotonic"] = 5.0  # the machine was off
    assert ledger_of(files).forget(10) == 0
    clocks["monotonic"] += 9
    assert ledger_of(files).forget(10) == 0
    clocks["monotonic"] += 2
    assert ledger_of(files).forget(10) == 1


# --- what a user does to the CSV ----------------------------------------------------------------------


def test_the_next_row_begins_a_line_where_a_change_of_equal_length_took_the_last_newline(files):
    ledger = ledger_of(files)
    ledger.add([*both("a"), *both("b")])
    files[0].write_text(files[0].read_text()[:-1] + "5")
    ledger.add(both("c"))
    assert files[0].read_text() == HEADER + "a,1.0,0.5,0.5\nb,1.0,0.5,0.55\nc,1.0,0.5,0.5\n"


@pytest.mark.parametrize("last", ["b,1,.5,0.5", "b,1.0,0.5,0.", "my notes", "b,1.0", "b"])
def test_with_a_new_state_nothing_is_cut_off(files, last):
    files[0].parent.mkdir()
    files[0].write_text(HEADER + last)
    ledger_of(files).add(both("c"))
    assert files[0].read_text() == HEADER + last + "\n" + csv_line(("c", 1.0, 0.5))


@pytest.mark.parametrize("last", ["b,1,.5,0.5", "my notes", "# done", "x" * 2000, "x" * 1020 + "\nb,1.0,0.5,0.5"])
def test_what_a_user_added_without_a_newline_stays(files, last):
    ledger = ledger_of(files)
    ledger.add(both("a"))
    with files[0].open("a") as csv:
        csv.write(last)
    ledger.add(both("c"))
    assert files[0].read_text() == HEADER + csv_line(("a", 1.0, 0.5)) + last + "\n" + csv_line(("c", 1.0, 0.5))


def test_a_pipe_in_place_of_the_csv_is_refused_at_once(files):
    files[0].parent.mkdir()
    os.mkfifo(files[0])
    with pytest.raises(NotNow, match="is not a regular file"):
        ledger_of(files).add(both("a"))


def test_what_stands_in_the_place_of_a_csv_that_was_kept_aside_is_told(files, monkeypatch):
    files[0].parent.mkdir()
    files[0].write_text("another,header\n")

    def rename(path, aside):
        os.replace(path, aside)
        os.mkdir(path)

    monkeypatch.setattr(csv_file.os, "rename", rename)
    with pytest.raises(NotNow, match="is not a regular file"):
        ledger_of(files).add(both("a"))


def test_a_contradiction_among_what_cannot_be_stored_is_told_when_it_is_stored(files, caplog):
    files[0].mkdir(parents=True)
    bodies = [b'[{"id":"a","body":1},{"id":"a","body":2}]', b'{"id":"b","body":1}']
    deliveries = [Delivery(tag, "y_true", body, 0.0) for tag, body in enumerate(bodies, 1)]
    opened = Ledger(str(files[0]), str(files[1]), pair)
    for _ in range(3):
        with pytest.raises(NotNow):
            list(metrics.store(opened, deliveries))
    assert not caplog.messages
    files[0].rmdir()
    assert not list(metrics.store(opened, deliveries))
    assert caplog.messages == ["a: a later, different y_true is dropped: 2.0"]


def test_a_csv_of_many_rows_is_read_back(files):
    files[0].parent.mkdir()
    files[0].write_text(HEADER + "".join(csv_line((f"s{n}", 1.0, 0.5)) for n in range(100)))
    found = ledger_of(files)
    found.add([half for n in range(101) for half in both(f"s{n}")])
    assert rows_in(files[0]) == [f"s{n}" for n in range(101)]


def test_a_state_with_the_name_that_sqlite_has_for_memory_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger.Ledger("metric_log.csv", ":memory:", pair).write([("y_true", ["a"], [1.0])])
    assert Ledger("metric_log.csv", ":memory:", pair).unmatched()[:2] == (1, 0)


def test_a_state_that_is_a_device_is_refused_by_its_name(files):
    with pytest.raises(NotNow, match="/dev/null is not a regular file"):
        ledger_of((files[0], Path("/dev/null"))).add([("a", "y_true", 1.0)])


def test_rows_that_are_known_already_are_not_told_as_new_ones(files, caplog):
    caplog.set_level(logging.INFO)
    for csv in (files[0], files[0].with_name("another.csv"), files[0]):
        ledger_of((csv, files[1])).add(
            [(f"{csv.name}{len(caplog.records)}", half, 1.0) for half in ("y_true", "y_pred")]
        )
    assert "not known" not in caplog.text
