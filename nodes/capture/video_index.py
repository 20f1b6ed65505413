"""Which frames a video file has: their time stamps in display order, and where decoding can start. No pixels."""

import hashlib
import logging
import zlib
from collections.abc import Iterable
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

log = logging.getLogger(__name__)


class VideoIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """By what the file of a run is known again."""

    frames: int
    digest: bytes
    """SHA-256 of their time stamps and of the CRC-32 of each one's packet."""


class VideoIndex:
    """``place``: a frame's number within the file, from 0, in display order."""

    def __init__(self, stamps: NDArray[np.int64], keys: NDArray[np.int64], checks: NDArray[np.uint32], unit_s: float) -> None:
        order = np.argsort(stamps)
        self._stamps, self._keys, self._checks = stamps[order], np.sort(keys), checks[order]
        self._unit_s = unit_s
        length_s = float(self._stamps[-1] - self._stamps[0]) * unit_s
        self.fps = (len(stamps) - 1) / length_s if length_s > 0 else None
        """Frames a second on average; None for a single frame."""

    @classmethod
    def read(cls, packets: Iterable[Any], stream: Any, path: str) -> Self:
        """Index ``packets``, all of ``stream``. Raises ``ConfigError`` for a stream whose frames cannot be told apart."""
        stamps, keys, checks = [], [], []
        for packet in packets:
            if packet.size and not packet.is_discard:
                stamps.append(packet.pts)
                checks.append(zlib.crc32(packet))
                if packet.is_keyframe:
                    keys.append(packet.pts)
        if not stamps:
            raise ConfigError(f"video:{path}: holds no frame; name a whole video file")
        if None in stamps or len(set(stamps)) < len(stamps):
            raise ConfigError(f"video:{path}: its frames lack time stamps of their own; convert it: ffmpeg -i {path} -c:v ffv1 new.mkv")
        index = cls(np.array(stamps, np.int64), np.array(keys, np.int64), np.array(checks, np.uint32), float(stream.time_base))
        if stream.frames > len(stamps):
            log.warning("%s: %d of %d frames are there: the file has been cut short", path, len(stamps), stream.frames)
        steps = np.diff(index._stamps)
        if len(steps) and (jumps := np.flatnonzero(steps > 1.5 * np.median(steps))).size:
            at = index.seconds(int(jumps[0]))
            log.warning("%s: at %d places, first behind %.3f s, frames are missing or came late", path, len(jumps), at)
        return index

    def __len__(self) -> int:
        return len(self._stamps)

    def identity(self, frames: int) -> VideoIdentity:
        """Of the first ``frames`` frames."""
        digest = hashlib.sha256(self._stamps[:frames].tobytes() + self._checks[:frames].tobytes())
        return VideoIdentity(frames=len(self._stamps[:frames]), digest=digest.digest())

    def first(self, frames: int) -> Self:
        """Without the frames behind the first ``frames``."""
        last = self._stamps[:frames][-1]
        return type(self)(self._stamps[:frames], self._keys[self._keys <= last], self._checks[:frames], self._unit_s)

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
