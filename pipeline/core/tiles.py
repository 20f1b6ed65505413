"""The interface between preprocess and infer: what one gives and the other takes, in one process or over ZeroMQ."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.core.frame import FrameRef

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the frame."""


class TiledFrame(msgspec.Struct, kw_only=True):
    """A frame cut into tiles, or the reason why it cannot be."""

    ref: FrameRef
    pixels: Pixels
    """Grey uint8 (H, W); may be a view into the ring, valid until the frame is acknowledged."""
    tiles: Any
    """uint8 (N, S, S), row by row; N = 0 for an invalid frame. A host array, or a device tensor where one process joins the stages."""
    boxes: tuple[Box, ...]
    """Where each tile is in the frame, in the order of ``tiles``."""
    columns: int
    """Tiles per row of the grid."""
    invalid: str = ""
    """A reason from ``pipeline.core.ledger.INVALID_REASONS``; empty if nothing is wrong."""
    received_ns: int = 0
    tiled_ns: int = 0
    """When preprocess got the frame and when its tiles were ready: CLOCK_MONOTONIC in ns."""


class Preprocess(Protocol):
    """Frames to tiles. Never raises for a bad image: that is a ``TiledFrame`` with a reason."""

    name: str
    """What runs, and on what: ``opencv-cpu``."""
    frames_at_once: int
    """The most frames it takes in one call. Callers give it the frames that wait, and do not wait for more."""

    def __call__(self, frames: Sequence[tuple[FrameRef, Pixels]]) -> list[TiledFrame]:
        """Cut frames into tiles. Every frame comes back, in the same order; a bad one does not affect the others.

        Each comes with its data, uint8 as ``Ring.pixels`` gives it: (H, W) raw pixels, or (length,) bytes of an encoded image.
        """
        ...

    def adopt(self, camera: str, memory: Pixels) -> str:
        """Called for each ring that is mapped, with its whole memory: uint8, one dimension, read-only.

        It replaces the ring that the camera had before. Returns a text for the log: how frames get from there to the device; an
        empty string if there is no device.
        """
        ...


def grid(width: int, height: int, tile: int, overlap: int) -> tuple[tuple[Box, ...], int]:
    """Boxes of the tiles that cover a frame, row by row, and how many a row has. All sizes are in pixels.

    Neighbours overlap by ``overlap``, which must be smaller than ``tile``; the last row and column are shifted inwards, so that
    no pixel is left out. A frame smaller than a tile in one direction has boxes of its own size in that direction.
    """
    xs, ys = _starts(width, tile, overlap), _starts(height, tile, overlap)
    w, h = min(tile, width), min(tile, height)
    return tuple((x, y, w, h) for y in ys for x in xs), len(xs)


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    if size <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, size - tile, step), size - tile]
