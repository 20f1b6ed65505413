"""``sim:strip``: frames of a moving strip, each composed of textures rendered ahead and the things planned for it."""

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from nodes.capture.sources.sim import texture
from nodes.capture.sources.sim.plan import Plan, Thing, strong

BESIDE = 0.045  # share of the frame on each side where the roll table shows
WANDER_PX = 6  # the strip wanders this far to either side, over some hundred frames
NOISE = 2.5  # spread of the camera's noise, grey levels
_SLACK = 257  # the noise is cut from a larger field, at a new place each frame


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """A planted defect, as a perfect inspection would report it."""

    frame: int
    """The frame in which it begins."""
    label: str
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels of that frame; it may reach beyond the frame's lower edge into the next."""
    contrast: float


class Strip:
    """Pictures and truth of a strip in frames of ``width`` x ``height`` px. The same seed and size give the same bits."""

    def __init__(self, seed: int, width: int, height: int) -> None:
        rng = np.random.default_rng((seed, 0))
        self._seed, self._width, self._height = seed, width, height
        margin = 2 * WANDER_PX
        self._edge = max(1, round(BESIDE * width))
        self._grain = texture.grain(rng, width + 2 * margin)
        self._grain = np.concatenate([self._grain, self._grain[:height]]) if height <= len(self._grain) else self._grain
        self._clouds = texture.clouds(rng, width)
        self._table = texture.table(rng, height, width)
        self._phases = rng.uniform(0, 1, 4)
        field = rng.standard_normal((height + _SLACK, width + _SLACK), np.float32)
        self._noise = np.clip(np.rint(NOISE * field), -127, 127).astype(np.int8)
        self._plan = Plan(seed, self._edge + 2, width - self._edge - 2)

    def render(self, frame: int) -> NDArray[np.uint8]:
        """The picture of frame number ``frame``: uint8 (height, width)."""
        height, first, shift = self._height, frame * self._height, self.shift(frame)
        rows = self._rows(first)
        start = 2 * WANDER_PX - shift
        picture = np.ascontiguousarray(rows[:, start : start + self._width])
        for thing in self._plan.between(first, first + height):
            self._add(picture, thing, first, shift)
        picture *= self._gain(first)
        rng = np.random.default_rng((self._seed, 2, frame))
        y, x = rng.integers(0, _SLACK, 2)
        noisy = cv2.add(picture, self._noise[y : y + height, x : x + self._width], dtype=cv2.CV_8U)
        left, right = self._edge + shift, self._width - self._edge + shift
        noisy[:, :left], noisy[:, right:] = self._table[:, :left], self._table[:, right:]
        return np.asarray(noisy, np.uint8)

    def mask(self, frame: int) -> NDArray[np.uint8]:
        """Where the defects of a frame are: uint8 (height, width), 255 there and 0 elsewhere."""
        first, shift = frame * self._height, self.shift(frame)
        mask = np.zeros((self._height, self._width), np.float32)
        for thing in self._plan.between(first, first + self._height):
            if thing.label:
                self._paste(mask, 255 * strong(thing.stamp).astype(np.float32), thing, first, shift)
        return mask.astype(np.uint8)

    def truth(self, frame: int) -> list[Truth]:
        """The defects whose upper edge is in a frame."""
        first, shift = frame * self._height, self.shift(frame)
        found = []
        for thing in self._plan.between(first, first + self._height):
            if thing.label:
                x, y, w, h = thing.box
                if first <= y < first + self._height:
                    found.append(Truth(frame=frame, label=thing.label, box=(x + shift, y - first, w, h), contrast=thing.contrast))
        return found

    def labels(self, frame: int) -> list[tuple[str, tuple[int, int, int, int], float]]:
        """Label, box (x, y, width, height) and contrast of every defect that touches a frame, in its pixels; a box may reach beyond it."""
        first, shift = frame * self._height, self.shift(frame)
        things = [t for t in self._plan.between(first, first + self._height) if t.label]
        return [(t.label, (t.box[0] + shift, t.box[1] - first, *t.box[2:]), t.contrast) for t in things]

    def _rows(self, first: int) -> NDArray[np.float32]:
        at = first % texture.GRAIN_ROWS
        if at + self._height <= len(self._grain):
            return self._grain[at : at + self._height]
        return np.take(self._grain, np.arange(at, at + self._height) % texture.GRAIN_ROWS, axis=0)

    def shift(self, frame: int) -> int:
        """How far to the right the strip is in this frame, in whole pixels (negative: to the left): a slow wander and a tremble."""
        tremble = (frame * 2654435761 + self._seed * 40503) >> 7 & 3  # 0..3, the same at every call
        return round((WANDER_PX - 2) * np.sin(2 * np.pi * (frame / 117 + self._phases[3]))) + int(tremble) - 1

    def _gain(self, first: int) -> NDArray[np.float32]:
        light = texture.light(first, self._height, self._width, self._phases)
        at = first // texture.CELL + np.arange(light.shape[0])
        coarse = light * (1 + self._clouds[at % texture.CLOUD_ROWS])
        return np.asarray(cv2.resize(coarse, (self._width, self._height), interpolation=cv2.INTER_LINEAR), np.float32)

    def _add(self, picture: NDArray[np.float32], thing: Thing, first: int, shift: int) -> None:
        self._paste(picture, thing.stamp * np.float32(thing.contrast * texture.LEVEL), thing, first, shift)

    @staticmethod
    def _paste(onto: NDArray[np.float32], change: NDArray[np.float32], thing: Thing, first: int, shift: int) -> None:
        """Add the part of a stamp that is within the frame."""
        height, width = onto.shape
        y, x = thing.y - first, thing.x + shift
        top, left = max(0, y), max(0, x)
        bottom, right = min(height, y + change.shape[0]), min(width, x + change.shape[1])
        if bottom > top and right > left:
            onto[top:bottom, left:right] += change[top - y : bottom - y, left - x : right - x]
