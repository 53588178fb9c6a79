"""metrics: joins true values and predictions by id and appends each pair's absolute error to a CSV.

    RABBITMQ_HOST=localhost CSV_FILE=logs/metric_log.csv STATE_FILE=/tmp/metrics.db python metrics.py

A half (one of the two values of a sample) is stored in SQLite before it is acknowledged and may wait
there for its other half for weeks. An id gets at most one row, whatever is killed when; any number of
replicas share the state and the CSV.
"""

import fcntl
import json
import logging
import math
import os
import sqlite3
import stat
import time
from contextlib import closing, contextmanager
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import messages
import service
from broker import Broker, Delivery, NotNow

CSV_FILE = service.text("CSV_FILE", "/app/logs/metric_log.csv")
STATE_FILE = service.text("STATE_FILE", "/app/state/metrics.db")
PREFETCH = service.whole("PREFETCH", 2000, 1, 65535)  # deliveries in hand a queue: one transaction's worth
SHARD = service.whole("SHARD", 0, 0, 99)  # which of features' SHARDS; each has a state and a CSV of its own
PENDING_TTL = service.number("PENDING_TTL", 0.0, 0, 1e12)  # forget a half alone for so many seconds; 0 = never

HEADER = b"id,y_true,y_pred,absolute_error\n"
LONGEST_LINE = 1024  # bytes; an id of 128 characters and three floats need less
BUSY = 2.0  # seconds to wait for another replica's transaction
REPORT_EVERY = 5.0  # seconds between two lines about what is unmatched
FORGET_AT_ONCE = 10_000  # halves, so that forgetting a million holds nothing up

log = logging.getLogger("metrics")

Half = Tuple[str, str, float]  # id, "y_true" or "y_pred", value
Known = Dict[str, List[Optional[float]]]  # id -> [y_true, y_pred], None where not known yet
Row = Tuple[str, float, float]  # id, y_true, y_pred


# --- the join, without a file or a queue ------------------------------------------------------------


def pair(known: Known, halves: Iterable[Half]) -> Tuple[Known, List[Row], List[Half]]:
    """Add halves to what is known of their ids.

    Returns what changed, the rows that became complete, in that order, and the halves that contradict
    an earlier value: the first one wins. `known` holds every one of these ids that was seen before.
    """
    changed: Known = {}
    rows: List[Row] = []
    contradictions: List[Half] = []
    for sample_id, column, value in halves:
        values = changed.get(sample_id) or list(known.get(sample_id, (None, None)))
        mine = 0 if column == "y_true" else 1
        if values[mine] is not None:
            if values[mine] != value:
                contradictions.append((sample_id, column, value))
            continue
        values[mine] = value
        changed[sample_id] = values
        y_true, y_pred = values
        if y_true is not None and y_pred is not None:
            rows.append((sample_id, y_true, y_pred))
    return changed, rows, contradictions


def csv_line(row: Row) -> str:
    """One line of the CSV, floats in their shortest exact form."""
    sample_id, y_true, y_pred = row
    return f"{sample_id},{y_true!r},{y_pred!r},{abs(y_true - y_pred)!r}\n"


def finite_error(row: Row) -> float:
    """A row's share of the mean error; none where two finite values lie further apart than a float can tell."""
    error = abs(row[1] - row[2])
    return error if math.isfinite(error) else 0.0


def parse_line(line: bytes) -> Optional[Row]:
    """The row that a line of the CSV holds, None where it holds none."""
    try:
        sample_id, y_true, y_pred, _ = line.decode("ascii").split(",")
        row = sample_id, float(y_true), float(y_pred)
    except ValueError:
        return None
    return row if math.isfinite(row[1]) and math.isfinite(row[2]) else None


# --- the state and the CSV --------------------------------------------------------------------------

SCHEMA = """
PRAGMA journal_mode = WAL;     -- a commit is one append and one fsync (https://sqlite.org/wal.html)
PRAGMA synchronous = FULL;     -- a commit survives a power cut
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS samples (
    id TEXT PRIMARY KEY, y_true REAL, y_pred REAL, since REAL NOT NULL  -- when the first half came, Unix time
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS no_y_true ON samples (since) WHERE y_true IS NULL;
CREATE INDEX IF NOT EXISTS no_y_pred ON samples (since) WHERE y_pred IS NULL;
CREATE TABLE IF NOT EXISTS csv (only INTEGER PRIMARY KEY, length INTEGER, row_count INTEGER, error_sum REAL);
INSERT OR IGNORE INTO csv VALUES (1, 0, 0, 0.0);
COMMIT;
"""

STORE = """
INSERT INTO samples VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET y_true = excluded.y_true, y_pred = excluded.y_pred
"""


class Written(NamedTuple):
    """What a transaction added, and the CSV as it is now."""

    rows: List[Row]
    contradictions: List[Half]
    row_count: int
    mae: float


class Csv:
    """The CSV file, open for one transaction: whoever replaces or deletes it in between does no harm."""

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise OSError(f"{path} is not a regular file")
        self.length = status.st_size

    def close(self) -> None:
        os.close(self._fd)

    def append(self, data: bytes) -> None:
        """Add `data` at the end; it is on disk when this returns."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self.length)  # all or nothing, where the disk lets us
            raise
        self.length += len(data)

    def cut(self, length: int) -> None:
        os.ftruncate(self._fd, length)
        os.fsync(self._fd)
        self.length = length

    def starts_a_line(self, offset: int) -> bool:
        return os.pread(self._fd, 1, offset - 1) == b"\n"

    def lines(self, start: int) -> Iterator[bytes]:
        """The lines from `start` to the end, in parts where they are longer than any of ours."""
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(start)
            yield from iter(lambda: file.readline(LONGEST_LINE), b"")

    def begin_with_header(self) -> None:
        """Make sure that the file starts with the header; what starts otherwise is kept under another name."""
        first = next(self.lines(0), b"")
        if first and first.lstrip(b"\xef\xbb\xbf").rstrip() != HEADER.rstrip():  # editors may add a BOM and \r
            aside = f"{self._path}.{time.time_ns()}"
            os.rename(self._path, aside)
            log.warning("%s did not start with the header %s: kept as %s", self._path, HEADER.decode().strip(), aside)
            self.close()
            self.__init__(self._path)  # type: ignore[misc]
        elif first and not first.endswith(b"\n"):
            self.append(b"\n")
        if not self.length:
            self.append(HEADER)
            with _folder(self._path) as folder:
                os.fsync(folder)  # makes the name of a new file as durable as what is in it (fsync(2))


@contextmanager
def _folder(path: str) -> Iterator[int]:
    """The folder that a file is in, open."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        yield folder
    finally:
        os.close(folder)


class Ledger:
    """The CSV of all complete pairs, and the SQLite state that catches up with it.

    A transaction of the state also guards the CSV, so that replicas take turns. Rows are appended and
    synced before the commit: after a crash in between, the CSV is longer than the state says, and what
    it holds beyond that length is taken as written.

    Every method raises NotNow where the disk, the files or another replica don't let it. The state has not
    changed then; rows that reached the CSV all the same are taken as written by the next call.
    """

    def __init__(self, csv_file: str, state_file: str) -> None:
        self._csv_file = csv_file
        self._state_file = state_file
        self._db: Optional[sqlite3.Connection] = None
        self._identity: Optional[Tuple[int, int]] = None  # of the state file that is open

    def write(self, halves: List[Half]) -> Written:
        """Store the halves and append the rows that they complete; when this returns, all is on disk."""
        with self._transaction() as db, closing(Csv(self._csv_file)) as csv:
            recorded, row_count, error_sum = db.execute("SELECT length, row_count, error_sum FROM csv").fetchone()
            if csv.length != recorded or not recorded:
                row_count, error_sum = self._catch_up(db, csv, recorded, row_count, error_sum)
            changed, rows, contradictions = pair(self._known(db, halves), halves)
            now = time.time()
            db.executemany(STORE, ((sample_id, *values, now) for sample_id, values in changed.items()))
            if rows:
                csv.append("".join(map(csv_line, rows)).encode())
                row_count += len(rows)
                error_sum += sum(map(finite_error, rows))
            if csv.length != recorded:
                db.execute(
                    "UPDATE csv SET length = ?, row_count = ?, error_sum = ?", (csv.length, row_count, error_sum)
                )
        return Written(rows, contradictions, row_count, error_sum / row_count if row_count else 0.0)

    def close(self) -> None:
        if self._db:
            self._db.close()
            self._db = None

    def unmatched(self) -> Tuple[int, int, float]:
        """How many true values and how many predictions wait, and since when (Unix time) the oldest does."""
        with self._transaction("BEGIN") as db:  # reads only: no replica waits for it
            true_values, since = db.execute("SELECT count(*), min(since) FROM samples WHERE y_pred IS NULL").fetchone()
            predictions, other = db.execute("SELECT count(*), min(since) FROM samples WHERE y_true IS NULL").fetchone()
        return true_values, predictions, min(since or math.inf, other or math.inf)

    def forget(self, before: float) -> int:
        """Drop halves that have waited since before this Unix time, at most FORGET_AT_ONCE; how many."""
        with self._transaction() as db:
            return db.execute(
                """
                DELETE FROM samples WHERE id IN (
                    SELECT id FROM samples WHERE y_pred IS NULL AND since < :before
                    UNION ALL SELECT id FROM samples WHERE y_true IS NULL AND since < :before
                    LIMIT :most)
                """,
                {"before": before, "most": FORGET_AT_ONCE},
            ).rowcount

    def _known(self, db: sqlite3.Connection, halves: List[Half]) -> Known:
        ids = json.dumps([sample_id for sample_id, _, _ in halves])
        found = db.execute(
            "SELECT id, y_true, y_pred FROM samples WHERE id IN (SELECT value FROM json_each(?))", (ids,)
        )
        return {sample_id: [y_true, y_pred] for sample_id, y_true, y_pred in found}

    def _catch_up(
        self, db: sqlite3.Connection, csv: Csv, recorded: int, row_count: int, error_sum: float
    ) -> Tuple[int, float]:
        """Take what the CSV holds beyond the recorded length as written; all of it where it was edited.

        A last line that was torn by a crash is cut off; one that a user left without its newline gets it.
        Returns the number of rows in the file and the sum of their errors.
        """
        if recorded and csv.length > recorded and csv.starts_a_line(recorded):
            start = recorded
        else:
            start, row_count, error_sum = 0, 0, 0.0
            csv.begin_with_header()
        edited = recorded and not start
        end, last = start, HEADER

        def rows() -> Iterator[Tuple[str, float, float, float]]:
            nonlocal end, last, row_count, error_sum
            for last in csv.lines(start):
                row = parse_line(last)
                whole = edited or last.endswith(b"\n") or len(last) == LONGEST_LINE
                if row and (whole or csv_line(row).encode() == last + b"\n"):
                    row_count += 1
                    error_sum += finite_error(row)
                    yield (*row, now)
                elif not whole:
                    return
                end += len(last)

        now = time.time()
        db.executemany(STORE, rows())
        if end < csv.length:
            log.warning("%s ended in a torn line, which is cut off: %r", self._csv_file, last[:100])
            csv.cut(end)
        elif not last.endswith(b"\n"):
            csv.append(b"\n")
        if row_count:
            log.info("%s holds %d rows", self._csv_file, row_count)
        return row_count, error_sum

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        try:
            db = self._open()
            db.execute(begin)
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        except (OSError, sqlite3.Error) as error:
            # SQLite's other errors have classes of their own; this one means a file that is damaged.
            if type(error) is sqlite3.DatabaseError:
                self._keep_damaged_state()
            raise NotNow(f"cannot store, so nothing is acknowledged: {error}") from error

    def _open(self) -> sqlite3.Connection:
        """The open state; opened anew when its file was deleted or replaced."""
        if self._db and self._identity == self._identity_now():
            return self._db
        self.close()
        os.makedirs(os.path.dirname(self._state_file) or ".", exist_ok=True)
        with open(self._state_file, "ab"):
            pass  # so that there is one to identify; before it is opened, lest another one is judged by its faults
        self._identity = self._identity_now()
        db = sqlite3.connect(self._state_file, timeout=BUSY, isolation_level=None)
        db.executescript(SCHEMA)
        self._db = db
        return db

    def _identity_now(self) -> Optional[Tuple[int, int]]:
        try:
            status = os.stat(self._state_file)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _keep_damaged_state(self) -> None:
        """Put a damaged state out of the way; the next try begins a new one and reads the CSV's ids back."""
        self.close()
        aside = f"{self._state_file}.damaged-{time.time_ns()}"
        try:
            with _folder(self._state_file) as folder:
                fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed: replicas look and rename in turn
                if self._identity != self._identity_now():
                    return  # another one was faster
                for suffix in ("-wal", "-shm", ""):
                    if os.path.exists(self._state_file + suffix):
                        os.rename(self._state_file + suffix, aside + suffix)
        except OSError as error:
            raise NotNow(f"the state {self._state_file} is damaged and cannot be put aside: {error}") from error
        log.error("the state %s is damaged: kept as %s; what waited unmatched in it is lost", self._state_file, aside)


# --- the service ------------------------------------------------------------------------------------


def main() -> None:
    service.start("metrics")
    ledger = Ledger(CSV_FILE, STATE_FILE)
    columns = {messages.shard(column, SHARD): column for column in ("y_true", "y_pred")}  # by their queues
    broker = Broker("metrics", list(columns))
    progress = service.Progress("rows written")
    reported: Tuple[int, int] = (0, 0)
    next_report = time.monotonic() + REPORT_EVERY

    def store(deliveries: List[Delivery]) -> None:
        decoded = [messages.decode(delivery.body, messages.finite_number) for delivery in deliveries]
        written = ledger.write(
            [
                (sample_id, columns[delivery.queue], value)
                for delivery, message in zip(deliveries, decoded)
                for sample_id, value in zip(message.ids, message.bodies)
            ]
        )
        for sample_id, column, value in written.contradictions:
            log.warning("%s: a later, different %s is dropped: %r", sample_id, column, value)
        for delivery, message in zip(deliveries, decoded):
            for piece, reason in messages.offending(delivery.body, message, message.faults):
                broker.set_aside(delivery, piece, reason)
        if written.rows:
            progress.add(len(written.rows), lambda: tell(written))

    def tell(written: Written) -> str:
        sample_id, y_true, y_pred = written.rows[-1]
        values = f"{sample_id}: y_true {y_true:.4f}, y_pred {y_pred:.4f}, error {abs(y_true - y_pred):.4f}"
        return f"{values}; {written.row_count} rows, MAE {written.mae:.4f}"

    def tidy() -> None:
        nonlocal reported, next_report
        ledger.write([])  # after a crash the CSV is mended, and a deleted one begun, without waiting for a message
        if PENDING_TTL:
            forgotten = ledger.forget(time.time() - PENDING_TTL)
            if forgotten:
                log.warning("%d halves without a partner for %g s are forgotten", forgotten, PENDING_TTL)
        begun = time.monotonic()
        if begun >= next_report:
            true_values, predictions, since = ledger.unmatched()
            took = time.monotonic() - begun
            next_report = begun + max(REPORT_EVERY, 50 * took)  # to count a million takes half a second
            age = time.time() - since
            if (true_values, predictions) != reported and (age > 1 or not true_values + predictions):
                reported = true_values, predictions
                oldest = f", the oldest for {age:.0f} s" if true_values + predictions else ""
                log.info("unmatched: %d true values, %d predictions%s", true_values, predictions, oldest)

    broker.consume(list(columns), store, PREFETCH)
    broker.every_second(tidy)
    broker.every_second(progress.flush)
    broker.run()
    ledger.close()


if __name__ == "__main__":
    main()
