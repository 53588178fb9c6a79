"""A setting from the environment, checked: a wrong one ends the script with one line and exit code 2."""

import os
from contextlib import suppress
from typing import Any, Callable, List, NoReturn


def refuse(name: str, value: Any, reason: str) -> NoReturn:
    """End the script because of a wrong setting: one line, exit code 2."""
    one_line = " ".join(f"{name}={value!r} is not allowed: {reason}".split()) + "\n"
    with suppress(OSError):  # nobody is there to read it
        os.write(2, one_line.encode("utf-8", "backslashreplace"))  # a model may have silenced sys.stderr
    os._exit(2)  # where a model has threads, Python itself would wait for them


def text(name: str, default: str) -> str:
    """The environment variable `name`, any text: a name, a password, a path; `default` when it is unset or empty."""
    return os.environ.get(name) or default


def number(name: str, default: Any, low: float, high: float, kind: Callable[[str], Any] = float) -> Any:
    """A finite number from `low` to `high`, both included; a whole one where `kind` is int."""
    given = text(name, "")
    if not given:
        return default
    with suppress(ValueError):
        value = kind(given)
        if low <= value <= high:  # NaN is in no range
            return value
    whole = "whole " if kind is int else ""
    refuse(name, given, f"it must be a {whole}number from {low:g} to {high:g}")


def differ(name: str, path: str, other: str, its_path: str) -> None:
    """Two files that must not be one, nor one of those that SQLite keeps beside it; else the script stops."""
    if os.path.realpath(its_path) in {os.path.realpath(path) + end for end in ("", "-wal", "-shm", "-journal")}:
        refuse(name, path, f"it must be another file than {other}")


def choice(name: str, default: str, allowed: List[str]) -> str:
    """One of a few words, in capitals or not."""
    given = text(name, default)
    for word in allowed:
        if word.lower() == given.lower():
            return word
    refuse(name, given, f"it must be {', '.join(allowed[:-1])} or {allowed[-1]}")
