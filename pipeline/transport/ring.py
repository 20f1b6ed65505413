"""The ring: one preallocated memfd that holds a camera's frames. Written by capture, mapped read-only by workers.

    +-------+--------+--------+----
    | state | slot 0 | slot 1 | ...   each a whole number of pages
    +-------+--------+--------+----

The state (``pipeline.transport.ring_state``) says which slot holds which frame and how many frames ended how, so frames and counters
outlive a capture process: the supervisor keeps a descriptor of its own and gives it to the next one. A memfd has no name in a file
system, so there is nothing to clean up and no other user can open it; it is sealed against resizing.
"""

import errno
import fcntl
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ConfigError, LinepipeError, NodeError, ProtocolError
from pipeline.core.frame import FrameMeta, FrameRef
from pipeline.core.ledger import NOTHING_YET, Account
from pipeline.transport.ring_state import NO_EPOCH, RingState, Words, state_words

MAGIC = 0x344B4E494C50494C  # "LIPLINK4"
PAGE = mmap.PAGESIZE
LOOK_NS = 1_000_000_000
_HEADER = struct.Struct("=QQQ")  # magic, slots, bytes of a slot
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Ring:
    """A mapping of a ring's memory. Make one with ``create``, ``adopt`` (capture) or ``attach`` (a worker).

    All raise ``ProtocolError`` if ``fd`` is no ring of this version, ``OSError`` or ``ValueError`` if it cannot be read or mapped.
    """

    def __init__(self, fd: int, *, writable: bool) -> None:
        self.fd = fd
        """Descriptor of the memfd. Whatever opened it closes it, which does not end the mapping."""
        size = os.fstat(fd).st_size
        magic, self.slots, self.slot_bytes = _HEADER.unpack(os.pread(fd, _HEADER.size, 0).ljust(_HEADER.size, b"\0"))
        if magic != MAGIC or _total(self.slots, self.slot_bytes) != size:
            raise ProtocolError("not a ring of this version; stop the line and start it again")
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, prot)
        self.memory: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        """The whole mapping: uint8, one dimension, a view."""
        head = memoryview(self._map)[: 8 * state_words(self.slots)]
        self.state = RingState(cast(Words, head.cast("Q")), head, self.slots)

    @classmethod
    def create(cls, fd: int, slots: int, slot_bytes: int) -> Self:
        """Size, map and seal a memfd, all pages allocated, slots rounded up to pages. Raises ``ConfigError`` if memory is short.

        A ring that a killed creator left incomplete is created again: the magic number is written last, before the seals.
        """
        slot_bytes = -(-slot_bytes // PAGE) * PAGE
        total = _total(slots, slot_bytes)
        try:
            if total > (free := memory_available()):  # the kernel would rather kill a process than refuse it
                raise OSError(errno.ENOMEM, f"{total >> 20} MiB wanted, {free >> 20} MiB free")
            os.ftruncate(fd, 0)
            os.ftruncate(fd, total)
            os.posix_fallocate(fd, 0, total)
        except OSError as exc:
            raise ConfigError(
                f"no memory for a ring of {slots} slots of {slot_bytes} bytes ({exc.strerror}): lower cameras.*.slots"
            ) from exc
        os.pwrite(fd, _HEADER.pack(MAGIC, slots, slot_bytes), 0)
        return cls._own(fd)

    @classmethod
    def adopt(cls, fd: int) -> Self | None:
        """Map, for writing, the ring that an earlier capture process left, and complete its last commit; None if it left none."""
        if not any(os.pread(fd, 8, 0)):
            return None
        ring = cls._own(fd)
        ring.state.recover()
        return ring

    @classmethod
    def _own(cls, fd: int) -> Self:
        if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd, writable=True)

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map a ring for reading."""
        return cls(fd, writable=False)

    def slot(self, number: int) -> NDArray[np.uint8]:
        """The whole of one slot: uint8 (slot_bytes,), a view."""
        start = _data_start(self.slots) + number * self.slot_bytes
        return self.memory[start : start + self.slot_bytes]

    def pixels(self, ref: FrameRef) -> NDArray[np.uint8]:
        """The bytes of a leased frame, uint8, a view: (H, W) for raw grey pixels, (length,) for an encoded image.

        Raises ``ProtocolError`` if the description does not fit the slot.
        """
        meta = ref.meta
        if not 0 <= ref.slot < self.slots or not 0 <= meta.length <= self.slot_bytes:
            raise ProtocolError(f"frame {meta.frame} is outside its ring")
        data = self.slot(ref.slot)[: meta.length]
        if meta.shape is None:
            return data
        if min(meta.shape) < 1 or meta.shape[0] * meta.shape[1] != meta.length:
            raise ProtocolError(f"frame {meta.frame} of shape {meta.shape} has {meta.length} bytes")
        return data.reshape(meta.shape)

    def holds(self, ref: FrameRef) -> bool:
        """Whether the frame is in this ring: a capture process that was started again may have another one."""
        return 0 <= ref.slot < self.slots and self.state.describes(ref)

    def is_current(self, ref: FrameRef) -> bool:
        """Whether the slot still holds this frame. Ask after reading, as with a seqlock: if not, what was read is no frame."""
        return self.state.generation(ref.slot) == ref.generation


def new_memfd(name: str) -> int:
    """Descriptor of an empty memfd that can be sealed; child processes get it only if it is passed to them. Raises ``OSError``."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


class RingServer:
    """Gives a read-only descriptor of ``ring`` to each client of an AF_UNIX socket, which replaces ``path``. Raises ``OSError``."""

    def __init__(self, path: Path, ring: Ring) -> None:
        path.unlink(missing_ok=True)
        self._path, self._fd = path, os.open(f"/proc/self/fd/{ring.fd}", os.O_RDONLY | os.O_CLOEXEC)
        self._socket = _listening(path)
        self._next_look_ns = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def _keep(self) -> None:
        """Create the socket's file again if it was removed; a look every ``LOOK_NS``. Capture's router does so for its folder."""
        now = time.monotonic_ns()
        if now < self._next_look_ns:
            return
        self._next_look_ns = now + LOOK_NS
        if self._path.parent.exists() and not self._path.exists():
            with _listening(self._path) as fresh:
                os.dup2(fresh.fileno(), self._socket.fileno(), inheritable=False)  # the poller knows the old number

    def serve(self) -> None:
        """Answer every connection that waits; never blocks. Raises ``OSError``, for instance if no descriptor is left."""
        self._keep()
        while True:
            try:
                peer, _ = self._socket.accept()
            except BlockingIOError:
                return
            with peer:
                try:
                    socket.send_fds(peer, [b"ring"], [self._fd])
                except OSError:  # it has gone already; a worker asks again
                    continue

    def close(self) -> None:
        self._socket.close()
        os.close(self._fd)
        self._path.unlink(missing_ok=True)


def _listening(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.bind(str(path))
    found.listen(16)
    found.setblocking(False)
    return found


class RingRequest:
    """Asks the ``RingServer`` at ``path`` for its ring. It never waits, so a capture process that hangs blocks no worker."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._peer: socket.socket | None = None

    def turn(self) -> Ring | None:
        """Ask, or look for the answer: the ring once it has come, mapped for reading; None before, and while no server listens.

        After an answer the next call asks again. Raises as ``Ring.attach`` does.
        """
        try:
            if self._peer is None:
                self._peer = _connected(self._path)
            _, fds, _, _ = socket.recv_fds(self._peer, 16, 1)
        except BlockingIOError:  # no answer yet, or too many ask
            return None
        except OSError:  # it is not there, or has gone
            self._hang_up()
            return None
        self._hang_up()
        try:
            return Ring.attach(fds[0]) if fds else None
        finally:
            for fd in fds:
                os.close(fd)

    def _hang_up(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None


def _connected(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.setblocking(False)
    try:
        found.connect(str(path))
    except OSError:
        found.close()
        raise
    return found


def memory_available() -> int:
    """Bytes of memory that the machine can give without swapping. Raises ``NodeError`` if the kernel does not say."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise NodeError("/proc/meminfo does not say how much memory is available")


def _data_start(slots: int) -> int:
    return 8 * state_words(slots)


def _total(slots: int, slot_bytes: int) -> int:
    return _data_start(slots) + slots * slot_bytes


class LineRings:
    """One memfd for each of ``cameras``, in which their capture nodes create the rings. Raises ``OSError`` if none can be opened."""

    def __init__(self, cameras: Iterable[str]) -> None:
        self.fds = {camera: new_memfd(f"linepipe-{camera}") for camera in cameras}
        self.epochs: dict[str, list[str]] = {camera: [] for camera in self.fds}
        """Epochs of each camera, in order, as far as ``note_epochs`` has seen them."""
        self._mapped: dict[str, Ring] = {}

    def exists(self, camera: str) -> bool:
        """Whether the camera's capture node has created the ring."""
        return self._ring(camera) is not None

    def ended(self, camera: str) -> bool:
        """Whether the camera's source has no further frame."""
        ring = self._ring(camera)
        return ring is not None and ring.state.ended

    def accounts(self) -> dict[str, Account]:
        """Every camera's ledger, also of one whose capture process is dead; ``NOTHING_YET`` where there is no ring."""
        return {camera: ring.state.account() if (ring := self._ring(camera)) is not None else NOTHING_YET for camera in self.fds}

    def held(self, camera: str) -> list[FrameMeta]:
        """Frames in the camera's ring that have not ended, by number of the slot. Only while its capture process is dead."""
        ring = self._ring(camera)
        return [row.meta for row in ring.state.rows() if row.meta is not None] if ring is not None else []

    def note_epochs(self) -> None:
        """Add new epochs to ``epochs``; to be called in each turn. A capture node has no two lives between calls, so none is missed.

        If a live camera begins two epochs between calls, the first is missing in ``epochs``; its frames and events are complete.
        """
        for camera, epochs in self.epochs.items():
            ring = self._ring(camera)
            if ring is not None and (epoch := ring.state.epoch) != NO_EPOCH and epoch not in epochs:
                epochs.append(epoch)

    def _ring(self, camera: str) -> Ring | None:
        """None while its capture node has not made it."""
        fd = self.fds[camera]
        if camera not in self._mapped and os.fstat(fd).st_size:
            try:
                self._mapped[camera] = Ring.attach(fd)
            except LinepipeError:  # its header is being written
                return None
        return self._mapped.get(camera)
