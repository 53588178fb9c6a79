"""The rows of a CSV, over and over: its last column is the label, the others are the features."""

import csv
import math
import os
from array import array
from typing import Iterator, List, TextIO, Tuple

import numpy as np

LARGEST = 100_000_000  # bytes of the file; its numbers take in memory four times as many at most
LONGEST_LINE = 10_000_000  # characters; as texts, the cells of one line may take thirty times as many bytes


class Dataset:
    """The rows of a table, over and over."""

    def __init__(self, names: List[str], table: np.ndarray) -> None:
        self.names = names  # of the columns, the label's last
        self.table = table  # (n_rows, n_features + 1) float64
        self.order = np.arange(len(table))  # in which its rows are taken
        self._taken = 0

    def take(self, n_samples: int) -> Tuple[np.ndarray, np.ndarray]:
        """The next samples: features, (n_samples, n_features), and labels, (n_samples,)."""
        turns = np.arange(self._taken, self._taken + n_samples) % len(self.table)
        self._taken += n_samples
        rows = self.table[self.order[turns]]
        return rows[:, :-1], rows[:, -1]


def read(path: str) -> Dataset:
    """A CSV: names of columns, then finite numbers. Raises ValueError, one sentence for the person whose file it is."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for, a device read for ever
        raise ValueError("it must be a file, not a directory, a pipe or a device")
    try:
        if os.path.getsize(path) > LARGEST:
            raise ValueError(f"it must have at most {LARGEST // 10**6} MB, not {os.path.getsize(path) // 10**6}")
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _read(file)
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise ValueError(f"it must be in UTF-8, but has the byte {byte}; save the file as CSV in UTF-8") from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"it must be a CSV that can be read: {error}") from error


def _read(file: TextIO) -> Dataset:
    rows = _rows(file)
    line, names = next(rows, (1, [""]))
    _check_names(names, f"line {line}")
    numbers = array("d")
    for line, row in rows:
        if len(row) != len(names):
            found = f"{len(row)}: {_shown(','.join(row))}"
            raise ValueError(f"line {line} must have {len(names)} columns as the header, not {found}")
        for name, cell in zip(names, row):
            number = _number(cell)
            if not math.isfinite(number):
                where = f"line {line}, column {_shown(name)}"
                raise ValueError(f"{where} must be a finite number like 1234.5 (no comma), not {_shown(cell)}")
            numbers.append(number)
    if not numbers:
        raise ValueError("it must have a row below its header")
    return Dataset(names, np.frombuffer(numbers).reshape(-1, len(names)))


def _rows(file: TextIO) -> Iterator[Tuple[int, List[str]]]:
    """The number of each line that is not blank, and its cells."""
    for number, line in enumerate(file, 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"line {number} must have at most {LONGEST_LINE} characters, not {len(line)}")
        # Line by line: a quoted cell that does not end would be read to the end of the file.
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]
        if any(cells):
            yield number, cells


def _check_names(names: List[str], line: str) -> None:
    shown = _shown(",".join(names))
    if any(math.isfinite(_number(name)) for name in names):
        raise ValueError(f"{line} must name the columns, but has numbers: {shown}")
    if len(names) < 2:
        raise ValueError(f"{line} must name two columns or more, with ',' between (not ';' or tabs): {shown}")
    if "" in names:
        index = "if it is the index that pandas adds, write the file with index=False"
        raise ValueError(f"{line} must name every column, but column {names.index('') + 1} has no name; {index}")
    if not all(map(str.isprintable, names)):
        raise ValueError(f"{line} must name the columns in characters that can be printed: {shown}")


def _number(cell: str) -> float:
    """Not finite for what isn't a number either."""
    try:
        return math.nan if "_" in cell else float(cell)  # 2021_05 is a number to Python alone
    except ValueError:
        return math.nan


def _shown(text: str) -> str:
    return repr(text if len(text) <= 50 else text[:50] + "…")
