"""The CSV that metrics writes: its header, a row to its line and back, append, cut.

Whatever a user's editor did to the file in between, what is appended begins a line of its own.
"""

import fcntl
import math
import os
import re
import time
from contextlib import suppress
from io import FileIO
from typing import Iterator, List, Optional, Tuple

import msgspec

from parts.messages import ID
from parts.service import log

HEADER = b"id,y_true,y_pred,absolute_error\n"
LONGEST_LINE = 1024  # bytes; an id of 128 characters and three floats need less

Row = Tuple[str, float, float]  # id, y_true, y_pred

#: How a line of ours begins, up to its third comma.
BEGINNING = re.compile(f"-|-?{ID}(,-?[0-9][0-9.e+-]*)?(,-?[0-9.e+-]*)?".encode())

encoder = msgspec.json.Encoder()


def lines(rows: List[Row]) -> bytes:
    """The lines of these rows, floats in their shortest exact form."""
    # As JSON first, which is five times as fast as Python's own formatting. An id holds no comma, quote or bracket;
    # what JSON has no number for, an infinite error, is null.
    text = encoder.encode([(sample_id, y_true, y_pred, abs(y_true - y_pred)) for sample_id, y_true, y_pred in rows])
    return text.replace(b",null]", b",inf]")[2:-2].replace(b"],[", b"\n").replace(b'"', b"") + b"\n"


def parse(line: bytes) -> Optional[Row]:
    """The row that a line of the CSV holds, None where it holds none."""
    try:
        sample_id, y_true, y_pred, _ = line.decode("ascii").split(",")
        row = sample_id, float(y_true), float(y_pred)
    except ValueError:
        return None
    return row if math.isfinite(row[1]) and math.isfinite(row[2]) else None


def is_torn(line: bytes) -> bool:
    """Whether this last line, without its newline, is what is left of one of ours that was not written to its end."""
    row = parse(line + b"0")  # with an error that can be read
    if row is None:
        return BEGINNING.fullmatch(line) is not None
    whole = lines([row])
    return whole.startswith(line) and whole != line + b"\n"


class CsvFile(FileIO):
    """The file, open for one transaction: whoever replaces or deletes it in between does no harm.

    It starts with the header: one that is not there or empty is begun, and what starts otherwise is kept under another
    name. Raises OSError where it is no regular file or cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(f"{path} is not a regular file")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        super().__init__(path, "a+")
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(self, fcntl.LOCK_EX)  # until it is closed: `make local` and containers may share one CSV
        self.length = os.fstat(self.fileno()).st_size
        first = os.pread(self.fileno(), LONGEST_LINE, 0).partition(b"\n")[0]
        if not self.length:
            self.append(HEADER)
            folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
            try:
                os.fsync(folder)  # makes the name of a new file as durable as what is in it (fsync(2))
            finally:
                os.close(folder)
        elif first.lstrip(b"\xef\xbb\xbf").rstrip() != HEADER.rstrip():  # editors may add a BOM and \r
            aside = f"{path}.{time.time_ns()}"
            os.rename(path, aside)
            log.warning("%s did not start with the header %s: kept as %s", path, HEADER.decode().strip(), aside)
            self.__init__(path)  # type: ignore[misc]  # which closes what was open

    def append(self, data: bytes) -> None:
        """Add lines at the end; they are on disk when this returns."""
        if not self.starts_a_line(self.length):
            data = b"\n" + data
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.write(rest) :]
            os.fsync(self)
        except OSError:
            self.truncate(self.length)  # all or nothing, where the disk lets us
            raise
        self.length += len(data)

    def cut(self, length: int) -> None:
        self.truncate(length)
        os.fsync(self)
        self.length = length

    def starts_a_line(self, offset: int) -> bool:
        return not offset or os.pread(self.fileno(), 1, offset - 1) == b"\n"

    def tail(self) -> bytes:
        """What stands behind the last newline; nothing where that is longer than any line of ours."""
        block = os.pread(self.fileno(), LONGEST_LINE, max(0, self.length - LONGEST_LINE))
        _, newline, tail = block.rpartition(b"\n")
        return tail if newline else b""

    def lines(self, start: int) -> Iterator[bytes]:
        """The lines from `start` to the end, in parts where they are longer than any of ours."""
        with open(self.fileno(), "rb", closefd=False) as file:
            file.seek(start)
            yield from iter(lambda: file.readline(LONGEST_LINE), b"")
