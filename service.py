"""What every service needs besides its work: settings, log lines, the stop signal, a heartbeat.

Each script calls `start(NAME)` first, looks at `stop.requested` now and then, and calls `beat(well)`
every `TICK` seconds, so that a container's health check can see whether it does its job.
"""

import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from typing import Any, Callable, List, NoReturn

log = logging.getLogger("service")

#: Seconds between two looks at the stop signal, two heartbeats, two chances for a summary line.
TICK = 0.2

#: Seconds that a stop may take. What isn't finished then is cut off, which loses nothing: no effect
#: is acknowledged before it is safe. Docker itself would wait 10 seconds, then kill.
STOP_WITHIN = 4.0


# --- settings ---------------------------------------------------------------------------------------


def refuse(message: str) -> NoReturn:
    """End the script because of a user's mistake: one line, exit code 2."""
    print(message, file=sys.stderr, flush=True)
    sys.exit(2)


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


def choice(name: str, default: str, allowed: List[str]) -> str:
    """One of a few words, in capitals or not."""

    def parse(text: str) -> str:
        for word in allowed:
            if word.lower() == text.lower():
                return word
        raise ValueError

    return setting(name, default, parse, f"{', '.join(allowed[:-1])} or {allowed[-1]}")


LOG_LEVEL = choice("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR"])
HEARTBEAT_FILE = text("HEARTBEAT_FILE", "")  # kept fresh while the service does its job; "" = none


# --- start and stop ---------------------------------------------------------------------------------


class Stop:
    """Whether SIGTERM or Ctrl-C asked this process to end."""

    # A plain flag that loops look at, not a threading.Event: a signal handler runs in the main thread,
    # which may hold that event's lock just then.
    requested = False


stop = Stop()


def start(name: str) -> None:
    """Set up log lines and the stop signal for the service `name`."""
    logging.basicConfig(
        level=LOG_LEVEL, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    signal.signal(signal.SIGTERM, _request_stop)
    signal.signal(signal.SIGINT, _request_stop)
    # What messages are read into comes and goes by the thousand and holds no cycles; to look for cycles as often
    # as Python does by default cost 8 % of the pipeline's samples a second (beside a threshold of 50,000).
    gc.freeze()
    gc.set_threshold(10_000)
    log.debug("%s starts as process %d", name, os.getpid())


def _request_stop(*_: Any) -> None:
    stop.requested = True
    # The second for when nobody reads what is logged, and the first waits to say so.
    for seconds, end in ((STOP_WITHIN, _cut_off), (STOP_WITHIN + 0.3, lambda: os._exit(0))):
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()


def _cut_off() -> None:
    log.warning("cut off after %g s: what was in hand comes again", STOP_WITHIN)
    os._exit(0)


def beat(well: bool) -> None:
    """Keep the heartbeat file fresh while all is well, take it away while something is wrong."""
    if not HEARTBEAT_FILE:
        return
    try:
        if well:
            with open(HEARTBEAT_FILE, "w"):
                os.utime(HEARTBEAT_FILE)
        elif os.path.exists(HEARTBEAT_FILE):
            os.unlink(HEARTBEAT_FILE)
    except OSError as error:
        log.debug("no heartbeat: %s", error)  # the health check notices by itself


# --- log lines --------------------------------------------------------------------------------------


class Progress:
    """One log line a message while it is quiet, one summary a second while it is busy."""

    EVERY = 0.9  # seconds between two lines: messages that come every second have one each

    def __init__(self, what: str) -> None:
        self._what = what  # what is counted, in the plural
        self._count = self._messages = 0  # since the last line
        self._said = 0.0
        self._line: Callable[[], str] = str

    def add(self, count: int, line: Callable[[], str]) -> None:
        """A message with `count` more is done; `line` makes the line that tells of it."""
        self._count += count
        self._messages += 1
        self._line = line
        self.flush()

    def flush(self) -> None:
        """Print what there is to tell, unless the last line is too fresh."""
        now = time.monotonic()
        elapsed = now - self._said
        if not self._messages or elapsed < self.EVERY:
            return
        if self._messages == 1:
            log.info(self._line())
        else:
            log.info("%d %s in %.1f s, %.0f a second", self._count, self._what, elapsed, self._count / elapsed)
        self._count = self._messages = 0
        self._said = now


class Trouble:
    """Says what is wrong in one line, and again every ten seconds while it lasts, then that it is over."""

    EVERY = 10.0

    def __init__(self) -> None:
        self.reason = ""
        self._said = 0.0

    def is_(self, reason: str) -> None:
        now = time.monotonic()
        if not self.reason or now - self._said >= self.EVERY:
            log.warning("%s", reason)
            self._said = now
        self.reason = reason

    def over(self) -> None:
        if self.reason:
            log.info("all well again (it was: %s)", self.reason)
        self.reason = ""
