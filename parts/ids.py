"""Ids that sort by time and never come twice."""

import secrets
import time
from datetime import datetime, timezone
from typing import List


class Ids:
    """The microsecond in UTC, and who made it: `20261123T104500.123456Z-9f86d081`.

    A process never uses a microsecond twice, and its random suffix tells it from the other replicas and from itself
    after a restart.
    """

    def __init__(self) -> None:
        self._suffix = "Z-" + secrets.token_hex(4)
        self._next = 0  # the first microsecond since 1970 that is not used yet

    def take(self, count: int) -> List[str]:
        first = max(self._next, time.time_ns() // 1000)
        self._next = first + count
        ids: List[str] = []
        while len(ids) < count:  # second by second: to format a time takes ten times as long as a number
            second, microsecond = divmod(first + len(ids), 10**6)
            name = f"{datetime.fromtimestamp(second, timezone.utc):%Y%m%dT%H%M%S}."
            end = min(microsecond + count - len(ids), 10**6)
            ids += [f"{name}{us:06}{self._suffix}" for us in range(microsecond, end)]
        return ids
