"""pika's connection as this project needs it: few large writes, and no address that it would stumble over."""

import logging
import socket
import struct
from typing import Any, Callable, List, Tuple

import pika
import pika.data
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

# pika reports each failed try in a dozen lines of its own; the one line that a person needs is ours.
logging.getLogger("pika").setLevel(logging.CRITICAL)

PIECE = 64 * 1024  # bytes that go to the socket at once while there is more to send


def _decode_value(encoded: bytes, offset: int, decode: Callable = pika.data.decode_value) -> Tuple[Any, int]:
    """One value of a message's headers, a time as its number.

    pika makes a datetime of it, and where that ends at the year 9999 (a client counted milliseconds) gives the
    connection up: such a message would come again for ever.
    """
    if encoded[offset : offset + 1] == b"T":
        return struct.unpack_from(">Q", encoded, offset + 1)[0], offset + 9
    return decode(encoded, offset)


def _decode_table(encoded: bytes, offset: int, decode: Callable = pika.data.decode_table) -> Tuple[Any, int]:
    """A table of headers; none where tables in tables are too many for pika, which would give the connection up."""
    try:
        return decode(encoded, offset)
    except RecursionError:
        return {}, offset + 4 + struct.unpack_from(">I", encoded, offset)[0]


pika.data.decode_value, pika.data.decode_table = _decode_value, _decode_table


class Connection(pika.SelectConnection):
    """pika's, except that what one turn of the loop writes is sent at once.

    pika itself sends each of a message's three frames alone, and RabbitMQ wakes up for each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._held: List[bytes] = []
        self._held_bytes = 0
        super().__init__(*args, **kwargs)

    def abort(self) -> None:
        """End it where the other side does not answer its close, because it reads nothing any more."""
        if self.is_closing:
            self._terminate_stream(ConnectionError("no answer to the goodbye"))

    def _adapter_emit_data(self, data: bytes) -> None:  # pika's place for an adapter to write
        if not self._held:
            self.ioloop.call_later(0, self._flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= PIECE:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        if data and self._transport:  # else the connection is gone
            super()._adapter_emit_data(data)


class UsableAddresses(SelectorIOServicesAdapter):
    """pika's I/O, without addresses for which no socket can be made: it would raise out of the loop at one."""

    def getaddrinfo(self, host: str, port: int, on_done: Callable[[Any], None], *args: Any, **kwargs: Any) -> Any:
        return super().getaddrinfo(host, port, lambda found: on_done(_usable(found)), *args, **kwargs)


def _usable(found: Any) -> Any:
    """Those of the addresses for which a socket can be made; an error where none can (no IPv6 here, too many files)."""
    if isinstance(found, BaseException):
        return found
    usable, error = [], None
    for address in found:
        try:
            socket.socket(*address[:3]).close()
            usable.append(address)
        except OSError as raised:
            error = raised
    return usable or error
