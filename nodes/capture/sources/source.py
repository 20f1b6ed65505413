"""Where frames come from: the protocol of a source, how it is held to it, and what it keeps for a capture process that comes after."""

import errno
import logging
import operator
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import LinepipeError, NodeError
from pipeline.core.ledger import INVALID_REASONS
from pipeline.system.files import open_plain, write_private

log = logging.getLogger(__name__)


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


class CheckedSource:
    """A source held to the protocol above: what it must not say ends the capture process with a sentence, before a frame counts.

    ``blame``: what to call a source of another package, whose every error is told as its own; empty: it is linepipe's.
    """

    def __init__(self, open_source: Callable[[], Source], blame: str) -> None:
        """Raises what ``open_source`` does, and ``NodeError``."""
        self._blame = blame
        with self._blamed("open"):
            self._source = open_source()
            self.slot_bytes = _whole("slot_bytes", self._source.slot_bytes, 1, MOST_BYTES)
            self.size, self.fps, self.live = self._source.size, self._source.fps, bool(self._source.live)

    def fileno(self) -> int | None:
        with self._blamed("fileno"):
            return self._source.fileno()

    def look(self, frame: int) -> Awaited:
        with self._blamed("look"):
            found = self._source.look(frame)
            if not isinstance(found, Awaited):
                raise ValueError(f"{type(found).__name__} is no Awaited")
            number = None if found.number is None else _whole("number", found.number, 0, 1 << 62)
            return Awaited(ready=bool(found.ready), number=number, ended=bool(found.ended), lost=_line(found.lost))

    def read(self, frame: int, into: NDArray[np.uint8]) -> SourceFrame | None:
        with self._blamed("read"):
            found = self._source.read(frame, into)
            return None if found is None else _checked(found, len(into))

    def skip(self, frame: int) -> None:
        with self._blamed("skip"):
            self._source.skip(frame)

    def close(self) -> None:
        """An error is told and no more: the process ends anyway, for a reason of its own perhaps."""
        try:
            with self._blamed("close"):
                self._source.close()
        except NodeError as exc:
            log.warning("%s", exc)

    @contextmanager
    def _blamed(self, call: str) -> Iterator[None]:
        try:
            yield
        except LinepipeError:
            raise
        except Exception as exc:
            if not self._blame:
                raise
            raise NodeError(f"{self._blame} failed in {call}: {_line(f'{type(exc).__name__}: {exc}')}; mend or remove its package") from exc


MOST_BYTES = 1 << 34
MOST_NAME = 4096  # characters of a frame's source, a file's name say, that are kept
_MOST_TEXT = 500  # and of a device's or driver's text


def _checked(found: Any, room: int) -> SourceFrame:
    """A frame that fits into ``room`` bytes. Raises ``ValueError``."""
    if not isinstance(found, SourceFrame):
        raise ValueError(f"{type(found).__name__} is no SourceFrame")
    length, shape = _whole("length", found.length, 0, room), None
    if found.shape is not None:
        height, width = found.shape
        shape = _whole("height", height, 1, room), _whole("width", width, 1, room)
        if shape[0] * shape[1] != length:
            raise ValueError(f"a frame of {shape[0]} rows and {shape[1]} columns has no {length} bytes")
    if found.reason and found.reason not in INVALID_REASONS:
        raise ValueError(f"{found.reason!r} is no reason; there are {', '.join(INVALID_REASONS)}")
    source = None if found.source is None else found.source[:MOST_NAME].encode("utf-8", "replace").decode()
    arrived_ns = _whole("arrived_ns", found.arrived_ns, 0, time.monotonic_ns())
    return SourceFrame(shape=shape, length=length, source=source, reason=found.reason, arrived_ns=arrived_ns)


def _whole(name: str, value: Any, least: int, most: int) -> int:
    found = operator.index(value)  # also numpy's; raises TypeError
    if not least <= found <= most:
        raise ValueError(f"{name} {found} is not between {least} and {most}")
    return found


def _line(text: str) -> str:
    """A text of a device or a driver, which may hold anything, as a line that is not too long."""
    return " ".join(text[:_MOST_TEXT].encode("utf-8", "replace").decode().split())


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
