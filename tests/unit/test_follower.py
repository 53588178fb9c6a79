"""plot: the new whole lines of a file that grows."""

import os
import signal
from itertools import islice
from pathlib import Path
from typing import Iterator, List

import pytest

from parts import follower
from parts.follower import Follower


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.csv"


def test_only_new_whole_lines_are_given_and_each_once(file):
    file.write_bytes(b"one\ntwo\nthr")
    followed = Follower(str(file))
    assert list(followed.new_lines()) == [b"one\ntwo\n"]
    assert followed.goes_on()
    assert list(followed.new_lines()) == []
    with file.open("ab") as more:
        more.write(b"ee\nfour\n")
    assert followed.goes_on()
    assert list(followed.new_lines()) == [b"three\nfour\n"]


def test_what_comes_while_lines_are_given_is_given_the_next_time(file):
    """Else a file that always grows would be read in ever smaller pieces, without end."""
    file.write_bytes(b"one\n")
    followed = Follower(str(file))
    lines = followed.new_lines()
    assert next(lines) == b"one\n"
    with file.open("ab") as more:
        more.write(b"two\n")
    assert list(lines) == []
    assert list(followed.new_lines()) == [b"two\n"]


def test_a_file_that_is_not_there_has_no_lines_until_it_comes(file):
    followed = Follower(str(file))
    assert followed.goes_on()
    assert list(followed.new_lines()) == []
    assert followed.last_change == 0
    file.write_bytes(b"one\n")
    os.utime(file, (1.7e9, 1.7e9))
    assert not followed.goes_on()
    followed = Follower(str(file))
    assert list(followed.new_lines()) == [b"one\n"]
    assert followed.last_change == 1.7e9


@pytest.mark.parametrize("change", ["shrink", "replace", "delete", "make anew", "empty and write more"])
def test_a_file_that_shrinks_or_is_another_one_begins_anew(file, change):
    file.write_bytes(b"one\ntwo\nthree\n")
    followed = Follower(str(file))
    list(followed.new_lines())
    new = b"five\n" if change == "shrink" else b"five\n" * 50
    if change in ("shrink", "empty and write more"):  # the same file, not a new one
        file.write_bytes(new)
    elif change == "replace":
        other = file.with_suffix(".new")
        other.write_bytes(new)
        other.replace(file)
    else:
        file.unlink()
        if change == "make anew":  # many file systems give it the same number
            file.write_bytes(new)
    assert not followed.goes_on()
    assert list(Follower(str(file)).new_lines()) == ([] if change == "delete" else [new])


def test_a_long_file_is_given_in_pieces_and_goes_on_where_it_was_left(file, monkeypatch):
    monkeypatch.setattr(follower, "CHUNK", 1000)
    content = b"".join(b"%d\n" % number for number in range(10_000))
    file.write_bytes(content)
    followed = Follower(str(file))
    pieces: List[bytes] = []
    while sum(map(len, pieces)) < len(content):
        assert followed.goes_on()
        for piece in islice(followed.new_lines(), 3):
            assert len(piece) <= 1000
            pieces.append(piece)
    assert b"".join(pieces) == content
    assert all(piece.endswith(b"\n") for piece in pieces)


def test_a_line_longer_than_memory_is_given_in_pieces(file, monkeypatch):
    monkeypatch.setattr(follower, "CHUNK", 1000)
    file.write_bytes(b"one\n" + b"x" * 2500 + b"\ntwo\n")
    pieces = list(Follower(str(file)).new_lines())
    assert pieces == [b"one\n", b"x" * 1000, b"x" * 1000, b"x" * 500 + b"\ntwo\n"]


def test_a_copy_with_an_older_line_changed_is_another_file(file):
    file.write_bytes(b"one\n" * 100)
    followed = Follower(str(file))
    list(followed.new_lines())
    copy = file.with_suffix(".new")
    copy.write_bytes(b"two\n" + b"one\n" * 99)
    copy.replace(file)
    assert not followed.goes_on()


@pytest.fixture
def at_once() -> Iterator[None]:
    """End all tests where one waits for ever."""
    signal.alarm(10)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("kind", ["directory", "pipe", "device"])
def test_what_is_no_regular_file_is_refused_at_once_and_read_when_it_is_one(file, kind, at_once):
    file.write_bytes(b"one\n")
    followed = Follower(str(file))
    file.unlink()
    {"directory": os.mkdir, "pipe": os.mkfifo, "device": lambda path: os.symlink("/dev/zero", path)}[kind](file)
    assert not followed.goes_on()
    with pytest.raises(OSError, match=r"log\.csv is .*; it must be a regular file"):
        Follower(str(file))
    file.rmdir() if kind == "directory" else file.unlink()
    file.write_bytes(b"two\n")
    assert not followed.goes_on()


def test_no_file_stays_open_but_the_one_that_is_followed(file):
    file.write_bytes(b"one\n")
    followed = Follower(str(file))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        followed = Follower(str(file))
        file.unlink()
        file.mkdir()
        with pytest.raises(OSError, match="regular file"):
            Follower(str(file))
        file.rmdir()
        file.write_bytes(b"two\n")
        assert not followed.goes_on()
    assert len(os.listdir("/proc/self/fd")) == before
