"""``sim:strip`` as a source of frames."""

import logging
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from nodes.capture.sources.sim.strip import Strip, Truth
from nodes.capture.sources.source import READY, Awaited, SourceFrame
from pipeline.core.errors import NodeError, told_as


class TruthFile:
    """The simulator's truth, one planted defect a line: ``{"epoch", "frame", "label", "box_px", "contrast", "position_m"}``.

    ``box_px`` and ``position_m`` are as in defect events. ``height``: rows of a frame; ``mm_along``: length of a pixel along the
    strip, None if unknown (then ``position_m`` is null). ``append`` keeps what the file has, else it is emptied.
    """

    def __init__(self, path: Path, epoch: str, height: int, mm_along: float | None, log: logging.Logger, *, append: bool) -> None:
        """Makes the file and its folder. Raises ``NodeError`` if they cannot be written."""
        self._path, self._epoch, self._height, self._mm, self._log = path, epoch, height, mm_along, log
        self._incomplete = False
        with told_as(NodeError, f"{path}: the simulator's truth cannot be written"):
            self._write(b"", "ab" if append else "wb")

    def add(self, planted: list[Truth]) -> None:
        """Append these defects. Never raises for the file: the first time it cannot be written, a warning is logged."""
        if not planted:
            return
        try:
            self._write(b"".join(msgspec.json.encode(self._describe(t)) + b"\n" for t in planted), "ab")
        except OSError as exc:
            if not self._incomplete:
                self._log.warning("%s: the simulator's truth is not complete: %s", self._path, exc.strerror)
            self._incomplete = True

    def _write(self, lines: bytes, mode: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open(mode) as file:
            file.write(lines)

    def _describe(self, truth: Truth) -> dict[str, object]:
        _, y, _, h = truth.box
        metres = None if self._mm is None else round((truth.frame * self._height + y + h / 2) * self._mm / 1000, 6)
        return {
            "epoch": self._epoch,
            "frame": truth.frame,
            "label": truth.label,
            "box_px": truth.box,
            "contrast": truth.contrast,
            "position_m": metres,
        }


class StripSource:
    """A strip without end as a ``Source``: each frame shows the next ``height`` rows. ``truth`` gets the defects of each frame.

    ``repeat``: number of frames after which the strip begins again. Those are drawn once and kept in memory, so that a frame
    costs one copy; the truth is that of the first pass.
    """

    def __init__(self, seed: int, width: int, height: int, truth: TruthFile | None = None, repeat: int | None = None) -> None:
        self._shape = (height, width)
        self.size: tuple[int, int] | None = self._shape
        self.fps: float | None = None
        self.live = False
        self.slot_bytes = width * height
        self._strip, self._truth = Strip(seed, width, height), truth
        self._told: int | None = None
        self._repeat, self._kept = repeat, dict[int, NDArray[np.uint8]]()

    def fileno(self) -> int | None:
        return None

    def look(self, frame: int) -> Awaited:
        return READY

    def skip(self, frame: int) -> None:
        pass

    def read(self, frame: int, into: NDArray[np.uint8]) -> SourceFrame | None:
        np.copyto(into[: self.slot_bytes].reshape(self._shape), self._picture(frame))
        if self._truth is not None and (self._repeat is None or frame < self._repeat):
            begin = frame if self._told is None else self._told  # also the truth of frames that were dropped
            for number in range(begin, frame + 1):
                self._truth.add(self._strip.truth(number))
            self._told = frame + 1
        return SourceFrame(shape=self._shape, length=self.slot_bytes)

    def _picture(self, frame: int) -> NDArray[np.uint8]:
        if self._repeat is None:
            return self._strip.render(frame)
        number = frame % self._repeat
        if number not in self._kept:
            self._kept[number] = self._strip.render(number)
        return self._kept[number]

    def close(self) -> None:
        pass
