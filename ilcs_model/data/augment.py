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

CELL = 8  # side in pixels of the square that one value of a network's map stands for
KEPT = 0.5  # share of the mask's area that a random crop must keep, or:
FILLED = 0.25  # share of the crop's area that the mask must fill
SPOILT = 0.5  # share of tiles that are corrupted; a fifth of these twice
STRONGEST = 4  # highest strength of a corruption that is drawn
_TRIES = 8
Kind = Literal["paper", "full"]


class Draw(NamedTuple):
    """One random augmentation of one image, applied by ``augment`` in the order of the fields."""

    side: int
    """Side of the tile in pixels."""
    matrix: NDArray[np.float64]
    """(2, 3): (x, y, 1) of a pixel centre in the tile -> (x, y) in the image. Negative scales are flips, swapped columns the
    diagonal flip."""
    sigma: float = 0.0
    """Standard deviation of the Gaussian blur in pixels of the tile; 0: no blur."""
    gain: float = 1.0
    """Factor of the contrast about the tile's mean; 1: unchanged."""
    offset: float = 0.0
    """Grey levels (of 255) that are added after that."""
    corruptions: tuple[tuple[str, int, int], ...] = ()
    """Kind (a name in ``corrupt.TRAINED``), strength and seed of each corruption."""
    target: NDArray[np.float32] | None = None
    """``target_map`` of the image's mask after this crop, (S // 8, S // 8); None without a mask."""


def draw(shape: tuple[int, ...], side: int, whole: int, rng: np.random.Generator, *, kind: Kind, mask: Tile | None = None) -> Draw:
    """Draw a random tile of ``side`` pixels for an image of ``shape`` (H, W, ...); no pixel of the image is needed.

    ``whole`` is the side of a tile that shows the whole image, in pixels. With ``side`` equal to it the crop is most of the
    image; with a smaller ``side`` it is about ``side / whole`` of either side, at the same scale (``paper`` always takes most
    of the image). ``mask`` is uint8 (H, W), above 127 where the defect is: a crop that loses too much of it (``KEPT``,
    ``FILLED``) is drawn again; the eighth is taken in any case. Takes its numbers from ``rng``.
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
    """uint8 image (H, W) or (H, W, 3) -> uint8 tile (S, S) or (S, S, 3) as drawn; the image is left as it is.

    Raises ``KeyError`` for a corruption that is not in ``corrupt.TRAINED``, ``ValueError`` for a strength that does not exist.
    """
    tile = _warp(image, drawn.matrix, drawn.side)
    if drawn.sigma:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), drawn.sigma), np.uint8)
    if (drawn.gain, drawn.offset) != (1.0, 0.0):
        middle = float(tile.mean())
        tile = np.clip(np.rint((tile - middle) * drawn.gain + middle + drawn.offset), 0, 255).astype(np.uint8)
    for name, strength, seed in drawn.corruptions:
        tile = TRAINED[name](tile, strength, np.random.default_rng(seed))
    return tile


def target_map(mask: Tile) -> NDArray[np.float32]:
    """uint8 mask of a tile (S, S) -> float32 map that a network should give, (S // 8, S // 8).

    1 where at least a tenth of the cell's 8 x 8 pixels is above 127, else 0.
    """
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
