"""Hot-rolled steel without defects or marks: grain, scale, uneven light, and the roll table beside it."""

import cv2
import numpy as np
from numpy.typing import NDArray

LEVEL = 130.0
"""Mean grey level of clean steel in even light."""
GRAIN_ROWS = 2053
"""Rows after which the grain repeats."""
CELL = 20
"""Light and clouds have one value for each CELL x CELL pixels; between them they are interpolated."""
CLOUD_ROWS = 263  # cells; with GRAIN_ROWS, which it shares no factor with, the strip repeats after 10,800 m of 1 mm rows
SHUTTER_ROWS = 3  # the material moves this far while the shutter is open

Picture = NDArray[np.float32]


def grain(rng: np.random.Generator, width: int) -> Picture:
    """Texture of the surface in grey levels: float32 (GRAIN_ROWS, width); its last row fits its first.

    Fine grain, streaks along the rolling direction, mottled scale and its dark specks, blurred by the motion.
    """
    size = (GRAIN_ROWS, width)
    fine = _noise(rng, size, 0.7, 0.7)
    streaks = _noise(rng, size, 40.0, 1.2)
    mottle = _noise(rng, size, 9.0, 6.0)
    specks = np.minimum(_noise(rng, size, 1.0, 1.0) + 3.2, 0)  # rare, small, dark
    picture = LEVEL + 4.5 * fine + 4.0 * streaks + 3.5 * mottle + 20.0 * specks
    return motion_blur(np.asarray(picture, np.float32), wrap=True)


def clouds(rng: np.random.Generator, width: int) -> Picture:
    """Slow changes of scale, mean 0, as a share of the grey level: float32 (CLOUD_ROWS, cells(width))."""
    return 0.05 * _noise(rng, (CLOUD_ROWS, cells(width)), 2.5, 2.5)


def light(first_row: int, rows: int, width: int, phases: NDArray[np.float64]) -> Picture:
    """Brightness of ``rows`` rows from ``first_row`` of the strip on, mean near 1: float32 (cells(rows), cells(width)).

    The lamps' spot wanders across, their strength drifts, and the rolls leave a faint chatter along the strip. ``phases``: at
    least three numbers, 0..1, where these periods begin.
    """
    y = first_row + np.linspace(0.5 / rows, 1 - 0.5 / rows, cells(rows))[:, None] * rows
    x = np.linspace(-1, 1, cells(width))[None, :]
    wander = 0.35 * np.sin(2 * np.pi * (y / 9100 + phases[0]))
    drift = 0.07 * np.sin(2 * np.pi * (y / 6700 + phases[1])) + 0.012 * np.sin(2 * np.pi * (y / 310 + phases[2]))
    return np.asarray(1.05 + drift - 0.16 * np.square(x - wander), np.float32)


def table(rng: np.random.Generator, rows: int, width: int) -> NDArray[np.uint8]:
    """The roll table beside the strip as the camera sees it, bright rolls with dark between them: uint8 (rows, width)."""
    y = np.arange(rows)[:, None]
    rolls = 26 + 34 * np.clip(np.sin(2 * np.pi * y / 150 + rng.uniform(0, 6)), -0.2, 1) ** 2
    return np.asarray(np.clip(rolls + 3 * rng.standard_normal((rows, width)), 0, 255), np.uint8)


def cells(pixels: int) -> int:
    """Number of ``CELL`` px wide cells for a length in px, at least 2."""
    return max(2, round(pixels / CELL))


def motion_blur(picture: Picture, *, wrap: bool = False) -> Picture:
    """Blur float32 (H, W) along the strip by ``SHUTTER_ROWS``, the way it moves in one exposure. ``wrap``: the ends fit together."""
    above, below = SHUTTER_ROWS // 2, SHUTTER_ROWS - 1 - SHUTTER_ROWS // 2
    padded = np.pad(picture, ((above, below), (0, 0)), mode="wrap" if wrap else "constant")
    blurred = cv2.blur(padded, (1, SHUTTER_ROWS), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred[above : above + picture.shape[0]], np.float32)


def _noise(rng: np.random.Generator, size: tuple[int, int], along: float, across: float) -> Picture:
    """Gaussian noise of unit spread with the given correlation lengths (sigma, pixels); it wraps around."""
    rows, width = size
    margin = (min(rows, int(4 * along) + 1), min(width, int(4 * across) + 1))
    raw = np.pad(rng.standard_normal(size, np.float32), [(m, m) for m in margin], mode="wrap")
    smooth = cv2.GaussianBlur(raw, (0, 0), sigmaX=across, sigmaY=along)
    inner = smooth[margin[0] : margin[0] + rows, margin[1] : margin[1] + width]
    return np.asarray(inner / inner.std(), np.float32)
