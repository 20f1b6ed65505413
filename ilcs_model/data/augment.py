"""Random augmentation: what is drawn for an image, and the tile made from it.

``paper`` is what the paper names: horizontal flip, random crop, Gaussian blur. ``full`` adds what helped on NEU and on
spoilt images: both flips and the diagonal one, smaller crops, contrast, brightness, and five of the seven corruptions.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ilcs_model.data.corrupt import TRAINED
from ilcs_model.data.images import Tile

CELL = 8  # side in pixels of what one value of a network's map stands for
KEPT = 0.5  # share of a mask that a random crop must keep,
FILLED = 0.25  # or share of the crop that it must fill
SPOILT = 0.5  # share of tiles that are corrupted; of these a fifth twice
STRONGEST = 4  # strength of corruption that is drawn
_TRIES = 8
Kind = Literal["paper", "full"]


class Draw(NamedTuple):
    """One random augmentation."""

    side: int
    """Of the tile, in pixels."""
    matrix: NDArray[np.float64]
    """(2, 3): pixel centres of the tile -> those of the image; negative scales are flips, crossed ones the diagonal flip."""
    sigma: float = 0.0
    """Of the blur in pixels; 0: none."""
    gain: float = 1.0
    """Contrast about the tile's mean, then"""
    offset: float = 0.0
    """grey levels added."""
    corruptions: tuple[tuple[str, int, int], ...] = ()
    """Kinds, strengths and seeds of ``corrupt``."""
    target: NDArray[np.float32] | None = None
    """What a map should show of the image's mask after this crop, (S // 8, S // 8); None without a mask."""


def draw(shape: tuple[int, ...], side: int, whole: int, rng: np.random.Generator, *, kind: Kind, mask: Tile | None = None) -> Draw:
    """Draw for an image of ``shape`` (H, W, ...) a tile of ``side`` pixels, cut at the scale at which the image makes ``whole``.

    A crop that loses most of the image's mask is drawn again.
    """
    target = None
    for _ in range(_TRIES):
        matrix = _geometry(shape, side, side / whole, rng, kind)
        if mask is None:
            break
        found = _warp(mask, matrix, side)
        target = target_map(found)
        pixel = abs(np.linalg.det(matrix[:, :2]))  # of the tile, in pixels of the image
        kept = np.count_nonzero(found)
        if kept >= FILLED * side * side or kept * pixel >= KEPT * np.count_nonzero(mask):
            break
    if kind == "paper":
        return Draw(side, matrix, rng.uniform(0.3, 1.5) if rng.random() < 0.3 else 0.0, target=target)
    sigma = rng.uniform(0.3, rng.choice([1.5, 4.0])) if rng.random() < 0.3 else 0.0
    return Draw(side, matrix, sigma, np.exp(rng.uniform(-0.35, 0.35)), rng.uniform(-35, 35), _corruptions(rng), target)


def augment(image: Tile, drawn: Draw) -> Tile:
    """uint8 (H, W) or (H, W, 3) -> tile (S, S) or (S, S, 3) as drawn."""
    tile = _warp(image, drawn.matrix, drawn.side)
    if drawn.sigma:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), drawn.sigma), np.uint8)
    if (drawn.gain, drawn.offset) != (1.0, 0.0):
        middle = float(tile.mean())
        tile = np.clip(np.rint((tile - middle) * drawn.gain + middle + drawn.offset), 0, 255).astype(np.uint8)
    for name, strength, seed in drawn.corruptions:
        tile = TRAINED[name](tile, strength, np.random.default_rng(seed))
    return tile


def as_it_is(side: int) -> Draw:
    """The draw that leaves a tile of ``side`` pixels alone."""
    return Draw(side, np.eye(2, 3))


def target_map(mask: Tile) -> NDArray[np.float32]:
    """Mask of a tile (S, S) -> the map a network should give, (S // 8, S // 8): 1 where a tenth of the cell is defect."""
    n = mask.shape[0] // CELL
    cells = (mask[: n * CELL, : n * CELL] > 127).reshape(n, CELL, n, CELL)
    return (cells.mean((1, 3)) >= 0.1).astype(np.float32)


def _geometry(shape: tuple[int, ...], side: int, part: float, rng: np.random.Generator, kind: Kind) -> NDArray[np.float64]:
    """A crop of 65-100 % of the area (``full``: 55-100 %), or of about ``part`` of either side, and flips."""
    height, width = shape[:2]
    area = rng.uniform(0.65, 1.0) if kind == "paper" else rng.uniform(0.55, 1.0) if part == 1 else part**2 * rng.uniform(0.65, 1.25)
    aspect = 1.0 if kind == "paper" else np.exp(rng.uniform(-0.12, 0.12))
    w, h = (min(1.0, np.sqrt(area) * aspect) * width, min(1.0, np.sqrt(area) / aspect) * height)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    if rng.random() < 0.5:
        left, w = left + w, -w
    if kind == "full" and rng.random() < 0.5:
        top, h = top + h, -h
    sx, sy = w / side, h / side
    matrix = np.array([[sx, 0, left + sx / 2 - 0.5], [0, sy, top + sy / 2 - 0.5]])
    return matrix[:, [1, 0, 2]] if kind == "full" and rng.random() < 0.25 else matrix


def _corruptions(rng: np.random.Generator) -> tuple[tuple[str, int, int], ...]:
    chance, names = rng.random(), list(TRAINED)
    strongest = [STRONGEST] * (chance < SPOILT) + [2] * (chance < SPOILT / 5)
    return tuple((names[rng.integers(len(names))], int(rng.integers(1, s + 1)), int(rng.integers(2**32))) for s in strongest)


def _warp(image: Tile, matrix: NDArray[np.float64], side: int) -> Tile:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8)
