"""Which frames a video file has: their time stamps in display order, and where decoding can start. Nothing is decoded."""

import hashlib
import logging
import zlib
from collections.abc import Iterable
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ConfigError

log = logging.getLogger(__name__)


UNSETTLED = 4
"""Packets at the end of a file that do not count for its identity. In a file that is still being written they may later be read
differently: cut short (MPEG-TS, FLV, MJPEG), or with other time stamps (AVI with B-frames). Measured: one and two packets."""


class VideoIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies the video file of a run, also if frames have been appended since."""

    frames: int
    digest: bytes
    """SHA-256 over time stamp, key frame flag and CRC-32 of each frame's packet, in file order, without the last ``UNSETTLED``."""


class VideoIndex:
    """The frames of one video file. A frame's ``place`` is its number within the file, from 0, in display order.

    ``packets``: int64 (N, 3), N >= 1, in file order: time stamp in units of ``unit_s`` seconds, 1 for a key frame else 0, CRC-32.
    """

    def __init__(self, packets: NDArray[np.int64], unit_s: float) -> None:
        self._packets, self._unit_s = packets, unit_s
        self._stamps = np.sort(packets[:, 0])
        self._keys = np.sort(packets[packets[:, 1] > 0, 0])
        length_s = float(self._stamps[-1] - self._stamps[0]) * unit_s
        self.fps = (len(packets) - 1) / length_s if length_s > 0 else None
        """Frames a second, on average; None for a single frame."""

    @classmethod
    def read(cls, packets: Iterable[Any], stream: Any, path: str) -> Self:
        """Index ``packets``, all packets of the PyAV ``stream``. Logs a warning if frames are missing.

        Raises ``ConfigError`` if there is no frame, or if frames lack a time stamp of their own.
        """
        found = [(p.pts, p.is_keyframe, zlib.crc32(p)) for p in packets if p.size and not p.is_discard]
        stamps = {stamp for stamp, _, _ in found}
        if not found:
            raise ConfigError(f"video:{path}: holds no frame; name a whole video file")
        if None in stamps or len(stamps) < len(found):
            raise ConfigError(f"video:{path}: its frames lack time stamps of their own; convert it: ffmpeg -i {path} -c:v ffv1 new.mkv")
        index = cls(np.array(found, np.int64), float(stream.time_base))
        if stream.frames > len(found):
            log.warning("%s: %d of %d frames are there: the file has been cut short", path, len(found), stream.frames)
        steps = np.diff(index._stamps)
        if len(steps) and (jumps := np.flatnonzero(steps > 1.5 * np.median(steps))).size:
            at = index.seconds(int(jumps[0]))
            log.warning("%s: at %d places, first after %.3f s, frames are missing or came late", path, len(jumps), at)
        return index

    def __len__(self) -> int:
        return len(self._stamps)

    def identity(self, frames: int) -> VideoIdentity:
        """The identity of the file's first ``frames`` frames, or of all if there are fewer."""
        settled = self._packets[: max(frames - UNSETTLED, 1)]
        return VideoIdentity(frames=min(frames, len(self)), digest=hashlib.sha256(settled.tobytes()).digest())

    def first(self, frames: int) -> Self:
        """An index of only the first ``frames`` frames, in file order."""
        return type(self)(self._packets[:frames], self._unit_s)

    def place(self, stamp: int | None) -> int | None:
        """Place of the frame with the time stamp ``stamp``; None if there is none, or ``stamp`` is None."""
        if stamp is None:
            return None
        found = int(np.searchsorted(self._stamps, stamp))
        return found if found < len(self) and self._stamps[found] == stamp else None

    def seconds(self, place: int) -> float:
        """Seconds from the first frame to the one at ``place``."""
        return float(self._stamps[place] - self._stamps[0]) * self._unit_s

    def key_before(self, place: int) -> int:
        """Place of the last key frame at or before ``place``; 0 if there is none."""
        found = np.searchsorted(self._keys, self._stamps[place], "right")
        return (self.place(int(self._keys[found - 1])) or 0) if found else 0
