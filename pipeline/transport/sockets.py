"""The only place that imports zmq: sockets that carry linepipe's messages, and the wait for them.

Limits: a message has at most two parts after its first, a part at most ``MAX_PART_BYTES``. No state is kept in ZeroMQ's queues: a
sender that needs an answer keeps the message until the answer comes, so closing a socket does not wait for its queue. A socket is
used from one thread.
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
"""The most messages that one call of ``receive`` takes; the others wait for the next."""
_HWM = 1_000  # credits limit what is on its way, but messages that are sent again and again collect while no peer listens


class _Socket:
    def __init__(self, kind: int, context: "zmq.Context[zmq.Socket[bytes]] | None") -> None:
        self._socket = (context or zmq.Context.instance()).socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, _HWM)
        self._socket.setsockopt(zmq.RCVHWM, _HWM)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        self.refused = self.unsent = 0
        """How many messages were refused, because no correct peer sends them; how many were dropped, because the queue was full."""

    @property
    def zmq_socket(self) -> Any:
        """The ZeroMQ socket, for ``Waiter``."""
        return self._socket

    def close(self, *, flush_ms: int = 0) -> None:
        """Close it. Messages that were not sent yet are still sent for up to ``flush_ms``, in the background."""
        self._socket.close(linger=flush_ms)

    def refuse(self, why: ProtocolError) -> None:
        """Count a message that no correct peer sends; the first one is logged, with the reason ``why``."""
        if not self.refused:
            where = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            logging.getLogger("messages").warning("%s: refused a message (%s); further ones are counted in the status", where, why)
        self.refused += 1

    def _arrived(self) -> Iterator[list[Any]]:
        """Parts of the messages that have arrived; ``AT_ONCE`` at most, so that a flood of messages does not hold up other work."""
        for _ in range(AT_ONCE):
            try:
                yield self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return


class Router(_Socket):
    """The bound side of a hop: talks to many peers by address.

    The constructor raises ``ConfigError`` if it cannot listen at ``endpoint``: a TCP address that is in use, for instance. The socket
    file of an ipc address is replaced, even if another process listens there. ``OSError`` if that file cannot be removed, and
    ``zmq.ZMQError`` if no descriptor is left, are passed through.
    """

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
        """What has arrived: (address, message, further parts). What is no message is counted and left out; never blocks."""
        self._keep()
        for parts in self._arrived():
            try:
                if not 2 <= len(parts) <= MAX_PARTS + 1:
                    raise ProtocolError(f"{len(parts)} parts")
                yield bytes(parts[0].buffer), decode(bytes(parts[1].buffer)), [p.buffer for p in parts[2:]]
            except ProtocolError as exc:
                self.refuse(exc)

    def deliver(self, take: Callable[[bytes, Message], None]) -> None:
        """Call ``take(address, message)`` for each message that has arrived; one for which it raises ``ProtocolError`` is counted."""
        for address, message, _ in self.receive():
            try:
                take(address, message)
            except ProtocolError as exc:
                self.refuse(exc)

    def send(self, address: bytes, message: Message, payload: tuple[Any, ...] = ()) -> None:
        """Queue a message for one peer, with further parts ``payload``; never blocks.

        It is dropped silently if the peer is gone or its queue is full: leases that expire and messages that are sent again repair
        that. ``payload`` is not copied, so it must not change until it is sent.
        """
        self._socket.send_multipart([address, encode(message), *payload], zmq.DONTWAIT, copy=not payload)

    def _keep(self) -> None:
        """Create the socket's file again if it was removed, because without it no new peer can connect; a look every ``LOOK_NS``."""
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
            logging.getLogger(__name__).error("the socket %s was removed and cannot be created again: %s", self._path, exc)
        else:
            logging.getLogger(__name__).warning("the socket %s was removed; it is created again", self._path)


class Dealer(_Socket):
    """The connecting side of a hop. It connects in the background, and again whenever the connection is lost.

    The constructor raises ``ConfigError`` if ``endpoint`` is no usable address; that no peer listens there is no error.
    """

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
        """What has arrived: (message, further parts). What is no message is counted and left out; never blocks."""
        for parts in self._arrived():
            try:
                if not 1 <= len(parts) <= MAX_PARTS:
                    raise ProtocolError(f"{len(parts)} parts")
                yield decode(bytes(parts[0].buffer)), [p.buffer for p in parts[1:]]
            except ProtocolError as exc:
                self.refuse(exc)

    def deliver(self, take: Callable[[Message, list[memoryview]], None]) -> None:
        """Call ``take(message, parts)`` for each message that has arrived; one for which it raises ``ProtocolError`` is counted."""
        for message, payload in self.receive():
            try:
                take(message, payload)
            except ProtocolError as exc:
                self.refuse(exc)

    def send(self, message: Message) -> None:
        """Queue a message for the peer; never blocks. If the queue is full, the message is dropped and counted in ``unsent``."""
        try:
            self._socket.send(encode(message), zmq.DONTWAIT)
        except zmq.Again:
            self.unsent += 1


class Waiter:
    """Waits for several things together: a ``Router`` or ``Dealer``, a descriptor, or an object with ``fileno``."""

    def __init__(self, *things: Any) -> None:
        self._poller = zmq.Poller()
        for thing in things:
            self._poller.register(getattr(thing, "zmq_socket", thing), zmq.POLLIN)

    def wait(self, timeout_ms: float) -> None:
        """Return when one of them can be read, or after ``timeout_ms``, rounded up to whole ms."""
        self._poller.poll(max(0, math.ceil(timeout_ms)))
