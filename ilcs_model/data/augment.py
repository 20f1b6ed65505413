"""Random augmentation: what is drawn for an image, and the tile made from it."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ilcs_model.data.images import Tile
from ilcs_model.info import Recipe

CELL = 8  # side in pixels of what one value of a network's map stands for
KEPT = 0.6  # share of a mask that a random crop must keep
_TRIES = 6


class Draw(NamedTuple):
    """One random augmentation: a crop of 65-100 % of the area, flips, blur, contrast and brightness."""

    matrix: NDArray[np.float64]
    """(2, 3): pixel centres of the tile -> those of the image; a negative scale is a flip."""
    sigma: float
    """Of the blur in pixels; 0: none."""
    gain: float
    """Contrast about the tile's mean, then"""
    offset: float
    """grey levels added."""
    target: NDArray[np.float32] | None
    """What a map should show of the image's mask after this crop, (S // 8, S // 8); None without a mask."""


def draw(shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator, mask: Tile | None = None) -> Draw:
    """Draw an augmentation for an image of ``shape`` (H, W); a crop that loses most of its mask is drawn again."""
    side, target = recipe.size_px, None
    for _ in range(_TRIES):
        matrix = _geometry(shape, side, rng)
        if mask is None:
            break
        found = _warp(mask, matrix, side)
        target = target_map(found)
        if np.count_nonzero(found) >= KEPT * np.count_nonzero(mask) * (side / shape[0]) * (side / shape[1]):
            break
    sigma = rng.uniform(0.3, 1.5) if rng.random() < 0.3 else 0.0
    return Draw(matrix, sigma, rng.uniform(0.75, 1.25), rng.uniform(-25, 25), target)


def augment(image: Tile, recipe: Recipe, drawn: Draw) -> Tile:
    """Grey uint8 (H, W) -> tile (S, S) as drawn."""
    tile = _warp(image, drawn.matrix, recipe.size_px)
    if drawn.sigma:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), drawn.sigma), np.uint8)
    middle = float(tile.mean())
    return np.asarray(cv2.convertScaleAbs(np.clip((tile - middle) * drawn.gain + middle + drawn.offset, 0, 255)), np.uint8)


def _geometry(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    height, width = shape
    scale = np.sqrt(rng.uniform(0.65, 1.0))
    w, h = scale * width, scale * height
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    if rng.random() < 0.5:
        left, w = left + w, -w
    if rng.random() < 0.5:
        top, h = top + h, -h
    sx, sy = w / side, h / side
    return np.array([[sx, 0, left + sx / 2 - 0.5], [0, sy, top + sy / 2 - 0.5]])


def _warp(image: Tile, matrix: NDArray[np.float64], side: int) -> Tile:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def target_map(mask: Tile) -> NDArray[np.float32]:
    """Mask of a tile (S, S) -> the map a network should give, (S // 8, S // 8): 1 where a tenth of the cell is defect."""
    n = mask.shape[0] // CELL
    cells = (mask[: n * CELL, : n * CELL] > 127).reshape(n, CELL, n, CELL)
    return (cells.mean((1, 3)) >= 0.1).astype(np.float32)
