"""Ids that sort by time and never come twice."""

import secrets
import time
from functools import lru_cache
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
        return [f"{_second(us // 10**6)}.{us % 10**6:06}{self._suffix}" for us in range(first, self._next)]


@lru_cache(maxsize=1)  # to format a time takes ten times as long as a number
def _second(since_1970: int) -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(since_1970))
