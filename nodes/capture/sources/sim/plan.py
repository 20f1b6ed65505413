"""Which defects and marks are where on the strip. Planned block by block from the seed, so that any part can be drawn alone. Pure."""

from functools import lru_cache

import msgspec
import numpy as np

from nodes.capture.sources.sim import defects
from nodes.capture.sources.sim.defects import STRONG, Stamp
from nodes.capture.sources.sim.texture import motion_blur

BLOCK_ROWS = 1500
"""The strip is planned in blocks of this many rows."""
APART_PX = 320
"""Least distance of two planted defects, px, across or along the strip."""
DEFECTS_PER_MEGAPIXEL = 2.2
HARMLESS_PER_MEGAPIXEL = 2.6
CONTRAST = (0.10, 0.60)
"""Range of a defect's change of grey, as a share of the grey level around it; drawn log-uniformly."""
STATED_CONTRAST = 0.20
"""Smallest contrast of the defects that are counted when recall is measured."""
STATED_PX = 20
"""Smallest longer side, px, of the defects that are counted when recall is measured."""
_TRIES = 40


class Thing(msgspec.Struct, frozen=True):
    """A defect or harmless mark on the strip. ``x`` and ``y``: upper left corner of its stamp, px; ``y`` counts rows of the whole strip."""

    label: str
    """The class; an empty string for a harmless mark."""
    x: int
    y: int
    contrast: float
    stamp: Stamp

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height of its strong part in px, counted as ``x`` and ``y`` are. There must be a strong pixel."""
        rows, columns = (np.flatnonzero(strong(self.stamp).any(axis)) for axis in (1, 0))
        x, y = int(columns[0]), int(rows[0])
        return self.x + x, self.y + y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def strong(stamp: Stamp) -> np.ndarray:
    """Which pixels of a stamp, float32 (h, w), belong to the defect: bool (h, w)."""
    return np.asarray(np.abs(stamp) >= STRONG)


class Plan:
    """Everything on a strip between the columns ``left`` and ``right`` (exclusive), px. The same ``seed`` gives the same plan."""

    def __init__(self, seed: int, left: int, right: int) -> None:
        self._seed, self._left, self._right = seed, left, right
        self.block = lru_cache(maxsize=4)(self._block)

    def between(self, first: int, end: int) -> list[Thing]:
        """The things that touch rows ``first`` to ``end`` (exclusive) of the strip, harmless ones first."""
        blocks = range(max(0, (first - BLOCK_ROWS) // BLOCK_ROWS), (end - 1) // BLOCK_ROWS + 1)
        found = [t for b in blocks for t in self.block(b) if t.y < end and t.y + t.stamp.shape[0] > first]
        return sorted(found, key=lambda t: t.label != "")

    def _block(self, number: int) -> tuple[Thing, ...]:
        rng = np.random.default_rng((self._seed, 1, number))
        megapixels = max(0, self._right - self._left) * BLOCK_ROWS / 1e6
        things = []
        for _ in range(rng.poisson(HARMLESS_PER_MEGAPIXEL * megapixels)):
            draw = defects.HARMLESS[rng.integers(len(defects.HARMLESS))]
            things.append(self._place(rng, number, "", draw(rng), defects.HARMLESS_CONTRAST))
        planted: list[Thing] = []
        for _ in range(rng.poisson(DEFECTS_PER_MEGAPIXEL * megapixels)):
            label = list(defects.DRAW)[rng.integers(len(defects.DRAW))]
            stamp = _scaled(motion_blur(defects.DRAW[label](rng)))
            for _ in range(_TRIES):
                thing = self._place(rng, number, label, stamp, CONTRAST)
                if thing.y + stamp.shape[0] + APART_PX <= (number + 1) * BLOCK_ROWS and all(_apart(thing, p) for p in planted):
                    planted.append(thing)
                    break
        return tuple(t for t in (*things, *planted) if t.x >= 0)

    def _place(self, rng: np.random.Generator, number: int, label: str, stamp: Stamp, contrast: tuple[float, float]) -> Thing:
        """Place a stamp at random within the strip's edges; one wider than the strip gets x = -1."""
        if rng.random() < 0.5:
            stamp = stamp[:, ::-1]
        height, width = stamp.shape
        room = self._right - self._left - width
        x = self._left + int(rng.integers(0, room)) if room > 0 else -1
        y = number * BLOCK_ROWS + int(rng.integers(0, BLOCK_ROWS - height))
        share = float(np.exp(rng.uniform(*np.log(contrast))))
        return Thing(label, x, y, round(share, 4), stamp)


def _scaled(stamp: Stamp) -> Stamp:
    """Scale a stamp so that 90 % of its visible pixels (above 0.1) stay within -1..1."""
    size = np.abs(stamp)
    return np.asarray(stamp / max(0.1, float(np.percentile(size[size > 0.1], 90))), np.float32)


def _apart(a: Thing, b: Thing) -> bool:
    """Whether two stamps keep their distance in one direction at least."""
    (ah, aw), (bh, bw) = a.stamp.shape, b.stamp.shape
    across = max(a.x, b.x) - min(a.x + aw, b.x + bw)
    along = max(a.y, b.y) - min(a.y + ah, b.y + bh)
    return max(across, along) >= APART_PX
