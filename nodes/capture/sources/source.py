"""Where frames come from: the protocol of a source, and what one keeps for a capture process that comes after."""

import errno
import os
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.system.files import open_plain, write_private


class SourceFrame(msgspec.Struct, frozen=True, kw_only=True):
    """What a source wrote into a slot."""

    shape: tuple[int, int] | None
    """Height and width of raw grey pixels, or None for an encoded image."""
    length: int
    source: str | None = None
    reason: str = ""
    """Why there is nothing to inspect, from ``INVALID_REASONS``; empty: all is well."""
    arrived_ns: int = 0
    """Monotonic time at which the whole frame had arrived; 0: now."""


class Awaited(msgspec.Struct, frozen=True, kw_only=True):
    """What a source has instead of, or as, its next frame."""

    ready: bool = False
    """A frame can be read, at once."""
    number: int | None = None
    """The device's own number of that frame, where it counts them: what is left out between two was lost on the way.

    It never wraps: a source whose device counts round counts on by itself.
    """
    ended: bool = False
    """There is no further frame, and will be none."""
    lost: str = ""
    """Why the camera is not there, in a few words: no frame comes until it is back."""


READY, NOTHING, ENDED = Awaited(ready=True), Awaited(), Awaited(ended=True)
"""``NOTHING``: no frame yet, and nothing is wrong."""


class Source(Protocol):
    """One camera. Frames come in order; the caller decides which are dropped. No call may block: the caller's heart beats."""

    slot_bytes: int
    """Bytes of the largest frame."""
    size: tuple[int, int] | None
    """Height and width of the frames where these are known before; None: each tells."""
    fps: float | None
    """Frames a second that the source has by itself, as a file has; None: none."""
    live: bool
    """Whether frames come when the device sends them; else the caller sets their pace."""

    def fileno(self) -> int | None:
        """A descriptor, the same all the time, that can be read when ``look`` may have news; None: there is none.

        ``look`` is asked at least every 50 ms, but not before a worker is there, nor while the ring is full, nor after the end.
        """
        ...

    def look(self, frame: int) -> Awaited:
        """What there is for frame number ``frame``; the same again until that frame was read or skipped, or something happens.

        Raises ``LinepipeError`` when the source cannot work any more: the capture process ends, and another one tries.
        """
        ...

    def read(self, frame: int, into: NDArray[np.uint8]) -> SourceFrame | None:
        """Write frame number ``frame`` (it only grows) into ``into``, uint8 (slot_bytes,). None: there is no more.

        Never raises for a single bad frame: that is a ``SourceFrame`` with a reason. Raises ``LinepipeError`` when no frame can
        be read any more, before it has counted: a capture process that comes after reads it again.
        """
        ...

    def skip(self, frame: int) -> None:
        """Frame number ``frame`` is dropped unread."""
        ...

    def close(self) -> None:
        """Let go of files, devices and threads."""
        ...


class NoSource:
    """For a capture node that only finishes what an earlier one left in the ring: its source need not work any more."""

    slot_bytes = 0
    size: tuple[int, int] | None = None
    fps: float | None = None
    live = False

    def fileno(self) -> int | None:
        return None

    def look(self, frame: int) -> Awaited:
        return ENDED

    def read(self, frame: int, into: NDArray[np.uint8]) -> SourceFrame | None:
        return None

    def skip(self, frame: int) -> None:
        pass

    def close(self) -> None:
        pass


T = TypeVar("T", bound=msgspec.Struct)
SHORTAGES = (errno.EMFILE, errno.ENFILE)
"""No descriptors are left: that says nothing of a file or its folder."""


def recall(kept: Path, kind: type[T]) -> T | None:
    """What an earlier capture process left; None: it is lost or damaged."""
    try:
        with os.fdopen(open_plain(kept), "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=kind)
    except OSError as exc:
        if exc.errno in SHORTAGES:
            raise
        return None
    except (msgspec.MsgspecError, ValueError):
        return None


def remember(kept: Path, what: Any) -> None:
    """Replace the file. Raises ``OSError``; one of an earlier life is gone then too."""
    kept.unlink(missing_ok=True)
    write_private(kept, msgspec.msgpack.encode(what))
