"""Where frames come from: the protocol of a source, the check that it is kept, and what is stored for a later capture process."""

import errno
import logging
import math
import operator
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import LinepipeError, NodeError
from pipeline.core.ledger import INVALID_REASONS
from pipeline.system.files import open_plain, write_private

T = TypeVar("T")
Stored = TypeVar("Stored", bound=msgspec.Struct)
log = logging.getLogger(__name__)


class SourceFrame(msgspec.Struct, frozen=True, kw_only=True):
    """What a source wrote into a slot."""

    shape: tuple[int, int] | None
    """Height and width of raw grey pixels, or None for an encoded image."""
    length: int
    """Bytes written."""
    source: str | None = None
    """Where the frame is from, for people: a file's name; None for a live camera."""
    reason: str = ""
    """Why the frame cannot be inspected, from ``INVALID_REASONS``; an empty string if it can."""
    arrived_ns: int = 0
    """Monotonic time at which the whole frame had arrived, ns; 0: now."""


class Awaited(msgspec.Struct, frozen=True, kw_only=True):
    """What a source answers when it is asked for its next frame."""

    ready: bool = False
    """A frame can be read, at once."""
    number: int | None = None
    """The device's own number of that frame, None if it does not count. Numbers left out between two frames were lost on the way.

    It never wraps: a source whose device begins again at 0 must add up the rounds itself.
    """
    ended: bool = False
    """There is no further frame, and there never will be."""
    lost: str = ""
    """Why the camera is not there, in a few words; an empty string if it is there."""


READY, NOTHING, ENDED = Awaited(ready=True), Awaited(), Awaited(ended=True)
"""``NOTHING``: no frame yet, and nothing is wrong."""


class Source(Protocol):
    """One camera. Frames come in order; the caller decides which are dropped. All calls come from one thread.

    That thread also sends the node's heartbeats. Once the node runs, the supervisor kills it if the thread sleeps in one call for
    2 s, or works in it for 10 s. So ``fileno``, ``look`` and ``skip`` must return at once. ``read`` may take as long as a ready
    frame takes to copy or decode. Only opening a source may take minutes.
    """

    slot_bytes: int
    """Bytes of the largest frame."""
    size: tuple[int, int] | None
    """Height and width of the frames in px if known before the first; None: each ``SourceFrame`` gives its own."""
    fps: float | None
    """The source's own frame rate, frames a second, such as a video file has; None if it has none."""
    live: bool
    """Whether the device sets the pace of the frames; else the caller does."""

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when ``look`` may answer something new, always the same one; None if there is none.

        ``look`` is called at least every 50 ms, but not before a worker is there, while the ring is full, or after the end.
        """
        ...

    def look(self, frame: int) -> Awaited:
        """What there is for frame number ``frame``. The answer stays until that frame is read or skipped, or something happens.

        Raises ``LinepipeError`` if the source cannot work any more: the capture process ends, and another one tries again.
        """
        ...

    def read(self, frame: int, into: NDArray[np.uint8]) -> SourceFrame | None:
        """Write frame number ``frame`` (it only grows) into ``into``, uint8 (slot_bytes,) or more. None if there is no further frame.

        Called only when ``look`` said that the frame is ready. Never raises for a single bad frame: that is a ``SourceFrame``
        with a reason. Raises ``LinepipeError`` if no frame can be read any more; this frame has not been counted then, and a
        later capture process reads it again.
        """
        ...

    def skip(self, frame: int) -> None:
        """Frame number ``frame`` is dropped without being read."""
        ...

    def close(self) -> None:
        """Release files, devices and threads."""
        ...


class NoSource:
    """A source without frames, for a capture node that only finishes what an earlier one left in the ring."""

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
    """Wraps a source and checks each of its answers against the protocol above, before a frame is counted.

    ``blame`` names a source of another package in messages: each of its errors that is no ``LinepipeError``, and each answer
    that breaks the protocol, is raised as ``NodeError`` with that name. An empty string means one of linepipe's own sources,
    whose errors pass unchanged; there a broken protocol raises ``ValueError`` or ``TypeError``.
    """

    def __init__(self, open_source: Callable[[], Source], blame: str) -> None:
        """Calls ``open_source``. Raises what that raises, or ``NodeError`` in its place (see the class)."""
        self._blame = blame
        self._ask("open", lambda: self._open(open_source))

    def _open(self, open_source: Callable[[], Source]) -> None:
        self._source = open_source()
        self.slot_bytes = _whole("slot_bytes", self._source.slot_bytes, 1, MOST_BYTES)
        size, fps = self._source.size, self._source.fps
        self.size = None if size is None else (_whole("height", size[0], 1, MOST_BYTES), _whole("width", size[1], 1, MOST_BYTES))
        self.fps = None if fps is None else float(fps)
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps {fps} is no frame rate")
        self.live = bool(self._source.live)

    def fileno(self) -> int | None:
        return self._ask("fileno", lambda: _descriptor(self._source.fileno()))

    def look(self, frame: int) -> Awaited:
        return self._ask("look", lambda: _understood(self._source.look(frame)))

    def read(self, frame: int, into: NDArray[np.uint8]) -> SourceFrame | None:
        return self._ask("read", lambda: _checked(self._source.read(frame, into), len(into)))

    def skip(self, frame: int) -> None:
        self._ask("skip", lambda: self._source.skip(frame))

    def close(self) -> None:
        """Never raises ``NodeError``: an error of another package's source is only logged, because the process ends anyway."""
        try:
            self._ask("close", self._source.close)
        except NodeError as exc:
            log.warning("%s", exc)

    def _ask(self, call: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except LinepipeError:
            raise
        except Exception as exc:
            if not self._blame:
                raise
            raise NodeError(f"{self._blame} failed in {call}: {_line(f'{type(exc).__name__}: {exc}')}; mend or remove its package") from exc


MOST_BYTES = 1 << 34
MOST_NAME = 4096  # characters that are kept of a frame's source, such as a file's name
_MOST_TEXT = 500  # characters that are kept of a device's or driver's text


def _descriptor(found: Any) -> int | None:
    """Check an answer to ``fileno``. Raises ``TypeError``, or ``OSError`` if it is no open descriptor."""
    if found is not None:
        os.fstat(operator.index(found))
    return None if found is None else operator.index(found)


def _understood(found: Any) -> Awaited:
    """Check an answer to ``look``. Raises ``ValueError`` or ``TypeError``."""
    if found is READY or found is NOTHING or found is ENDED:
        return found
    if not isinstance(found, Awaited):
        raise ValueError(f"{type(found).__name__} is no Awaited")
    number = None if found.number is None else _whole("number", found.number, 0, 1 << 62)
    return Awaited(ready=bool(found.ready), number=number, ended=bool(found.ended), lost=_line(found.lost))


def _checked(found: Any, room: int) -> SourceFrame | None:
    """Check a frame that must fit into ``room`` bytes. Raises ``ValueError`` or ``TypeError``."""
    if found is None:
        return None
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
    """The text of a device or driver, which may contain anything, as one line of at most ``_MOST_TEXT`` characters."""
    return " ".join(text[:_MOST_TEXT].encode("utf-8", "replace").decode().split())


SHORTAGES = (errno.EMFILE, errno.ENFILE)
"""Error numbers that mean that no descriptors are left; they say nothing about the file or its folder."""


def recall(kept: Path, kind: type[Stored]) -> Stored | None:
    """Read what an earlier capture process stored with ``remember``; None if it is missing or damaged.

    Raises ``OSError`` only if no descriptors are left.
    """
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
    """Store ``what`` as MessagePack in the file ``kept``, replacing it. Raises ``OSError``; the former content may be gone then."""
    kept.unlink(missing_ok=True)
    write_private(kept, msgspec.msgpack.encode(what))
