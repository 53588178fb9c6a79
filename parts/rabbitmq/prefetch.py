"""How many deliveries a consumer has in hand: as many as suit its handler's speed and their size."""

#: Bytes that may be in hand: a message may have 16 MiB, and AMQP's prefetch counts messages only.
IN_HAND = 32 * 1024 * 1024

#: A consumer begins with FIRST deliveries in hand, gets as many as its handler takes WORK seconds for where these are
#: more than twice as many, and half of what it had where that took more than SLOW. What one replica has in hand no
#: other can take over, and yet a fast handler is not to wait for RabbitMQ. Measured: of a backlog of 1,000 for 8
#: replicas of a model of 20 ms, two with a fixed 500 took all, and so each takes its eighth; a model of 50 µs passes
#: 1.5 times as many with 2,000 in hand as with 100.
FIRST, MOST = 1, 2000
WORK, SLOW = 0.2, 0.4


def fitting(prefetch: int, handled: int, seconds: float, size: float) -> int:
    """How many deliveries to have in hand, after `handled` of `size` bytes each took a handler so many seconds."""
    seconds = max(seconds, 1e-6)  # some clocks are coarse
    if seconds > SLOW:
        return max(1, min(handled, prefetch) // 2)
    wanted = min(int(WORK * handled / seconds), int(IN_HAND / 2 / max(size, 1)), MOST)
    return wanted if wanted > 2 * prefetch else prefetch  # each change costs something: small ones are not worth it
