"""``sim:strip`` as a source of frames."""

import numpy as np
from numpy.typing import NDArray

from nodes.capture.sim.strip import Strip
from nodes.capture.sim.truth import TruthFile
from nodes.capture.source import Shot


class StripSource:
    """The strip passes at one frame's height a frame, without end. ``truth`` is told what each frame brings.

    ``repeat``: after so many frames the strip begins again. They are drawn once and kept, so that a frame costs a copy;
    the truth is that of the first pass.
    """

    def __init__(self, seed: int, width: int, height: int, truth: TruthFile | None = None, repeat: int | None = None) -> None:
        self._shape = (height, width)
        self.size: tuple[int, int] | None = self._shape
        self.fps: float | None = None
        self.slot_bytes = width * height
        self._strip, self._truth = Strip(seed, width, height), truth
        self._told: int | None = None
        self._repeat, self._kept = repeat, dict[int, NDArray[np.uint8]]()

    def has(self, frame: int) -> bool:
        return True

    def read(self, frame: int, into: NDArray[np.uint8]) -> Shot | None:
        np.copyto(into[: self.slot_bytes].reshape(self._shape), self._picture(frame))
        if self._truth is not None and (self._repeat is None or frame < self._repeat):
            begin = frame if self._told is None else self._told  # frames that were dropped unread are told too
            for number in range(begin, frame + 1):
                self._truth.add(self._strip.truth(number))
            self._told = frame + 1
        return Shot(shape=self._shape, length=self.slot_bytes)

    def _picture(self, frame: int) -> NDArray[np.uint8]:
        if self._repeat is None:
            return self._strip.render(frame)
        number = frame % self._repeat
        if number not in self._kept:
            self._kept[number] = self._strip.render(number)
        return self._kept[number]

    def close(self) -> None:
        pass
