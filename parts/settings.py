"""A setting from the environment, checked: a wrong one ends the script with one line and exit code 2."""

import math
import os
import sys
from typing import Any, Callable, List, NoReturn


def refuse(message: str) -> NoReturn:
    """End the script because of a user's mistake: one line, exit code 2."""
    one_line = " ".join(message.split())
    print(one_line.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr, flush=True)
    os._exit(2)  # where a model has threads, Python itself would wait for them


def setting(name: str, default: Any, parse: Callable[[str], Any], allowed: str) -> Any:
    """The environment variable `name` as `parse` reads it; `default` when it is unset or empty.

    `parse` raises ValueError for what isn't allowed; then the script stops with one line.
    """
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        return parse(text)
    except ValueError:
        refuse(f"{name}={text!r} is not allowed: it must be {allowed}")


def whole(name: str, default: Any, low: int, high: int) -> Any:
    """A whole number from `low` to `high`, both included."""
    return _number(name, default, int, low, high, f"a whole number from {low} to {high}")


def number(name: str, default: Any, low: float, high: float) -> Any:
    """A finite number from `low` to `high`, both included."""
    return _number(name, default, float, low, high, f"a number from {low:g} to {high:g}")


def _number(name: str, default: Any, kind: Callable, low: float, high: float, allowed: str) -> Any:
    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high or not math.isfinite(value):
            raise ValueError
        return value

    return setting(name, default, parse, allowed)


def text(name: str, default: str) -> str:
    """Any text: a name, a password, a path."""
    return setting(name, default, str, "text")


def differ(name: str, path: str, other: str, its_path: str) -> None:
    """Two files that must not be one; else the script stops with one line."""
    if os.path.realpath(path) == os.path.realpath(its_path):
        refuse(f"{name}={path!r} is not allowed: it must be another file than {other}")


def choice(name: str, default: str, allowed: List[str]) -> str:
    """One of a few words, in capitals or not."""

    def parse(text: str) -> str:
        for word in allowed:
            if word.lower() == text.lower():
                return word
        raise ValueError

    return setting(name, default, parse, f"{', '.join(allowed[:-1])} or {allowed[-1]}")
