"""The state of the join, in SQLite, and the CSV of all complete pairs, in one transaction.

The CSV is the ledger, and the state catches up with it: rows are appended and synced before the commit. After a
crash in between, the CSV is longer than the state says, and what it holds beyond that is taken as written. The
transaction also guards the CSV, so that replicas take turns.
"""

import sqlite3
import time
from itertools import chain
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import msgspec

from parts.csv_file import CsvFile, Row, is_torn, lines, parse
from parts.service import counted, log
from parts.state import State

SCHEMA = Path(__file__).with_name("ledger.sql").read_text()
LOOK_EVERY = 2.0  # seconds between two looks at what waits

Halves = List[Tuple[str, List[str], List[float]]]  # "y_true" or "y_pred", ids and their values
Known = Dict[str, List[Any]]  # id -> y_true, y_pred, None where not known yet


class Paired(NamedTuple):
    """What becomes of new halves."""

    rows: List[Row]  # that are complete now
    waiting: List[Tuple[str, Optional[float], Optional[float]]]  # id, y_true, y_pred: no other half yet
    contradictions: List[Tuple[str, str, float]]  # id, half, and the value that came later and is dropped


class Ledger(State):
    """The state, and the CSV that it guards; `pair` is the join.

    Every method raises NotNow where the disk, the files or another replica don't let it work. Rows that reached the
    CSV all the same are taken as written by the next call.
    """

    def __init__(self, csv_file: str, state_file: str, pair: Callable[[Halves, Known], Paired]) -> None:
        super().__init__(state_file, SCHEMA)
        self._pair = pair
        self._csv_file = csv_file
        self._told = 0, 0, 0.0  # true values, predictions, and the seconds that the oldest had waited
        self._next_look = 0.0

    def write(self, halves: Halves) -> Paired:
        """Store these halves and append the rows that they complete; when this returns, all is on disk."""
        with self.transaction() as db, CsvFile(self._csv_file) as csv:
            [recorded] = db.execute("SELECT length FROM csv").fetchone()
            if recorded != csv.length:
                self._catch_up(db, csv, recorded)
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
        with self.transaction("BEGIN") as db:  # reads only: no replica waits for it
            query = "SELECT count(y_true), count(y_pred), ifnull(? - min(since), 0.0) FROM waiting"
            return db.execute(query, (self._now(db, update=False),)).fetchone()

    def forget(self, age: float) -> int:
        """Drop halves that have waited for longer than so many seconds; how many. A million take half a second."""
        with self.transaction() as db:
            return db.execute("DELETE FROM waiting WHERE since < ?", (self._now(db) - age,)).rowcount

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
