"""A TCP proxy before a broker that can refuse, stall and heal, and that notes what is published and confirmed."""

import asyncio
import collections
import contextlib
import json
import threading
import time
from typing import Dict, List, Optional, Set, Tuple

import pika.frame
import pika.spec


class Wire:
    """The messages that publishers sent and that RabbitMQ confirmed, by queue."""

    def __init__(self) -> None:
        self.published: Dict[str, Set[bytes]] = collections.defaultdict(set)
        self.confirmed: Dict[str, Set[bytes]] = collections.defaultdict(set)
        #: When each message was published, by the monotonic clock: more than once where it was published again.
        self.tries: Dict[str, Dict[bytes, List[float]]] = collections.defaultdict(lambda: collections.defaultdict(list))
        self.redelivered = 0  # deliveries of messages that had been delivered before
        self.given_back = 0  # deliveries that a consumer gave back to their queue

    def confirmed_ids(self, queue: str) -> Set[str]:
        """The ids in the messages to a queue that RabbitMQ confirmed."""
        documents = [json.loads(body) for body in self.confirmed[queue]]
        return {
            item["id"] for document in documents for item in (document if isinstance(document, list) else [document])
        }

    def tap(self) -> "Tap":
        return Tap(self)


class Tap:
    """Reads along on one connection that has one channel in confirm mode.

    RabbitMQ numbers what is published on it from 1 on and confirms by these numbers, one or all up to one
    (https://www.rabbitmq.com/docs/confirms#publisher-confirms).
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffers = {"client": b"", "server": b""}
        self._queue = ""
        self._missing = 0  # bytes of the body to come
        self._body: List[bytes] = []
        self._count = 0
        self._pending: Dict[int, Tuple[str, bytes]] = {}

    def read(self, side: str, data: bytes) -> None:
        """Bytes that `side`, "client" or "server", has sent."""
        buffer = self._buffers[side] + data
        start = 0
        while True:
            # A frame is 7 bytes, its payload and an end byte (AMQP 0-9-1, 4.2.3); only the greeting is none.
            size = 8 + (
                0 if buffer.startswith(b"AMQP", start) else int.from_bytes(buffer[start + 3 : start + 7], "big")
            )
            if len(buffer) < start + size:
                break
            _, frame = pika.frame.decode_frame(buffer[start : start + size])
            start += size
            self._client(frame) if side == "client" else self._server(frame)
        self._buffers[side] = buffer[start:]

    def _client(self, frame: object) -> None:
        if isinstance(frame, pika.frame.Method) and isinstance(frame.method, pika.spec.Basic.Publish):
            self._queue = frame.method.routing_key
        elif isinstance(frame, pika.frame.Method) and isinstance(frame.method, pika.spec.Basic.Reject):
            self._wire.given_back += 1
        elif isinstance(frame, pika.frame.Header):
            self._missing = frame.body_size
            self._body = []
        elif isinstance(frame, pika.frame.Body):
            self._body.append(frame.fragment)
            self._missing -= len(frame.fragment)
            if not self._missing:
                body = b"".join(self._body)
                self._count += 1
                self._pending[self._count] = self._queue, body
                self._wire.published[self._queue].add(body)
                self._wire.tries[self._queue][body].append(time.monotonic())

    def _server(self, frame: object) -> None:
        if not isinstance(frame, pika.frame.Method):
            return
        if isinstance(frame.method, pika.spec.Basic.Deliver):
            self._wire.redelivered += frame.method.redelivered
        elif isinstance(frame.method, (pika.spec.Basic.Ack, pika.spec.Basic.Nack)):
            tag = frame.method.delivery_tag
            for number in [n for n in self._pending if n <= tag] if frame.method.multiple else [tag]:
                queue, body = self._pending.pop(number)
                if isinstance(frame.method, pika.spec.Basic.Ack):  # what was refused is not confirmed by a later one
                    self._wire.confirmed[queue].add(body)


class Proxy:
    """Listens on a free port of loopback and passes on to a port there; works in a thread of its own."""

    def __init__(self, target: int, wire: Optional[Wire] = None) -> None:
        self._target = target
        self._wire = wire
        self._refusing = False
        self._flowing = asyncio.Event()
        self._hearing = asyncio.Event()
        self._links: Set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._flowing.set()
        self._hearing.set()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    def stall(self) -> None:
        """Pass nothing on; connections stay open."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def deafen(self) -> None:
        """Pass nothing on that clients send; what RabbitMQ sends, heartbeats too, goes on."""
        self._loop.call_soon_threadsafe(self._hearing.clear)

    def refuse(self) -> None:
        """Drop all connections, with what was under way, and take no new one."""
        self._refusing = True
        self._loop.call_soon_threadsafe(self._drop)

    def heal(self) -> None:
        self._refusing = False
        self._loop.call_soon_threadsafe(self._flowing.set)
        self._loop.call_soon_threadsafe(self._hearing.set)

    def close(self) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(10)

    def _end(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.call_soon, self._loop.stop)  # after they have unwound

    def _drop(self) -> None:
        for link in self._links:
            link.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        tap = self._wire.tap() if self._wire else None
        self._links |= {writer, downstream}
        # When one direction ends, so does the other.
        passing = [
            asyncio.ensure_future(self._pass(reader, downstream, tap, "client")),
            asyncio.ensure_future(self._pass(upstream, writer, tap, "server")),
        ]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for link in (writer, downstream):
            link.transport.abort()
        self._links -= {writer, downstream}
        for task in passing:
            task.cancel()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, tap: Optional[Tap], side: str
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                if side == "client":
                    await self._hearing.wait()
                if tap:
                    tap.read(side, data)
                target.write(data)
                await target.drain()
