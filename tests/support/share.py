"""What is costly to make and that several of the processes that run tests can use."""

import fcntl
import os
import pickle
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, TypeVar

from support.node import wait_until

T = TypeVar("T")


@contextmanager
def share(folder: Path, make: Callable[[], T], end: Callable[[T], None]) -> Iterator[T]:
    """Whoever needs it first makes it, and ends it when nobody needs it any more; to the others it is unpickled."""
    folder.mkdir(exist_ok=True)
    made, me = folder / "made", folder / f"user-{os.getpid()}"
    with _locked(folder):
        mine = not made.exists()
        value = make() if mine else pickle.loads(made.read_bytes())  # noqa: S301
        made.write_bytes(pickle.dumps(value))
        me.touch()

    def is_mine_alone() -> bool:
        with _locked(folder):
            alone = list(folder.glob("user-*")) == [me]
            if alone:
                made.unlink()  # whoever comes later makes another
            return alone

    try:
        yield value
    finally:
        if mine:
            wait_until(is_mine_alone, 600, "nobody needs it")
            end(value)
        me.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
