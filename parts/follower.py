"""The new whole lines of a file that grows: each once, however long the file has become."""

import os
from io import FileIO
from typing import Iterator

CHUNK = 1024 * 1024  # bytes in memory at a time; with a quarter of them, reading takes a third longer


class Follower:
    """The file that a path leads to, there or not, and how far it was read."""

    def __init__(self, path: str) -> None:
        """Raises OSError: it cannot be read, or is no regular file."""
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise OSError(f"{path} is a directory, a pipe or a device; it must be a regular file")
        self._path = path
        # Open as long as this object is: while it is, no file made anew can have the identity of one deleted.
        self._file = FileIO(path) if os.path.exists(path) else None
        self._offset = 0  # of the first byte not read yet
        self._last_bytes = b""  # before that

    @property
    def last_change(self) -> float:
        """When the last line came, Unix time; 0 where there is no file."""
        return os.fstat(self._file.fileno()).st_mtime if self._file else 0.0

    def goes_on(self) -> bool:
        """Whether the path still leads to this file, and what was read is still in it. Raises OSError."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return self._file is None
        if self._file is None or not os.path.samestat(found, os.fstat(self._file.fileno())):
            return False
        self._file.seek(self._offset - len(self._last_bytes))
        return self._file.read(len(self._last_bytes)) == self._last_bytes  # else it shrank, and may have grown since

    def new_lines(self) -> Iterator[bytes]:
        """Whole lines, many at a time, up to where the file ends now; one longer than CHUNK comes in pieces."""
        end = os.fstat(self._file.fileno()).st_size if self._file else 0
        while self._file and self._offset < end:
            self._file.seek(self._offset)
            chunk = self._file.read(min(CHUNK, end - self._offset))
            lines = chunk[: chunk.rfind(b"\n") + 1]
            if not lines and len(chunk) < CHUNK:
                return  # somebody is still writing this line
            lines = lines or chunk
            self._offset += len(lines)
            self._last_bytes = lines[-64:]
            yield lines
