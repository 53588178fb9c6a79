"""Messages as the frames that they are on the wire, without the objects that pika makes of each.

These were a sixth of the processor's work for a sample in messages of its own, RabbitMQ's included.

A message is its method's frame, its header's with size and properties, and its body's, which may be several. A frame is
its kind, channel and size, so many bytes, and an end byte. (AMQP 0-9-1, 2.3.5 and 4.2,
https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf)
"""

import struct
from functools import lru_cache
from typing import NamedTuple, Optional

from pika import frame, spec

START = struct.Struct(">BHI")  # of a frame
HEADER = struct.Struct(">HxxQ")  # of its payload: the class and the size of the body; then come the properties
DELIVER = spec.Basic.Deliver.INDEX.to_bytes(4, "big")  # what a delivery's method begins with
END = bytes([spec.FRAME_END])


class Delivered(NamedTuple):
    """A message that was delivered; nobody looks at its properties."""

    size: int  # bytes of all its frames
    channel: int
    consumer_tag: str
    delivery_tag: int
    body: bytes


def of_message(channel: int, queue: str, properties: bytes, body: bytes, most: int) -> bytes:
    """A mandatory message to a queue, with its properties encoded, and at most so many bytes of its body in a frame."""
    header = HEADER.pack(spec.BasicProperties.INDEX, len(body)) + properties
    parts = [_frame(spec.FRAME_BODY, channel, body[start : start + most]) for start in range(0, len(body), most)]
    return b"".join([_publish(channel, queue), _frame(spec.FRAME_HEADER, channel, header), *parts])


def delivery(data: bytes) -> Optional[Delivered]:
    """The delivery with which the data begin, where it is there whole and its body in one frame; else it is pika's."""
    if data[7:11] != DELIVER or data[0] != spec.FRAME_METHOD:
        return None
    _, channel, size = START.unpack_from(data)
    header = size + 8
    if len(data) < header + START.size + HEADER.size:
        return None
    kind, _, size = START.unpack_from(data, header)
    _, body_size = HEADER.unpack_from(data, header + START.size)
    body = header + size + 8
    end = body + body_size + 8
    if kind != spec.FRAME_HEADER or data[end - 1 : end] != END:
        return None
    kind, _, size = START.unpack_from(data, body)
    if kind != spec.FRAME_BODY or size != body_size:
        return None
    tag = 12 + data[11]
    consumer_tag, delivery_tag = data[12:tag].decode(), int.from_bytes(data[tag : tag + 8], "big")
    return Delivered(end, channel, consumer_tag, delivery_tag, data[body + START.size : end - 1])


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return START.pack(kind, channel, len(payload)) + payload + END


@lru_cache(maxsize=8)
def _publish(channel: int, queue: str) -> bytes:
    return frame.Method(channel, spec.Basic.Publish(routing_key=queue, mandatory=True)).marshal()
