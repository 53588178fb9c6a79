"""How much a consumer has in hand, and how long what has arrived waits for what belongs to it."""

import time
from types import SimpleNamespace
from typing import Any, Callable, List, Sequence, Tuple

from hypothesis import given
from hypothesis import strategies as st

from parts.rabbitmq.broker import LONG, Broker
from parts.rabbitmq.consumer import LONGEST, MANY, MANY_BYTES, QUIET, SOME, Consumer, Delivery, patience
from parts.rabbitmq.prefetch import FIRST, IN_HAND, MOST, SLOW, fitting

SIZES = st.floats(1, 16 * 2**20)


@given(st.integers(1, MOST), st.integers(1, MOST), st.floats(0, 1000), SIZES)
def test_in_hand_is_bounded_in_number_and_what_it_grows_to_in_bytes(prefetch, handled, seconds, size):
    found = fitting(prefetch, handled, seconds, size)
    assert 1 <= found <= MOST
    assert found <= prefetch or found * size <= IN_HAND


def settled(seconds_each: float, size: float = 200, seconds_a_call: float = 0.0) -> int:
    """The prefetch that a handler of this speed comes to, when it is given all that is in hand."""
    prefetch = FIRST
    for _ in range(50):
        prefetch = fitting(prefetch, prefetch, seconds_a_call + seconds_each * prefetch, size)
    return prefetch


def test_a_fast_handler_gets_much_a_slow_one_little_and_large_messages_few():
    assert settled(1e-6) == MOST
    assert 5 <= settled(0.02) <= 20  # replicas share a backlog fairly
    assert settled(1.0) == 1
    assert settled(1e-6, size=2**20) <= IN_HAND // 2**21
    assert settled(1e-6, size=16 * 2**20) == FIRST == 1


def test_one_slow_call_is_answered_by_half_as_much_and_a_change_of_little_by_none():
    assert fitting(100, 100, SLOW + 0.1, 200) == 50
    assert fitting(1, 1, 1000, 200) == 1
    assert fitting(100, 100, 0.15, 200) == 100


def test_few_that_wait_are_soon_handled_and_many_wait_for_what_belongs_to_them():
    small, large = Delivery(1, "y_true", b"1", 0.0), Delivery(1, "y_true", b"1" * MANY_BYTES, 0.0)
    assert 0.003 < patience([small]) < 0.01  # s: a prediction comes some 0.002 after its true value
    assert patience([small] * MANY) == patience([small] * 10 * MANY) == patience([large]) == LONGEST < 1


class Channel:
    """One that takes all that a consumer says to it and its connector, and keeps the timers that it sets."""

    consumer_tags = ()

    def __init__(self) -> None:
        self.timers: List[Callable[[], None]] = []
        self.acknowledged: List[Tuple[int, bool]] = []  # tags, and whether all before them too

    def basic_ack(self, tag: int, multiple: bool) -> None:
        self.acknowledged.append((tag, multiple))

    def call_later(self, _seconds: float, then: Callable[[], None]) -> None:
        self.timers.append(then)

    def __getattr__(self, _name: str) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self


def consumer_of(channel: Any, queues: Sequence[str], on_arrival: Callable[[], None]) -> Consumer:
    return Consumer(channel, channel, queues, on_arrival)


def arrive(consumer: Consumer, queue: str, tag: int) -> None:
    consumer._on_message(queue, None, SimpleNamespace(delivery_tag=tag), None, b"")


def test_a_backlog_of_one_queue_alone_does_not_wait_for_the_other(monkeypatch):
    consumer = consumer_of(Channel(), ["y_true", "y_pred"], lambda: None)
    arrive(consumer, "y_true", 1)
    assert not consumer.take()
    arrive(consumer, "y_pred", 2)
    assert len(consumer.take()) == 2
    now = time.monotonic() + QUIET
    monkeypatch.setattr(time, "monotonic", lambda: now)
    arrive(consumer, "y_true", 3)
    assert consumer.take()


def test_what_has_waited_long_enough_is_handled_though_nothing_more_arrives(monkeypatch):
    """Else a prediction that has missed its true value would go with the next sample's, and so would all after it."""
    channel, taken = Channel(), []
    consumer = consumer_of(channel, ["y_true", "y_pred"], lambda: taken.extend(consumer.take()))
    arrive(consumer, "y_pred", 1)
    channel.timers.pop()()
    assert not taken
    now = time.monotonic() + 2 * LONGEST
    monkeypatch.setattr(time, "monotonic", lambda: now)
    [timer] = channel.timers
    timer()
    assert [delivery.tag for delivery in taken] == [1]


def test_a_queue_that_fell_behind_catches_up_where_some_wait_in_it(monkeypatch):
    """Else what belongs together, as many deliveries apart for ever, would never be handled together again."""
    some = int(SOME * MANY)
    consumer = consumer_of(Channel(), ["y_true", "y_pred"], lambda: None)

    def taken(y_true: int, y_pred: int) -> str:
        """What is taken, each as the first letter of its value, when so many have come."""
        for queue, arriving in ("y_true", y_true), ("y_pred", y_pred):
            for tag in range(arriving):
                arrive(consumer, queue, tag)
        return "".join(delivery.queue[2] for delivery in consumer.take())

    patient = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: patient)
    assert taken(y_true=5, y_pred=0) == ""
    monkeypatch.setattr(time, "monotonic", lambda: patient + LONGEST)
    assert taken(y_true=0, y_pred=0) == "ttttt"
    assert taken(y_true=1, y_pred=1) == "tp"  # where few wait, taken alone they would make two syncs of one
    assert taken(y_true=some, y_pred=some + 3) == "pppp" + (some - 1) * "tp"
    assert taken(y_true=some, y_pred=some) == "p" + (some - 1) * "tp"  # and none more
    assert taken(y_true=some, y_pred=some) == some * "tp"


def test_a_queue_catches_up_though_the_other_has_lost_its_patience(monkeypatch):
    """In a backlog everything has waited for long, and a queue would stay as far behind as long as there is one."""
    consumer = consumer_of(Channel(), ["y_true", "y_pred"], lambda: None)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    arrive(consumer, "y_true", 1)
    now += LONGEST
    assert len(consumer.take()) == 1
    for queue in ["y_true"] * MANY + ["y_pred"] * MANY:
        arrive(consumer, queue, 1)
    now += 2 * LONGEST
    taken = "".join(delivery.queue[2] for delivery in consumer.take())
    assert taken == "p" + (MANY - 1) * "tp" + "t"


def test_what_is_put_back_was_not_taken(monkeypatch):
    consumer = consumer_of(Channel(), ["y_true", "y_pred"], lambda: None)
    now = time.monotonic() + QUIET
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for tag in range(20):
        arrive(consumer, "y_true", tag)
    consumer.put_back(consumer.take())
    assert len(consumer.take()) == 20
    for queue in ["y_true"] * 20 + ["y_pred"] * 40:
        arrive(consumer, queue, 1)
    assert [delivery.queue for delivery in consumer.take()] == ["y_pred"] * 20 + ["y_true", "y_pred"] * 20


def test_a_queue_that_was_quiet_catches_up_with_no_more_than_can_be_in_hand(monkeypatch):
    consumer = consumer_of(Channel(), ["y_true", "y_pred"], lambda: None)
    now = time.monotonic() + QUIET
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(2):
        for tag in range(MOST):
            arrive(consumer, "y_true", tag)
        assert len(consumer.take()) == MOST
    for tag in range(20):
        arrive(consumer, "y_true", tag)
    for tag in range(MOST + 20):
        arrive(consumer, "y_pred", tag)
    assert [delivery.queue for delivery in consumer.take()] == ["y_pred"] * MOST + ["y_true", "y_pred"] * 20


def test_what_arrives_at_once_is_handled_together():
    """Begun with at the first of them, the handler would be called twice, and for one message alone."""
    channel, taken = Channel(), []
    consumer = consumer_of(channel, ["features"], lambda: taken.append(len(consumer.take())))
    for _ in range(2):
        for tag in (1, 2, 3):
            arrive(consumer, "features", tag)
        assert not taken
        [look] = channel.timers
        channel.timers.clear()
        look()
        assert taken == [3]
        taken.clear()


def test_what_is_done_does_not_keep_the_queue_waited_for_from_delivering():
    """Acknowledged with all before it, it would wait for what waits for that queue: until the patience was over."""
    channel = Channel()
    consumer = consumer_of(channel, ["y_true", "y_pred"], lambda: None)
    for tag in (1, 2, 3):
        arrive(consumer, "y_true", tag)
    for tag in (4, 5):
        arrive(consumer, "y_pred", tag)
    portion = consumer.take()
    assert sorted(delivery.tag for delivery in portion) == [1, 2, 4, 5]
    consumer.handled(portion, 0.001)
    assert channel.acknowledged == [(2, True)]
    assert not consumer.take()  # 3 waits for one of the other queue, which may have none more in hand
    assert channel.acknowledged == [(2, True), (4, False), (5, False)]
    arrive(consumer, "y_pred", 6)
    portion = consumer.take()
    consumer.handled(portion, 0.001)
    assert channel.acknowledged[3:] == [(6, True)]


def test_a_rabbitmq_is_left_that_held_messages_back_twice_while_it_delivered_none_and_we_had_none():
    """Once is not enough: it may count before it delivers in turn for what has just been acknowledged."""
    left: List[str] = []
    channel = Channel()
    channel.leave = left.append  # type: ignore[attr-defined]
    consumer = consumer_of(channel, ["y_true", "y_pred"], lambda: None)

    def told(y_true: int, y_pred: int = 0) -> List[str]:
        consumer.on_depths({"y_true": y_true, "y_pred": y_pred, "dead_letters": 7})
        return left

    assert not told(7)
    arrive(consumer, "y_true", 1)
    assert not told(7)  # we have one
    consumer.done([consumer._in_hand[1]])
    assert not told(7)
    assert not told(0, y_pred=7)
    assert not told(7)
    assert told(8) == ["it delivers none of 8 messages in y_true"]


def test_a_call_that_does_not_end_is_told(caplog):
    one = Broker("model", ["features"])
    one._busy_since = time.monotonic() - LONG + 10
    one._tick()
    assert not caplog.messages
    one._busy_since -= 20
    one._tick()
    assert caplog.messages == ["at work for 70 s on what was delivered together"]
