"""What waits for its other half: told in the log, and let go where that is asked for."""

import logging
import time

from parts.ledger import FORGET_AT_ONCE, Ledger
from parts.service import counted

log = logging.getLogger("unmatched")

EVERY = 2.0  # seconds between two looks


class Unmatched:
    """Looks now and then at what waits in the ledger."""

    def __init__(self, ledger: Ledger, ttl: float) -> None:
        self._ledger = ledger
        self._ttl = ttl  # seconds that a half may wait; 0 = for ever
        self._told = 0, 0, 0.0  # true values, predictions, and the seconds that the oldest had waited
        self._next = 0.0

    def look(self) -> None:
        """Forget what has waited too long, and tell what waits, unless the last look is too fresh. Raises NotNow."""
        begun = time.monotonic()
        if begun < self._next:
            return
        forgotten = self._ledger.forget(self._ttl) if self._ttl else 0
        if forgotten:
            log.warning("forgotten after %g s without their other half: %d", self._ttl, forgotten)
        if forgotten == FORGET_AT_ONCE:
            return  # more in a second, before they are counted
        true_values, predictions, age = self._ledger.unmatched()
        *before, age_before = self._told
        news = [true_values, predictions] != before and (age > 1 or not age)
        if news or age > 2 * age_before > 0:
            self._told = true_values, predictions, age
            oldest = f", the oldest for {age:.0f} s" if age else ""
            waiting = f"{counted(true_values, 'true value')}, {counted(predictions, 'prediction')}"
            log.info("unmatched: %s%s", waiting, oldest)
        now = time.monotonic()
        self._next = now + max(EVERY, 50 * (now - begun))  # to count a million takes a tenth of a second
