"""Which frames a video file has: their time stamps in display order, and where decoding can start. No pixels."""

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
"""The last packets of a file that is being written may be read otherwise later: cut short (MPEG-TS, FLV, MJPEG), or with other
time stamps (AVI with B-frames). Measured: one and two."""


class VideoIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """By what the file of a run is known again."""

    frames: int
    digest: bytes
    """SHA-256 of time stamp and CRC-32 of each one's packet, in the file's order, but for the last ``UNSETTLED``."""


class VideoIndex:
    """``place``: a frame's number within the file, from 0, in display order.

    ``packets``: (N, 3), the time stamp of each in the file's order, whether it is a key frame, and its CRC-32.
    """

    def __init__(self, packets: NDArray[np.int64], unit_s: float) -> None:
        self._packets, self._unit_s = packets, unit_s
        self._stamps = np.sort(packets[:, 0])
        self._keys = np.sort(packets[packets[:, 1] > 0, 0])
        length_s = float(self._stamps[-1] - self._stamps[0]) * unit_s
        self.fps = (len(packets) - 1) / length_s if length_s > 0 else None
        """Frames a second on average; None for a single frame."""

    @classmethod
    def read(cls, packets: Iterable[Any], stream: Any, path: str) -> Self:
        """Index ``packets``, all of ``stream``. Raises ``ConfigError`` for a stream whose frames cannot be told apart."""
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
            log.warning("%s: at %d places, first behind %.3f s, frames are missing or came late", path, len(jumps), at)
        return index

    def __len__(self) -> int:
        return len(self._stamps)

    def identity(self, frames: int) -> VideoIdentity:
        """Of the first ``frames`` frames of the file."""
        settled = self._packets[: max(frames - UNSETTLED, 1)]
        return VideoIdentity(frames=min(frames, len(self)), digest=hashlib.sha256(settled.tobytes()).digest())

    def first(self, frames: int) -> Self:
        """Without what lies behind the first ``frames`` frames of the file."""
        return type(self)(self._packets[:frames], self._unit_s)

    def place(self, stamp: int | None) -> int | None:
        """Place of the frame with that time stamp; None if there is none."""
        if stamp is None:
            return None
        found = int(np.searchsorted(self._stamps, stamp))
        return found if found < len(self) and self._stamps[found] == stamp else None

    def seconds(self, place: int) -> float:
        """Time of the frame at ``place``, from the first frame's."""
        return float(self._stamps[place] - self._stamps[0]) * self._unit_s

    def key_before(self, place: int) -> int:
        """Place of the last key frame at or before ``place``; 0 if there is none."""
        found = np.searchsorted(self._keys, self._stamps[place], "right")
        return (self.place(int(self._keys[found - 1])) or 0) if found else 0
