"""What every service needs besides its work: the stop signal, a heartbeat, and its kinds of log lines.

To be imported first: from then on a request to stop is kept, however long the other imports take. Each script
calls `start()`, looks at `stop.requested` every `TICK` seconds and calls `beat(well)` as often, so that a
container's health check can see whether it does its job.
"""

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, NoReturn

from parts import settings

LOG_LEVEL = settings.choice("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR"])
HEARTBEAT_FILE = settings.text("HEARTBEAT_FILE", "")  # kept fresh while the service does its job; "" = none

#: Seconds between two looks at the stop signal, and between two heartbeats.
TICK = 0.2

#: Seconds that a stop may take. What isn't finished then is cut off, which loses nothing: no effect
#: is acknowledged before it is safe. Docker itself would wait 10 seconds, then kill.
STOP_WITHIN = 4.0


# --- the log ----------------------------------------------------------------------------------------


class _Output(logging.StreamHandler):
    """The standard output that the process was started with; where nobody reads it, nothing more can be said."""

    def __init__(self) -> None:
        try:
            output = os.dup(1)
        except OSError:  # it is closed
            output = os.open(os.devnull, os.O_WRONLY)
        # A user's text may hold what no encoding can write.
        super().__init__(os.fdopen(output, "w", errors="backslashreplace"))
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        pass


#: Where all of us say what happens. Not one of the loggers that others can find: a model, or what it imports, may
#: disable those or send them elsewhere, and close or replace sys.stdout.
log = logging.Logger("service", LOG_LEVEL)
log.manager = logging.Manager(log)  # type: ignore[arg-type]
log.addHandler(_Output())


# --- start and stop ---------------------------------------------------------------------------------


#: Whether SIGTERM or Ctrl-C asked this process to end. A plain flag that loops look at, not a threading.Event: a
#: signal handler runs in the main thread, which may hold that event's lock just then.
stop = SimpleNamespace(requested=False)


def _request_stop(*_: Any) -> None:
    stop.requested = True
    said = partial(log.info, "asked to stop")  # not here, where what is interrupted may hold the log's lock
    # The last for when nobody reads what is logged, and the one before waits to say so.
    for seconds, what in ((0.0, said), (STOP_WITHIN, cut_off), (STOP_WITHIN + 0.3, lambda: os._exit(0))):
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        timer.start()


def cut_off() -> NoReturn:
    """End the process at once, in the middle of whatever it does."""
    log.warning("cut off: what is still in hand comes again")
    os._exit(0)


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def listen(handler: Any = _request_stop) -> None:
    """From now on a signal is a request to stop; to be called by the main thread."""
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


# A process that a model starts is no service: neither one that is forked, nor one that is spawned and imports the
# script as this. (https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods)
os.register_at_fork(after_in_child=partial(listen, signal.SIG_DFL))
if "__mp_main__" not in sys.modules:
    listen()
# A container's first process ignores a signal that it has no handler for (pid_namespaces(7)); so the image starts it
# with these signals held back, which arrive now.
signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def start() -> None:
    """To be called once all is imported: what Python is to do about signals, memory and crashes."""
    listen()  # whatever was imported, and if it was multiprocessing before us
    if sys.stderr:
        faulthandler.enable()  # a crash in native code, a model's, says where
    # What messages are read into comes and goes by the thousand and holds no cycles; to look for cycles as often
    # as Python does by default cost 8 % of the pipeline's samples a second (beside a threshold of 50,000).
    gc.freeze()
    gc.set_threshold(10_000)


def beat(well: bool) -> None:
    """Keep the heartbeat file fresh while all is well, take it away while something is wrong."""
    if not HEARTBEAT_FILE:
        return
    try:
        if well:
            Path(HEARTBEAT_FILE).touch()
        else:
            Path(HEARTBEAT_FILE).unlink(missing_ok=True)
    except OSError as error:
        log.debug("no heartbeat: %s", error)  # the health check notices by itself


class NotNow(Exception):
    """Work cannot be done at the moment, the text says why; it is tried again in a second."""


# --- log lines --------------------------------------------------------------------------------------


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}{'s' * (number != 1)}"


class Progress:
    """What happens: a line each for the first few things in a second, and one that counts the others."""

    EVERY = 0.9  # seconds: what happens once a second has a line each

    def __init__(self, noun: str, done: str, most: int = 1, level: int = logging.INFO) -> None:
        self._noun, self._done = noun, done  # what is counted, and what is done to it
        self._most, self._level = most, level
        self._begun = 0.0  # the time in which they are counted
        self._lines = self._count = 0  # since then; the count is of those without a line

    def add(self, line: Callable[[], str], count: int = 1) -> None:
        """Something more is done, `count` of what is counted; `line` makes the line that tells of it."""
        self.flush()
        if not self._lines:
            self._begun = time.monotonic()
        self._lines += 1
        if self._lines <= self._most:
            log.log(self._level, "%s", line())
        else:
            self._count += count

    def flush(self) -> None:
        """Tell how many had no line, when the time is over."""
        elapsed = time.monotonic() - self._begun
        if elapsed < self.EVERY:
            return
        if self._count:
            rate = self._count / elapsed
            what = f"{counted(self._count, self._noun)} {self._done}"
            log.log(self._level, "%s in %.1f s, %.0f a second", what, elapsed, rate)
        self._lines = self._count = 0


class Trouble:
    """Says what is wrong in one line, and again every ten seconds while it lasts, then that it is over."""

    EVERY = 10.0

    def __init__(self) -> None:
        self.reason = ""  # what is wrong; "" while all is well
        self._said = 0.0

    def tell(self, reason: str) -> None:
        """What is wrong now; "" where nothing is."""
        now = time.monotonic()
        if reason and (not self.reason or now - self._said >= self.EVERY):
            log.warning("%s", reason)
            self._said = now
        if self.reason and not reason:
            log.info("all well again (it was: %s)", self.reason)
        self.reason = reason
