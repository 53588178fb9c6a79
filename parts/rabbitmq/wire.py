"""pika's connection as this project needs it: quick with messages, and nothing that it would stumble over."""

import logging
import socket
from contextlib import suppress
from typing import Any

import pika
from pika.adapters.utils import io_services_utils
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from parts.rabbitmq import frames

# pika reports each failed try in a dozen lines of its own; the one line that a person needs is ours.
logging.getLogger("pika").setLevel(logging.CRITICAL)

PIECE = 64 * 1024  # bytes that go to the socket at once while there is more to send

#: Bytes that are read at once. With pika's 4 KiB, most messages come in parts, which are read by pika, and each call
#: waits for a thread that computes; with much more, to cut a frame from the buffer's begin copies too much.
io_services_utils._AsyncTransportBase._MAX_RECV_BYTES = 32 * 1024


class Readable(pika.BasicProperties):
    """A message's properties and headers, as far as pika can read them.

    Where they hold a time beyond the year 9999 (a client counted milliseconds) or tables in tables without end, pika
    would give the connection up, and the message would come again for ever.
    """

    def decode(self, encoded: bytes, offset: int = 0) -> "Readable":
        with suppress(Exception):  # whatever pika makes of it
            super().decode(encoded, offset)
        return self


pika.spec.props[pika.BasicProperties.INDEX] = Readable


class Connection(pika.SelectConnection):
    """pika's, except that messages take a shorter way, and that what one turn of the loop writes is sent at once.

    pika itself sends each of a message's frames alone, and RabbitMQ wakes up for each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._held = bytearray()
        super().__init__(*args, **kwargs)

    def abort(self) -> None:
        """End it where the other side does not answer its close, because it reads nothing any more."""
        if self.is_closing:
            self._terminate_stream(ConnectionError("no answer to the goodbye"))

    def publish(self, channel: Any, queue: str, properties: bytes, body: bytes) -> None:
        """Publish a mandatory message to a queue, its properties encoded, on a channel that is open."""
        self._adapter_emit_data(
            frames.of_message(channel.channel_number, queue, properties, body, self._body_max_length)
        )

    def _read_frame(self) -> Any:  # pika's place to take a frame from the buffer
        while found := frames.delivery(self._frame_buffer):
            channel = self._channels.get(found.channel)
            on_message = channel and channel._consumers.get(found.consumer_tag)
            if not on_message:
                break  # cancelled: pika gives it back
            self._trim_frame_buffer(found.size)
            on_message(channel, found, None, found.body)
        return super()._read_frame()

    def _adapter_emit_data(self, data: bytes) -> None:  # pika's place for an adapter to write
        if not self._held:
            self.ioloop.call_later(0, self._flush)
        self._held += data
        if len(self._held) >= PIECE:
            self._flush()

    def _flush(self) -> None:
        data, self._held = self._held, bytearray()
        if data and self._transport:  # else the connection is gone
            super()._adapter_emit_data(data)


class UsableAddresses(SelectorIOServicesAdapter):
    """pika's I/O, without IPv6 addresses where there is no IPv6: pika would raise out of the loop at the first."""

    def getaddrinfo(self, **kwargs: Any) -> Any:
        return super().getaddrinfo(**kwargs, flags=socket.AI_ADDRCONFIG)
