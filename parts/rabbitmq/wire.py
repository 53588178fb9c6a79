"""pika's connection as this project needs it: few large writes, and no address that it would stumble over."""

import logging
import socket
import struct
from typing import Any, Callable, List, Optional, Tuple

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


pika.data.decode_value = _decode_value


class Connection(pika.SelectConnection):
    """pika's, except that what one turn of the loop writes is sent at once.

    pika itself sends each of a message's three frames alone, and RabbitMQ wakes up for each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._held: List[bytes] = []
        self._held_bytes = 0
        super().__init__(*args, **kwargs)

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
        def without_unusable(found: Any) -> None:
            if not isinstance(found, BaseException):
                errors = [_try_socket(*address[:3]) for address in found]
                found = [address for address, error in zip(found, errors) if not error] or errors[-1]
            on_done(found)

        return super().getaddrinfo(host, port, without_unusable, *args, **kwargs)


def _try_socket(family: int, kind: int, protocol: int) -> Optional[OSError]:
    """Why no such socket can be made: there is no IPv6 here, too many files are open; None if one can."""
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return error
    return None
