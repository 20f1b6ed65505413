"""Which part of a frame is material to be judged: between the strip's edges, outside of what is masked. Pure."""

from typing import NamedTuple

import numpy as np

from pipeline.config import Camera
from pipeline.stage import Box, Pixels

LEAST_CONTRAST = 15.0  # grey levels between strip and surroundings below which the frame is taken to show strip only
_EVERY = 4  # rows looked at


class Region(NamedTuple):
    """Columns ``left`` to ``right`` (exclusive) of a frame without the ``ignored`` boxes."""

    left: int
    right: int
    ignored: tuple[Box, ...]

    def holds(self, box: Box) -> bool:
        """Whether the middle of a box lies in the region."""
        x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
        masked = any(left <= x < left + w and top <= y < top + h for left, top, w, h in self.ignored)
        return self.left <= x < self.right and not masked

    def touches(self, box: Box) -> bool:
        """Whether a tile has anything to judge: it reaches between the edges and no single mask covers it."""
        x, y, w, h = box
        masked = any(left <= x and top <= y and x + w <= left + mw and y + h <= top + mh for left, top, mw, mh in self.ignored)
        return x < self.right and x + w > self.left and not masked


def region_of(camera: Camera, pixels: Pixels) -> Region:
    """The region of one frame, uint8 (H, W)."""
    left, right = find_edges(pixels) if camera.edges == "auto" else (0, pixels.shape[1])
    return Region(left, right, camera.ignore_px)


def find_edges(pixels: Pixels) -> tuple[int, int]:
    """First column of the strip and the first behind it: the strip is brighter than what lies beside it.

    A column belongs to the strip when its mean is above the middle between the dark and the bright columns.
    """
    columns = pixels[::_EVERY].mean(axis=0)
    dark, bright = float(columns.min()), float(np.median(columns))
    if bright - dark < LEAST_CONTRAST:
        return 0, len(columns)
    strip = np.flatnonzero(columns > (dark + bright) / 2)
    return int(strip[0]), int(strip[-1]) + 1
