"""The state of the join, in SQLite, and the CSV of all complete pairs, in one transaction.

The CSV is the ledger, and the state catches up with it: rows are appended and synced before the commit. After a
crash in between, the CSV is longer than the state says, and what it holds beyond that is taken as written. The
transaction also guards the CSV, so that replicas take turns.
"""

import os
import sqlite3
import time
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import msgspec

from parts.csv_file import CsvFile, Row, is_torn, lines, parse
from parts.service import NotNow, counted, log

SCHEMA = Path(__file__).with_name("ledger.sql").read_text()
BUSY = 2.0  # seconds to wait for another replica's transaction
LOOK_EVERY = 2.0  # seconds between two looks at what waits

Halves = List[Tuple[str, List[str], List[float]]]  # "y_true" or "y_pred", ids and their values
Known = Dict[str, List[Any]]  # id -> y_true, y_pred, None where not known yet


class Paired(NamedTuple):
    """What becomes of new halves."""

    rows: List[Row]  # that are complete now
    waiting: List[Tuple[str, Optional[float], Optional[float]]]  # id, y_true, y_pred: no other half yet
    contradictions: List[Tuple[str, str, float]]  # id, half, and the value that came later and is dropped


class Ledger:
    """The state, and the CSV that it guards; `pair` is the join.

    Every method raises NotNow where the disk, the files or another replica don't let it work. Rows that reached the
    CSV all the same are taken as written by the next call.
    """

    def __init__(self, csv_file: str, state_file: str, pair: Callable[[Halves, Known], Paired]) -> None:
        self._pair = pair
        self._csv_file = csv_file
        self._state_file = os.path.abspath(state_file)  # to SQLite itself some names are no files, as :memory:
        self._db: Optional[sqlite3.Connection] = None
        self._opened: Optional[os.stat_result] = None  # the file that is open
        self._told = 0, 0, 0.0  # true values, predictions, and the seconds that the oldest had waited
        self._next_look = 0.0

    def write(self, halves: Halves) -> Paired:
        """Store these halves and append the rows that they complete; when this returns, all is on disk."""
        with self._transaction() as db, CsvFile(self._csv_file) as csv:
            [recorded] = db.execute("SELECT length FROM csv").fetchone()
            if recorded == csv.length:
                return self._write(db, csv, halves)
            self._catch_up(db, csv, recorded)
        return self.write(halves)  # not before that is committed: what a crash tears from now on is known to be ours

    def _write(self, db: sqlite3.Connection, csv: CsvFile, halves: Halves) -> Paired:
        ids = dict.fromkeys(chain.from_iterable(ids for _, ids, _ in halves))
        wanted = msgspec.json.encode(list(ids)).decode()
        found = db.execute("SELECT * FROM known WHERE id IN (SELECT value FROM json_each(?))", (wanted,))
        known = {sample_id: values for sample_id, *values in found}
        paired = self._pair(halves, known)
        if paired.waiting:
            now = self._now(db)
            db.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?)", ((*half, now) for half in paired.waiting))
        if paired.rows:
            old = ((row[0],) for row in paired.rows if row[0] in known)
            db.executemany("INSERT INTO written VALUES (?, ?, ?)", paired.rows)
            db.executemany("DELETE FROM waiting WHERE id = ?", old)
            csv.append(lines(paired.rows))
            db.execute("UPDATE csv SET length = ?", (csv.length,))
        return paired

    def look(self, ttl: float) -> None:
        """Now and then, forget what has waited for more than so many seconds, 0 = nothing, and log what waits."""
        begun = time.monotonic()
        if begun < self._next_look:
            return
        forgotten = self.forget(ttl) if ttl else 0
        if forgotten:
            log.warning("forgotten after %g s without their other half: %d", ttl, forgotten)
        true_values, predictions, age = self.unmatched()
        *before, age_before = self._told
        news = [true_values, predictions] != before and (age > 1 or not age)
        if news or age > 2 * age_before > 0:
            self._told = true_values, predictions, age
            oldest = f", the oldest for {age:.0f} s" if age else ""
            waiting = f"{counted(true_values, 'true value')}, {counted(predictions, 'prediction')}"
            log.info("unmatched: %s%s", waiting, oldest)
        now = time.monotonic()
        self._next_look = now + max(LOOK_EVERY, 50 * (now - begun))  # to count a million takes a tenth of a second

    def unmatched(self) -> Tuple[int, int, float]:
        """How many true values and how many predictions wait, and for how many seconds the oldest does."""
        with self._transaction("BEGIN") as db:  # reads only: no replica waits for it
            query = "SELECT count(y_true), count(y_pred), ifnull(? - min(since), 0.0) FROM waiting"
            return db.execute(query, (self._now(db, update=False),)).fetchone()

    def forget(self, age: float) -> int:
        """Drop halves that have waited for longer than so many seconds; how many. A million take half a second."""
        with self._transaction() as db:
            return db.execute("DELETE FROM waiting WHERE since < ?", (self._now(db) - age,)).rowcount

    def close(self) -> None:
        if self._db:
            self._db.close()
            self._db = None

    def _now(self, db: sqlite3.Connection, update: bool = True) -> float:
        """The state's own clock: one that is set, forward or back, makes no half older."""
        now, before = db.execute("SELECT now, monotonic FROM clock").fetchone()
        monotonic = time.monotonic()
        now += max(0.0, monotonic - before)  # less than what has passed where the machine was off
        if update:
            db.execute("UPDATE clock SET now = ?, monotonic = ?", (now, monotonic))
        return now

    def _catch_up(self, db: sqlite3.Connection, csv: CsvFile, recorded: int) -> None:
        """Take what the CSV holds beyond the recorded length as written; all of it where it was edited or is new.

        A last line that we did not write to its end is cut off; what else a user left there stays.
        """
        start = recorded if csv.starts_a_line(recorded) else 0
        if csv.length < recorded:
            log.warning("%s is shorter than it was: rows that are gone do not come back", self._csv_file)
        tail = csv.tail()
        if start and is_torn(tail):
            log.warning("%s ended in a torn line, which is cut off: %r", self._csv_file, tail)
            csv.cut(csv.length - len(tail))
        elif tail:
            csv.append(b"")  # but for its newline
        count = 0
        for row in filter(None, map(parse, csv.lines(start))):
            if db.execute("INSERT OR IGNORE INTO written VALUES (?, ?, ?)", row).rowcount:
                db.execute("DELETE FROM waiting WHERE id = ?", row[:1])
                count += 1
        if count:
            log.info("%s of %s not known to be written until now", counted(count, "row"), self._csv_file)
        db.execute("UPDATE csv SET length = ?", (csv.length,))

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """All that the block does is committed, or none of it.

        Raises NotNow, in place of SQLite's errors and of OSError; the state has not changed then.
        """
        try:
            with self._open() as db:  # commits at its end, or rolls back
                db.execute(begin)
                yield db
        except (OSError, sqlite3.Error) as error:
            self.close()  # it may hold a lock, and the file may be moved away
            reason = f"cannot store, so nothing is acknowledged: {error}"
            # SQLite's other errors have classes of their own; this one means a file that is damaged.
            if type(error) is sqlite3.DatabaseError:
                reason += (
                    f". The state {self._state_file} is damaged: move it away, and its ids are read back from the CSV;"
                    " what waited unmatched in it is lost"
                )
            raise NotNow(reason) from error

    def _open(self) -> sqlite3.Connection:
        found = os.stat(self._state_file) if os.path.exists(self._state_file) else None
        if found and not os.path.isfile(self._state_file):
            raise OSError(f"{self._state_file} is not a regular file")
        if self._db and found and self._opened and os.path.samestat(found, self._opened):
            return self._db
        self.close()
        os.makedirs(os.path.dirname(self._state_file), exist_ok=True)
        # Used by one thread at a time, the handler's, and closed by another.
        self._db = sqlite3.connect(self._state_file, timeout=BUSY, isolation_level=None, check_same_thread=False)
        self._db.executescript(SCHEMA)
        self._opened = os.stat(self._state_file)
        return self._db
