"""Corruptions of a tile: what a production line adds to an image, in seven kinds and five strengths.

The parameters are ImageNet-C's (Hendrycks, Dietterich 2019) where it has the kind; they were written down before any
training. ``TRAINED`` kinds may be drawn in training, ``HELD_OUT`` never are: they show how far robustness carries over.

Every kind takes a uint8 tile (H, W) or (H, W, 3), a strength from 1 (weak) to 5 and a generator for what is random in it. It
returns a new tile of the same shape and type; lengths are pixels of the tile. Another strength raises ``ValueError``.
"""

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Tile = NDArray[np.uint8]
T = TypeVar("T")

STRENGTHS = (1, 2, 3, 4, 5)
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation, of full scale
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # reach in pixels, and sigma of the weights along it
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius of the disc in pixels, and sigma of its edge
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # what is left of it, about the tile's mean
JPEG = (25, 18, 15, 10, 7)  # quality
LIGHT = (0.2, 0.35, 0.5, 0.65, 0.8)  # gain at the bright and the dark end: 1 + x, 1 - x; our own values
DUST = (5, 10, 20, 35, 60)  # specks of 1 to 4 pixels radius, made for 300 x 300; every tenth is a fibre; our own values


def noise(tile: Tile, strength: int, rng: np.random.Generator) -> Tile:
    """uint8 tile (H, W) or (H, W, 3) -> the same with the sensor's Gaussian noise; ``strength`` 1 to 5, else ``ValueError``."""
    sigma = 255 * _of(NOISE, strength)
    return _clip(tile + rng.standard_normal(tile.shape, np.float32) * np.float32(sigma))


def motion_blur(tile: Tile, strength: int, rng: np.random.Generator) -> Tile:
    """uint8 tile (H, W) or (H, W, 3) -> the same with movement during exposure; ``strength`` 1 to 5, else ``ValueError``.

    One-sided Gaussian weights along a line whose angle to the rows is drawn from -45 to 45 degrees.
    """
    reach, sigma = _of(MOTION, strength)
    angle = np.deg2rad(rng.uniform(-45, 45))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for step in np.arange(0, reach, 0.5):
        x, y = round(reach + step * np.cos(angle)), round(reach + step * np.sin(angle))
        kernel[y, x] = np.exp(-(step**2) / (2 * sigma**2))
    return np.asarray(cv2.filter2D(tile, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101), np.uint8)


def defocus(tile: Tile, strength: int, rng: np.random.Generator) -> Tile:
    """uint8 tile (H, W) or (H, W, 3) -> the same out of focus, each point a disc; ``strength`` 1 to 5, else ``ValueError``.

    Nothing is random in it.
    """
    radius, edge = _of(DEFOCUS, strength)
    across = np.arange(-max(8, radius), max(8, radius) + 1)
    disc = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disc / disc.sum(), (3, 3) if radius <= 8 else (5, 5), edge)
    return np.asarray(cv2.filter2D(tile, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def uneven_light(tile: Tile, strength: int, rng: np.random.Generator) -> Tile:
    """uint8 tile (H, W) or (H, W, 3) -> the same with a lamp at one side; ``strength`` 1 to 5, else ``ValueError``.

    The gain rises linearly across the tile, in a direction that is drawn.
    """
    swing, angle = _of(LIGHT, strength), rng.uniform(0, 2 * np.pi)
    height, width = tile.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    ramp = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    gain = 1 + np.float32(swing) * ramp / np.abs(ramp).max()
    return _clip(tile * (gain if tile.ndim == 2 else gain[:, :, None]))


def contrast_loss(tile: Tile, strength: int, rng: np.random.Generator) -> Tile:
    """uint8 tile (H, W) or (H, W, 3) -> the same with haze or a weak lamp; ``strength`` 1 to 5, else ``ValueError``.

    Values shrink towards the tile's mean. Nothing is random in it.
    """
    mean = np.float32(tile.mean())
    return _clip((tile - mean) * np.float32(_of(CONTRAST, strength)) + mean)


def jpeg(tile: Tile, strength: int, rng: np.random.Generator) -> Tile:
    """uint8 tile (H, W) or (H, W, 3) -> the same after a camera's JPEG compression; ``strength`` 1 to 5, else ``ValueError``.

    Nothing is random in it.
    """
    _, data = cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, _of(JPEG, strength)])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.uint8)


def dust(tile: Tile, strength: int, rng: np.random.Generator) -> Tile:
    """uint8 tile (H, W) or (H, W, 3) -> the same with specks and fibres on window or strip; ``strength`` 1 to 5, else ``ValueError``.

    Each is darker or brighter than what is below it. Their number does not depend on the size of the tile.
    """
    height, width = tile.shape[:2]
    cover = np.zeros((height, width), np.float32)
    for k in range(_of(DUST, strength)):
        at = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        shade = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0))
        if k % 10 == 9:
            bends = at + np.cumsum(rng.normal(0, 8, (6, 2)), axis=0)
            cv2.polylines(cover, [np.round(bends).astype(np.int32)], False, shade, 1, cv2.LINE_AA)
        else:
            size = np.maximum(1, np.round(rng.uniform(1, 4, 2))).astype(int)
            cv2.ellipse(cover, np.round(at).astype(int).tolist(), size.tolist(), rng.uniform(0, 180), 0, 360, shade, -1)
    specks = np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.7), np.float32) * 110
    return _clip(tile + (specks if tile.ndim == 2 else specks[:, :, None]))


TRAINED = {f.__name__: f for f in (noise, motion_blur, uneven_light, contrast_loss, dust)}
HELD_OUT = {f.__name__: f for f in (defocus, jpeg)}
KINDS = TRAINED | HELD_OUT


def _of(table: tuple[T, ...], strength: int) -> T:
    """The parameter of a strength. Raises ``ValueError`` for a strength that does not exist."""
    if strength not in STRENGTHS:
        raise ValueError(f"strength {strength!r}; there are {STRENGTHS}")
    return table[strength - 1]


def _clip(grey: NDArray[np.floating]) -> Tile:
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
