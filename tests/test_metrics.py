"""metrics: the join and its ledger, on real files."""

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import metrics
from broker import NotNow
from metrics import Ledger, csv_line, pair

HEADER = metrics.HEADER.decode()
HALVES = st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["y_true", "y_pred"]), st.sampled_from([0.0, 1.0, 2.5]))


def by_dictionary(halves: List[metrics.Half]) -> List[metrics.Row]:
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


@given(st.lists(HALVES))
def test_pairing_agrees_with_a_dictionary(halves):
    _, rows, _ = pair({}, halves)
    assert rows == by_dictionary(halves)


@given(st.lists(HALVES), st.integers(1, 5))
def test_pairing_piece_by_piece_agrees_with_a_dictionary(halves, size):
    known: metrics.Known = {}
    rows = []
    for start in range(0, len(halves), size):
        changed, new, _ = pair(known, halves[start : start + size])
        known.update(changed)
        rows += new
    assert rows == by_dictionary(halves)


def test_a_later_different_value_is_reported_and_a_repeated_one_is_not():
    halves = [("a", "y_true", 1.0), ("a", "y_true", 1.0), ("a", "y_true", 2.0)]
    assert pair({}, halves)[2] == [("a", "y_true", 2.0)]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_csv_line_reads_back_exactly(y_true, y_pred):
    line = csv_line(("a", y_true, y_pred))
    assert metrics.parse_line(line.encode()) == ("a", y_true, y_pred)
    assert float(line.split(",")[3]) == abs(y_true - y_pred)


# --- the ledger -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Tuple[Path, Path]:
    return tmp_path / "logs" / "log.csv", tmp_path / "state" / "metrics.db"


def ledger_of(files: Tuple[Path, Path]) -> Ledger:
    return Ledger(str(files[0]), str(files[1]))


def both(sample_id: str, y_true: float = 1.0, y_pred: float = 0.5) -> List[metrics.Half]:
    return [(sample_id, "y_true", y_true), (sample_id, "y_pred", y_pred)]


def rows_in(csv: Path) -> List[str]:
    header, *lines = csv.read_text().splitlines(keepends=True)
    assert header == HEADER
    assert all(line.endswith("\n") for line in lines)
    return [line.split(",")[0] for line in lines]


@given(st.lists(HALVES, max_size=30), st.integers(1, 7))
def test_the_csv_agrees_with_a_dictionary_over_restarts(tmp_path_factory, halves, size):
    files = tmp_path_factory.mktemp("ledger") / "log.csv", tmp_path_factory.mktemp("state") / "metrics.db"
    ledger_of(files).write([])
    for start in range(0, len(halves), size):
        ledger_of(files).write(halves[start : start + size])
    assert files[0].read_text() == HEADER + "".join(map(csv_line, by_dictionary(halves)))


def test_a_pair_is_one_row_with_its_error(files):
    written = ledger_of(files).write(both("a", 1.25, 1.0))
    assert files[0].read_text() == HEADER + "a,1.25,1.0,0.25\n"
    assert (written.rows, written.row_count, written.mae) == ([("a", 1.25, 1.0)], 1, 0.25)


def test_a_half_finds_its_partner_after_a_restart(files):
    ledger_of(files).write(both("a")[:1])
    assert ledger_of(files).unmatched()[:2] == (1, 0)
    ledger_of(files).write(both("a")[1:])
    assert rows_in(files[0]) == ["a"]
    assert ledger_of(files).unmatched()[:2] == (0, 0)


def test_an_id_that_is_written_is_not_written_again(files):
    ledger = ledger_of(files)
    ledger.write(both("a"))
    ledger.write(both("a"))
    ledger.write(both("a", 9.0, 9.0))
    assert rows_in(files[0]) == ["a"]


def crashed_after_append(files, ids) -> None:
    """The CSV has rows of which the state does not know, as when metrics is killed before its commit."""
    with files[0].open("a") as csv:
        csv.writelines(csv_line((sample_id, 1.0, 0.5)) for sample_id in ids)


def test_rows_appended_before_a_crash_are_taken_as_written(files):
    ledger_of(files).write([*both("a"), both("b")[0]])
    crashed_after_append(files, ["b", "c"])
    ledger_of(files).write([*both("a"), *both("b"), *both("c"), *both("d")])
    assert rows_in(files[0]) == ["a", "b", "c", "d"]
    assert ledger_of(files).unmatched()[:2] == (0, 0)


@pytest.mark.parametrize("torn", ["b", "b,1.0", "b,1.0,0.5,0.", "b,1.0,0.5,"])
def test_a_torn_last_line_is_cut_off_and_its_row_written_whole(files, torn):
    ledger_of(files).write(both("a"))
    with files[0].open("a") as csv:
        csv.write(torn)
    ledger = ledger_of(files)
    ledger.write([])
    assert rows_in(files[0]) == ["a"]
    ledger.write(both("b"))
    assert files[0].read_text() == HEADER + "a,1.0,0.5,0.5\nb,1.0,0.5,0.5\n"


def test_a_last_line_that_lacks_only_its_newline_is_kept(files):
    ledger_of(files).write(both("a"))
    with files[0].open("a") as csv:
        csv.write("b,1.0,0.5,0.5")
    ledger_of(files).write(both("b"))
    assert rows_in(files[0]) == ["a", "b"]


def test_a_deleted_csv_is_begun_again_and_old_ids_stay_written(files):
    ledger = ledger_of(files)
    ledger.write(both("a"))
    files[0].unlink()
    ledger.write([])
    assert rows_in(files[0]) == []
    assert ledger.write([*both("a"), *both("b")]).row_count == 1
    assert rows_in(files[0]) == ["b"]


def test_a_shortened_csv_keeps_the_rows_that_the_user_left(files):
    ledger = ledger_of(files)
    ledger.write([*both("a"), *both("b"), *both("c")])
    files[0].write_text(HEADER + csv_line(("b", 1.0, 0.5)).rstrip("\n"))
    assert ledger.write([*both("a"), *both("d")]).row_count == 2
    assert rows_in(files[0]) == ["b", "d"]


def test_a_row_that_a_user_left_without_its_newline_is_kept_however_it_is_written(files):
    ledger = ledger_of(files)
    ledger.write([*both("a"), *both("b"), *both("c")])
    files[0].write_text(HEADER + "a,1,0.5,0.5\nb,1,.5,0.5")
    ledger.write(both("d"))
    assert rows_in(files[0]) == ["a", "b", "d"]


def test_a_header_without_its_newline_is_completed(files):
    files[0].parent.mkdir()
    files[0].write_text(HEADER.rstrip())
    ledger_of(files).write(both("a"))
    assert rows_in(files[0]) == ["a"]


def test_an_error_too_large_for_a_float_has_its_row_and_spoils_no_mean(files):
    written = ledger_of(files).write([*both("a"), *both("b", 1.7e308, -1.7e308)])
    assert files[0].read_text().splitlines()[-1] == "b,1.7e+308,-1.7e+308,inf"
    assert written.mae == 0.25


def test_a_file_without_the_header_is_kept_under_another_name(files):
    files[0].parent.mkdir()
    files[0].write_text("my notes\n")
    ledger_of(files).write(both("a"))
    assert rows_in(files[0]) == ["a"]
    [kept] = files[0].parent.glob("log.csv.*")
    assert kept.read_text() == "my notes\n"


def test_lines_that_are_no_rows_are_left_alone(files):
    ledger = ledger_of(files)
    ledger.write(both("a"))
    with files[0].open("a") as csv:
        csv.write("what is this?\nb;1,0;0,5;0,5\nc,nan,1,1\n")
    ledger.write([*both("a"), *both("c")])
    assert files[0].read_text().splitlines()[-2:] == ["c,nan,1,1", "c,1.0,0.5,0.5"]


@pytest.mark.parametrize("damage", ["delete", "overwrite"])
def test_without_its_state_the_ids_are_read_back_from_the_csv(files, damage):
    ledger = ledger_of(files)
    ledger.write(both("a"))
    ledger.close()
    if damage == "delete":
        for file in files[1].parent.iterdir():
            file.unlink()
    else:
        files[1].write_bytes(b"this is not a database" * 1000)
    ledger = ledger_of(files)
    if damage == "overwrite":
        with pytest.raises(NotNow):
            ledger.write(both("a"))
        assert list(files[1].parent.glob("metrics.db.damaged-*"))
    ledger.write([*both("a"), *both("b")])
    assert rows_in(files[0]) == ["a", "b"]


def test_replicas_that_find_a_damaged_state_at_the_same_time_put_it_aside_once(files):
    ledger = ledger_of(files)
    ledger.write(both("a"))
    ledger.close()
    files[1].write_bytes(b"this is not a database" * 1000)
    ledgers, together = [Ledger(str(files[0]), str(files[1])) for _ in range(8)], Barrier(8)

    def write(number: int) -> None:
        together.wait()
        for _ in range(100):
            with contextlib.suppress(NotNow):
                ledgers[number].write(both(f"b{number}"))
                break
        ledgers[number].close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(list(files[1].parent.glob("*.damaged-*"))) == 1
    assert sorted(rows_in(files[0])) == ["a", *(f"b{number}" for number in range(8))]


def test_a_state_deleted_under_a_running_process_is_begun_again(files):
    ledger = ledger_of(files)
    ledger.write(both("a"))
    for file in files[1].parent.iterdir():
        file.unlink()
    ledger.write([*both("a"), *both("b")])
    ledger_of(files).write(both("b"))
    assert rows_in(files[0]) == ["a", "b"]


@pytest.mark.parametrize("instead", ["/dev/full", "/proc/version", "/", "/dev/full/x.csv"])
def test_a_csv_that_cannot_be_written_is_reported_and_nothing_counts_as_written(files, instead):
    with pytest.raises(NotNow, match="cannot store"):
        Ledger(instead, str(files[1])).write(both("a"))
    ledger_of(files).write(both("a"))
    assert rows_in(files[0]) == ["a"]


def test_while_another_replica_writes_a_transaction_waits_or_says_so(files, monkeypatch):
    monkeypatch.setattr(metrics, "BUSY", 0.05)
    ledger = ledger_of(files)
    ledger.write([])
    with contextlib.closing(sqlite3.connect(files[1], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotNow, match="locked"):
            ledger.write(both("a"))
        other.execute("ROLLBACK")
    ledger.write(both("a"))
    assert rows_in(files[0]) == ["a"]


def test_many_unmatched_halves_survive_a_restart_and_find_their_partners(files):
    ids = [f"id{number}" for number in range(100_000)]
    ledger_of(files).write([(sample_id, "y_true", 1.0) for sample_id in ids])
    assert ledger_of(files).unmatched()[:2] == (100_000, 0)
    ledger_of(files).write([(sample_id, "y_pred", 1.0) for sample_id in reversed(ids)])
    assert ledger_of(files).unmatched()[:2] == (0, 0)
    assert rows_in(files[0]) == ids[::-1]


def test_halves_older_than_asked_are_forgotten_and_written_ids_are_not(files):
    ledger = ledger_of(files)
    ledger.write([*both("a"), both("b")[0], both("c")[1]])
    assert ledger.forget(before=0) == 0
    assert ledger.unmatched()[:2] == (1, 1)
    assert ledger.forget(before=1e12) == 2
    ledger.write([*both("a"), both("b")[1]])
    assert rows_in(files[0]) == ["a"]
