"""A camera that streams: a process that sends raw frames over a Unix socket, and can stall, die and come back; and a source for it."""

import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from nodes.capture.sources.source import NOTHING, Awaited, SourceFrame
from pipeline.core.tiles import Pixels

SIZE = (30, 40)
BYTES = SIZE[0] * SIZE[1]
SILENT_S = 0.3
AGAIN_S = 0.02

_CAMERA = """
import os, socket, sys, time
at, first, every, skipped = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), set(map(int, sys.argv[4].split(",")[1:]))
server = socket.socket(socket.AF_UNIX)
server.bind(at + ".part")
server.listen()
os.rename(at + ".part", at)
line, _ = server.accept()
number = first
while True:
    if number not in skipped:
        try:
            line.sendall(number.to_bytes(8, "big") + bytes([number % 256]) * int(sys.argv[5]))
        except OSError:
            break
    number += 1
    time.sleep(every)
"""


class LiveCamera:
    """The device, once it listens: its frames are numbered from ``first``, those of ``skipped`` are lost on the way."""

    def __init__(self, path: Path, first: int = 0, every_s: float = 0.01, skipped: tuple[int, ...] = ()) -> None:
        path.unlink(missing_ok=True)
        numbers = ",".join(map(str, (-1, *skipped)))
        self.process = subprocess.Popen([sys.executable, "-c", _CAMERA, str(path), str(first), str(every_s), numbers, str(BYTES)])
        while not path.exists():
            assert self.process.poll() is None
            time.sleep(0.005)

    def stall(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def die(self) -> None:
        self.process.kill()
        self.process.wait()


class SocketSource:
    """A source for it. Its descriptor is an epoll's, which stays the same whatever becomes of the connection."""

    slot_bytes, live = BYTES, True

    def __init__(self, path: Path) -> None:
        self.size: tuple[int, int] | None = SIZE
        self.fps: float | None = None
        self._path, self._epoll = path, select.epoll()
        self._socket: socket.socket | None = None
        self._data = bytearray()
        self._new = True  # it has never been there: that may take a moment
        self._heard, self._try_at, self._why = time.monotonic(), 0.0, "nobody is there"

    def fileno(self) -> int | None:
        return self._epoll.fileno()

    def look(self, frame: int) -> Awaited:
        if len(self._data) < 8 + BYTES:
            self._receive()
        if len(self._data) >= 8 + BYTES:
            return Awaited(ready=True, number=int.from_bytes(self._data[:8], "big"))
        patient = time.monotonic() - self._heard <= SILENT_S
        if self._socket is None and not (patient and self._new):
            return Awaited(lost=self._why)
        return NOTHING if patient else Awaited(lost="it sends nothing")

    def read(self, frame: int, into: Pixels) -> SourceFrame | None:
        into[:BYTES] = np.frombuffer(bytes(self._data[8 : 8 + BYTES]), np.uint8)
        self.skip(frame)
        return SourceFrame(shape=SIZE, length=BYTES, arrived_ns=time.monotonic_ns())

    def skip(self, frame: int) -> None:
        del self._data[: 8 + BYTES]

    def close(self) -> None:
        self._leave("closed")
        self._epoll.close()

    def _receive(self) -> None:
        if self._socket is None and time.monotonic() >= self._try_at:
            self._connect()
        try:
            while self._socket is not None and len(self._data) < 8 + BYTES:
                if not (more := self._socket.recv(1 << 16)):
                    self._leave("it hung up")
                    return
                self._data += more
                self._heard = time.monotonic()
        except BlockingIOError:
            pass
        except OSError as exc:
            self._leave(str(exc))

    def _connect(self) -> None:
        self._try_at = time.monotonic() + AGAIN_S
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            found.connect(str(self._path))
        except OSError as exc:
            found.close()
            self._why = exc.strerror or str(exc)
            return
        self._socket, self._heard, self._new = found, time.monotonic(), False
        self._epoll.register(found, select.EPOLLIN)

    def _leave(self, why: str) -> None:
        if self._socket is not None:
            self._epoll.unregister(self._socket)
            self._socket.close()
        self._socket, self._why = None, why
        self._data.clear()
