"""What looks like a defect and is none: water, oil, drips, dust. Stamps as in ``defects``; soft edges set them apart."""

from collections.abc import Callable

import cv2
import numpy as np

from nodes.capture.sources.sim.defects import Stamp

CONTRAST = (0.06, 0.25)
"""Range of the change of grey, as a share of the grey level."""


def water_mark(rng: np.random.Generator) -> Stamp:
    """A dried puddle, 80-260 px: a faint inside, a somewhat stronger soft rim, brighter or darker."""
    w, h = (int(s) for s in rng.integers(80, 260, 2))
    inside = _soft_blob(rng, w, h, 9.0)
    rim = np.clip(4 * inside * (1 - inside), 0, 1)
    return np.asarray((0.5 * inside + 0.5 * rim) * rng.choice([-1, 1]), np.float32)


def oil(rng: np.random.Generator) -> Stamp:
    """A dark smear, 60-200 px, without any edge."""
    w, h = (int(s) for s in rng.integers(60, 200, 2))
    return -_soft_blob(rng, w, h, 11.0)


def drip(rng: np.random.Generator) -> Stamp:
    """A bright or dark run along the strip, 16-40 px wide, 120-280 px long."""
    w, h = int(rng.integers(30, 60)), int(rng.integers(120, 280))
    return _soft_blob(rng, w, h, 6.0) * np.float32(rng.choice([-1, 1]))


def dust(rng: np.random.Generator) -> Stamp:
    """A few specks of one to three pixels within 60 px; several times as strong as the rest."""
    stamp = np.zeros((60, 60), np.float32)
    for _ in range(int(rng.integers(1, 6))):
        x, y = (int(v) for v in rng.integers(3, 57, 2))
        cv2.circle(stamp, (x, y), int(rng.integers(0, 2)), float(rng.choice([-3.0, 3.0])), -1)
    return np.asarray(cv2.GaussianBlur(stamp, (0, 0), 0.6), np.float32)


DRAW: tuple[Callable[[np.random.Generator], Stamp], ...] = (water_mark, oil, drip, dust)


def _soft_blob(rng: np.random.Generator, w: int, h: int, sigma: float) -> Stamp:
    """An uneven blob within (h, w) that fades over ``sigma`` px and is 0 at the border."""
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    wave = cv2.resize(rng.standard_normal((4, 4), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    inside = (np.hypot(x, y) + 0.12 * wave < 0.72).astype(np.float32)
    inside[[0, -1], :] = inside[:, [0, -1]] = 0
    fade = np.minimum(1, 3 * (1 - np.maximum(abs(x), abs(y))))
    return np.asarray(cv2.GaussianBlur(inside, (0, 0), sigma) * fade, np.float32)
