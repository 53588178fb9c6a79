"""A state in SQLite that replicas share: one transaction after the other, whatever becomes of its file."""

import os
import sqlite3
from contextlib import contextmanager
from typing import Iterator, Optional

from parts.service import NotNow

BUSY = 2.0  # seconds to wait for another replica's transaction


class State:
    """The file, opened anew when it was deleted or replaced; `schema` makes what is not there."""

    def __init__(self, path: str, schema: str) -> None:
        self._path = os.path.abspath(path)  # to SQLite itself some names are no files, as :memory:
        self._schema = schema
        self._db: Optional[sqlite3.Connection] = None
        self._opened: Optional[os.stat_result] = None  # the file that is open

    @contextmanager
    def transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
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
                    f". The state {self._path} is damaged: move it away, and its ids are read back from the CSV;"
                    " what waited unmatched in it is lost"
                )
            raise NotNow(reason) from error

    def close(self) -> None:
        if self._db:
            self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        found = os.stat(self._path) if os.path.exists(self._path) else None
        if found and not os.path.isfile(self._path):
            raise OSError(f"{self._path} is not a regular file")
        if self._db and found and self._opened and os.path.samestat(found, self._opened):
            return self._db
        self.close()
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        # Used by one thread at a time, the handler's, and closed by another.
        self._db = sqlite3.connect(self._path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        self._db.executescript(self._schema)
        self._opened = os.stat(self._path)
        return self._db
