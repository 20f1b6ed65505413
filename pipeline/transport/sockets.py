"""The only place that imports zmq: sockets that carry wire messages, and the wait for them.

Limits: a message has at most two parts after its first, a part at most ``MAX_PART_BYTES``. No state lives in ZeroMQ's
queues: whoever needs an answer keeps the message until the answer comes, so closing never lingers.
"""

import errno
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from pipeline.config.topology import make_private
from pipeline.core.errors import ConfigError, ProtocolError
from pipeline.transport.messages import Message, decode, encode

MAX_PARTS = 3
MAX_PART_BYTES = 1 << 30
LOOK_NS = 1_000_000_000
AT_ONCE = 1000
_HWM = 1_000  # a backstop: credits bound what is under way, but copies of what waits for an answer pile up while nobody listens


class _Socket:
    def __init__(self, kind: int, context: "zmq.Context[zmq.Socket[bytes]] | None") -> None:
        self._socket = (context or zmq.Context.instance()).socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, _HWM)
        self._socket.setsockopt(zmq.RCVHWM, _HWM)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        self.refused = self.unsent = 0
        """Messages that no correct peer sends; messages that the queue had no room for."""

    @property
    def zmq_socket(self) -> Any:
        return self._socket

    def close(self, *, flush_ms: int = 0) -> None:
        """Close; ``flush_ms`` is how long messages on their way may still take."""
        self._socket.close(linger=flush_ms)

    def refuse(self, why: ProtocolError) -> None:
        """Count a message that no correct peer sends; the first is told."""
        if not self.refused:
            where = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            logging.getLogger("messages").warning("%s: refused a message (%s); further ones are counted in the status", where, why)
        self.refused += 1

    def _arrived(self) -> Iterator[list[Any]]:
        """Parts of the messages that have arrived; of a flood the rest waits for the next turn, so that it holds nobody up."""
        for _ in range(AT_ONCE):
            try:
                yield self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return


class Router(_Socket):
    """The bound side of a hop: talks to many peers by address. A second bind on a living endpoint is refused."""

    def __init__(self, endpoint: str, *, context: "zmq.Context[zmq.Socket[bytes]] | None" = None) -> None:
        super().__init__(zmq.ROUTER, context)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._endpoint = endpoint
        self._path = Path(endpoint.removeprefix("ipc://")) if endpoint.startswith("ipc://") else None
        self._next_look_ns = 0
        try:
            if self._path is not None:
                self._path.unlink(missing_ok=True)
            self._socket.bind(endpoint)
        except zmq.ZMQError as exc:
            self.close()
            if exc.errno == errno.EMFILE:  # the machine's trouble, not the address's
                raise
            raise ConfigError(f"{endpoint}: cannot listen there: {exc.strerror}. Choose another address or free it") from exc

    def receive(self) -> Iterator[tuple[bytes, Message, list[memoryview]]]:
        """What has arrived: (address, message, further parts). Garbage is counted and passed over."""
        self._keep()
        for parts in self._arrived():
            try:
                if not 2 <= len(parts) <= MAX_PARTS + 1:
                    raise ProtocolError(f"{len(parts)} parts")
                yield bytes(parts[0].buffer), decode(bytes(parts[1].buffer)), [p.buffer for p in parts[2:]]
            except ProtocolError as exc:
                self.refuse(exc)

    def deliver(self, take: Callable[[bytes, Message], None]) -> None:
        """Hand what has arrived to ``take(address, message)``; one for which it raises ``ProtocolError`` is counted."""
        for address, message, _ in self.receive():
            try:
                take(address, message)
            except ProtocolError as exc:
                self.refuse(exc)

    def send(self, address: bytes, message: Message, payload: tuple[Any, ...] = ()) -> None:
        """Queue for one peer; a peer that is gone gets nothing, its lease or its retry puts that right."""
        self._socket.send_multipart([address, encode(message), *payload], zmq.DONTWAIT, copy=not payload)

    def _keep(self) -> None:
        """Look now and then whether the socket's file is still there; without it nobody new can connect."""
        now = time.monotonic_ns()
        if self._path is None or now < self._next_look_ns:
            return
        self._next_look_ns = now + LOOK_NS
        if os.path.exists(self._path):  # the method of Path raises where the folder may not be entered
            return
        try:
            make_private(self._path.parent)
            self._socket.bind(self._endpoint)  # beside the old one, whose connections live on
        except (ConfigError, OSError, zmq.ZMQError) as exc:
            logging.getLogger(__name__).error("the socket %s was removed and cannot be made anew: %s", self._path, exc)
        else:
            logging.getLogger(__name__).warning("the socket %s was removed; it is made anew", self._path)


class Dealer(_Socket):
    """The connecting side of a hop; reconnects by itself, for as long as it lives."""

    def __init__(self, endpoint: str, *, context: "zmq.Context[zmq.Socket[bytes]] | None" = None) -> None:
        super().__init__(zmq.DEALER, context)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as exc:
            self.close()
            raise ConfigError(f"{endpoint}: not a usable address: {exc.strerror}") from exc

    def receive(self) -> Iterator[tuple[Message, list[memoryview]]]:
        """What has arrived: (message, further parts)."""
        for parts in self._arrived():
            try:
                if not 1 <= len(parts) <= MAX_PARTS:
                    raise ProtocolError(f"{len(parts)} parts")
                yield decode(bytes(parts[0].buffer)), [p.buffer for p in parts[1:]]
            except ProtocolError as exc:
                self.refuse(exc)

    def deliver(self, take: Callable[[Message, list[memoryview]], None]) -> None:
        """Hand what has arrived to ``take(message, parts)``; one for which it raises ``ProtocolError`` is counted."""
        for message, payload in self.receive():
            try:
                take(message, payload)
            except ProtocolError as exc:
                self.refuse(exc)

    def send(self, message: Message) -> None:
        """Queue for the peer; when the queue is full the message is dropped, and sent again by whoever keeps it."""
        try:
            self._socket.send(encode(message), zmq.DONTWAIT)
        except zmq.Again:
            self.unsent += 1


class Waiter:
    """Waits for sockets and plain descriptors together."""

    def __init__(self, *things: Any) -> None:
        self._poller = zmq.Poller()
        for thing in things:
            self._poller.register(getattr(thing, "zmq_socket", thing), zmq.POLLIN)

    def wait(self, timeout_ms: float) -> None:
        """Return when something can be read, or after ``timeout_ms``."""
        self._poller.poll(max(0, math.ceil(timeout_ms)))
