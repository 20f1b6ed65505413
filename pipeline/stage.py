"""Where preprocess and infer meet: what one gives and the other takes, in one process or over ZeroMQ."""

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import FrameRef

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the frame."""


class TiledFrame(msgspec.Struct, kw_only=True):
    """A frame cut into tiles, or the reason why it cannot be."""

    ref: FrameRef
    pixels: Pixels
    """Grey uint8 (H, W); may be a view into the ring, valid until the frame is acknowledged."""
    tiles: Pixels
    """uint8 (N, S, S), row by row; N = 0 for an invalid frame."""
    boxes: tuple[Box, ...]
    columns: int
    """Tiles per row of the grid."""
    invalid: str = ""
    """Reason from ``INVALID_REASONS``; empty: nothing is wrong."""
    received_ns: int = 0
    tiled_ns: int = 0


class Preprocess(Protocol):
    """Frames to tiles. Never raises for a bad image: that is a ``TiledFrame`` with a reason."""

    def __call__(self, ref: FrameRef, data: Pixels) -> TiledFrame:
        """``data``: (H, W) raw pixels or (length,) bytes of an encoded image, as ``Ring.pixels`` gives them."""
        ...
