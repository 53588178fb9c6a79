"""A message's frames, as pika itself makes and reads them."""

import datetime
from typing import Any, List, Tuple

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.adapters.select_connection import IOLoop

from parts.rabbitmq import frames, wire

MOST = 100  # bytes of a body in one frame
CONSUMER = "model@host:features:1"
PROPERTIES = pika.BasicProperties(content_type="application/json", delivery_mode=2, headers={"x-queue": "y_true"})
ACK = frame.Method(1, spec.Basic.Ack(7, multiple=True)).marshal()
HEARTBEAT = frame.Heartbeat().marshal()

bodies = st.one_of(st.binary(max_size=3 * MOST), st.integers(0, 3 * MOST).map(lambda size: frames.END * size))


def content(properties: pika.BasicProperties, body: bytes) -> bytes:
    parts = [frame.Body(1, body[start : start + MOST]).marshal() for start in range(0, len(body), MOST)]
    return frame.Header(1, len(body), properties).marshal() + b"".join(parts)


def delivered(tag: int, body: bytes, consumer: str = CONSUMER, properties: pika.BasicProperties = PROPERTIES) -> bytes:
    method = spec.Basic.Deliver(consumer, tag, redelivered=True, exchange="", routing_key="features")
    return frame.Method(1, method).marshal() + content(properties, body)


@given(bodies, st.sampled_from(["features", "y_true", "q" * 255]))
def test_a_message_is_published_in_the_frames_that_pika_makes(body, queue):
    published = frame.Method(1, spec.Basic.Publish(routing_key=queue, mandatory=True)).marshal()
    assert frames.of_message(1, queue, b"".join(PROPERTIES.encode()), body, MOST) == published + content(
        PROPERTIES, body
    )


@given(st.integers(1, 2**63), st.binary(min_size=1, max_size=MOST), st.binary(max_size=100))
def test_a_delivery_is_read_when_it_is_whole(tag, body, more):
    whole = delivered(tag, body)
    assert frames.delivery(whole + more) == (len(whole), 1, CONSUMER, tag, body)
    for cut in range(len(whole)):
        assert not frames.delivery(whole[:cut])


@pytest.mark.parametrize(
    "data",
    [
        ACK + delivered(1, b"1"),
        HEARTBEAT + delivered(1, b"1"),
        delivered(1, b""),
        delivered(1, b"") + delivered(2, b"2"),
        delivered(1, b"1" * (MOST + 1)),
        delivered(1, frames.END * 2 * MOST),
        b"\3" + delivered(1, b"1")[1:],
        delivered(1, b"1").replace(content(PROPERTIES, b"1"), b"\3" + content(PROPERTIES, b"1")[1:]),
        delivered(1, b"1").replace(frame.Header(1, 1, PROPERTIES).marshal(), HEARTBEAT),
        delivered(1, b"1").replace(frame.Body(1, b"1").marshal(), b"\2" + frame.Body(1, b"1").marshal()[1:]),
        delivered(1, b"1")[:-1] + b"\0",
    ],
)
def test_what_is_not_a_delivery_in_three_frames_is_left_to_pika(data):
    assert not frames.delivery(data)


class Deliveries:
    """A connection of ours that is not connected, with one consumer, and what that is given."""

    def __init__(self) -> None:
        self.found: List[Tuple[int, bytes]] = []
        self.rejected: List[int] = []
        self.connection = wire.Connection(None, custom_ioloop=IOLoop(), internal_connection_workflow=False)
        self.channel = pika.channel.Channel(self.connection, 1, lambda _: None)
        self.channel._set_state(pika.channel.Channel.OPEN)
        self.channel.basic_reject = self.rejected.append  # type: ignore[method-assign,assignment]
        self.connection._channels[1] = self.channel

    def consume(self, consumer: str) -> None:
        self.channel.basic_consume("features", self._on_message, consumer_tag=consumer)

    def _on_message(self, _channel: Any, deliver: Any, _properties: Any, body: bytes) -> None:
        self.found.append((deliver.delivery_tag, body))

    def receive(self, data: bytes) -> None:
        self.connection._on_data_available(data)


@given(
    st.lists(st.one_of(bodies, st.sampled_from([ACK, HEARTBEAT]).map(lambda data: (data,))), max_size=20),
    st.lists(st.integers(1, 500), max_size=20),
    st.booleans(),
)
def test_each_delivery_comes_once_and_in_its_order_however_the_stream_is_cut(pieces, cuts, has_tables):
    """Among confirms and heartbeats, in one frame or in several, whole or in parts."""
    properties = pika.BasicProperties(headers={"a": {"b": [1, "c"]}}) if has_tables else PROPERTIES
    deliveries = Deliveries()
    deliveries.consume(CONSUMER)
    stream, expected = b"", []
    for number, piece in enumerate(pieces):
        if isinstance(piece, tuple):
            stream += piece[0]
        else:
            stream += delivered(number, piece, properties=properties)
            expected.append((number, piece))
    for cut in cuts:
        deliveries.receive(stream[:cut])
        stream = stream[cut:]
    deliveries.receive(stream)
    assert deliveries.found == expected


def test_properties_that_pika_cannot_read_keep_no_delivery_away():
    """It reads those of a message that comes in parts."""
    bad = pika.BasicProperties(headers={"time": datetime.datetime(2000, 1, 1)})
    data = delivered(1, b"1" * 2 * MOST, properties=bad)
    year_2000, beyond = (b"T" + seconds.to_bytes(8, "big") for seconds in (946684800, 2**64 - 1))
    assert data.count(year_2000) == 1
    deliveries = Deliveries()
    deliveries.consume(CONSUMER)
    deliveries.receive(data.replace(year_2000, beyond))
    assert deliveries.found == [(1, b"1" * 2 * MOST)]


def test_what_comes_for_a_consumer_that_is_cancelled_is_given_back():
    deliveries = Deliveries()
    deliveries.consume("old")
    deliveries.receive(delivered(1, b"1", "old"))
    deliveries.channel.basic_cancel("old")
    deliveries.consume("new")
    deliveries.receive(delivered(2, b"2", "old") + delivered(3, b"3", "new"))
    assert deliveries.found == [(1, b"1"), (3, b"3")]
    assert deliveries.rejected == [2]


def test_what_comes_after_the_goodbye_is_for_nobody():
    deliveries = Deliveries()
    deliveries.consume(CONSUMER)
    deliveries.connection._set_connection_state(pika.connection.Connection.CONNECTION_OPEN)
    deliveries.connection._opened = True
    deliveries.connection.close()
    deliveries.receive(delivered(1, b"1"))
    assert not deliveries.found
