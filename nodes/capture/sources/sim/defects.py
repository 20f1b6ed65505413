"""Draws the six defects of hot-rolled strip, after the NEU images of each class, and harmless marks that resemble defects.

Each function returns a stamp: the change of grey that it makes, float32 (h, w), with strong parts near -1 (darker) or +1
(brighter). The pixels where the change is at least ``STRONG`` are the defect, and its box is their box. Harmless marks (water,
oil, drips, dust) differ from defects by their soft edges.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Stamp = NDArray[np.float32]
STRONG = 0.4  # share of the full change from which a pixel belongs to the defect


def crazing(rng: np.random.Generator) -> Stamp:
    """A net of fine dark cracks, mostly across, 80-260 px."""
    w, h = _sides(rng, 80, 260)
    stamp = np.zeros((h, w), np.float32)
    for _ in range(max(8, w * h // 420)):
        length = int(rng.integers(4, 10))
        turn = np.cumsum(rng.normal(0, 0.5, length)) + rng.normal(0, 0.5)
        step = rng.uniform(3, 6)
        xs = rng.uniform(0, w) + np.cumsum(step * np.cos(turn))
        ys = rng.uniform(0, h) + np.cumsum(step * np.sin(turn))
        points = np.stack([xs, ys], 1).round().astype(np.int32)
        cv2.polylines(stamp, [points], False, -float(rng.uniform(0.7, 1.0)), 1 if rng.random() < 0.6 else 2)
    return _faded(cv2.GaussianBlur(stamp, (0, 0), 0.6) * 1.3, _blob(rng, w, h, 0.2))


def inclusion(rng: np.random.Generator) -> Stamp:
    """One to four slender dark spots in a row along the strip, 12-160 px long."""
    length, width = int(np.exp(rng.uniform(np.log(12), np.log(160)))), int(rng.integers(4, 13))
    parts = 1 if length < 50 else int(rng.integers(1, 5))
    w = width + 8
    stamp = np.zeros((length, w), np.float32)
    for k in range(parts):
        top, bottom = length * k / parts, length * (k + rng.uniform(0.6, 1.0)) / parts
        centre = (w / 2 + rng.uniform(-3, 3), (top + bottom) / 2)
        thick = max(3.0, min(width * rng.uniform(0.6, 1.0), (bottom - top) / 2.2))
        cv2.ellipse(stamp, (centre, (thick, bottom - top), float(rng.uniform(-6, 6))), -1.0, -1)
    return np.asarray(cv2.GaussianBlur(stamp, (0, 0), 0.8), np.float32)


def patches(rng: np.random.Generator) -> Stamp:
    """A ragged dark patch with a grainy inside, 32-160 px."""
    w, h = _sides(rng, 32, 160)
    body = cv2.GaussianBlur((_blob(rng, w, h, 0.35) > 0.5).astype(np.float32), (0, 0), 1.6)
    grain = cv2.GaussianBlur(rng.standard_normal((h, w), np.float32), (0, 0), 1.0)
    return np.asarray(-body * (0.9 + 0.25 * grain), np.float32)


def pitted_surface(rng: np.random.Generator) -> Stamp:
    """A field of small round dark pits, 60-240 px."""
    w, h = _sides(rng, 60, 240)
    stamp = np.zeros((h, w), np.float32)
    for _ in range(max(10, w * h // 160)):
        centre = (float(rng.uniform(0, w)), float(rng.uniform(0, h)))
        size = rng.uniform(3.0, 7.0)
        cv2.ellipse(stamp, (centre, (size, size * rng.uniform(1.0, 1.5)), 0.0), -float(rng.uniform(0.7, 1.0)), -1)
    return _faded(np.asarray(cv2.GaussianBlur(stamp, (0, 0), 0.8), np.float32), _blob(rng, w, h, 0.2))


def rolled_in_scale(rng: np.random.Generator) -> Stamp:
    """Flat flakes with a bright rim below, in a cluster, 40-200 px."""
    w, h = _sides(rng, 40, 200)
    stamp = np.zeros((h, w), np.float32)
    for _ in range(max(7, w * h // 300)):
        x, y = float(rng.uniform(0, w)), float(rng.uniform(0, h))
        long, thick, angle = rng.uniform(7, 16), rng.uniform(3, 5), float(rng.uniform(-25, 25))
        cv2.ellipse(stamp, ((x, y + thick * 0.8), (long, thick), angle), float(rng.uniform(0.5, 0.9)), -1)
        cv2.ellipse(stamp, ((x, y), (long, thick), angle), -float(rng.uniform(0.7, 1.0)), -1)
    return _faded(np.asarray(cv2.GaussianBlur(stamp, (0, 0), 0.7), np.float32), _blob(rng, w, h, 0.25))


def scratches(rng: np.random.Generator) -> Stamp:
    """One to three thin bright lines, 30-280 px long, most of them along the strip."""
    length = np.exp(rng.uniform(np.log(30), np.log(280)))
    angle = np.radians(rng.normal(90, 8) if rng.random() < 0.7 else rng.uniform(0, 180))
    w, h = (int(abs(length * f(angle))) + 12 for f in (np.cos, np.sin))
    stamp = np.zeros((h, w), np.float32)
    half = 0.5 * length * np.array([np.cos(angle), -np.sin(angle)])
    for _ in range(int(rng.integers(1, 4))):
        centre = np.array([w / 2, h / 2]) + rng.uniform(-3, 3, 2)
        part = half * rng.uniform(0.75, 1.0)
        ends = np.round(8 * np.stack([centre - part, centre + part])).astype(int)  # 1/8 pixel
        cv2.line(stamp, ends[0].tolist(), ends[1].tolist(), float(rng.uniform(0.8, 1.0)), int(rng.integers(1, 4)), cv2.LINE_AA, 3)
    return np.asarray(cv2.GaussianBlur(stamp, (0, 0), 0.7) * 1.25, np.float32)


DRAW: dict[str, Callable[[np.random.Generator], Stamp]] = {
    "crazing": crazing,
    "inclusion": inclusion,
    "patches": patches,
    "pitted_surface": pitted_surface,
    "rolled-in_scale": rolled_in_scale,
    "scratches": scratches,
}


def _sides(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Width and height, log-uniform, neither more than twice the other."""
    size = np.exp(rng.uniform(np.log(low), np.log(high)))
    stretch = np.exp(rng.uniform(-0.34, 0.34))
    return tuple(int(np.clip(s, low, high)) for s in (size * stretch, size / stretch))  # type: ignore[return-value]


def _blob(rng: np.random.Generator, w: int, h: int, ragged: float) -> Stamp:
    """A soft-edged blob that fills (h, w): 1 in the middle, 0 at the rim, its outline uneven by ``ragged``."""
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    wave = cv2.resize(rng.standard_normal((5, 5), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip((1.0 - np.hypot(x, y)) * 4 + ragged * wave, 0, 1), np.float32)


def _faded(stamp: Stamp, blob: Stamp) -> Stamp:
    return np.asarray(np.clip(stamp * blob, -1.2, 1.2), np.float32)


HARMLESS_CONTRAST = (0.06, 0.25)
"""Range of the change of grey, as a share of the grey level."""


def water_mark(rng: np.random.Generator) -> Stamp:
    """A dried puddle, 80-260 px: faint inside, with a somewhat stronger soft rim, brighter or darker."""
    w, h = (int(s) for s in rng.integers(80, 260, 2))
    inside = _soft_blob(rng, w, h, 9.0)
    rim = np.clip(4 * inside * (1 - inside), 0, 1)
    return np.asarray((0.5 * inside + 0.5 * rim) * rng.choice([-1, 1]), np.float32)


def oil(rng: np.random.Generator) -> Stamp:
    """A dark smear, 60-200 px, without any edge."""
    w, h = (int(s) for s in rng.integers(60, 200, 2))
    return -_soft_blob(rng, w, h, 11.0)


def drip(rng: np.random.Generator) -> Stamp:
    """A bright or dark run along the strip, in a stamp 30-59 px wide and 120-279 px long."""
    w, h = int(rng.integers(30, 60)), int(rng.integers(120, 280))
    return _soft_blob(rng, w, h, 6.0) * np.float32(rng.choice([-1, 1]))


def dust(rng: np.random.Generator) -> Stamp:
    """A few specks of one to three pixels within 60 px; several times as strong as the rest."""
    stamp = np.zeros((60, 60), np.float32)
    for _ in range(int(rng.integers(1, 6))):
        x, y = (int(v) for v in rng.integers(3, 57, 2))
        cv2.circle(stamp, (x, y), int(rng.integers(0, 2)), float(rng.choice([-3.0, 3.0])), -1)
    return np.asarray(cv2.GaussianBlur(stamp, (0, 0), 0.6), np.float32)


HARMLESS: tuple[Callable[[np.random.Generator], Stamp], ...] = (water_mark, oil, drip, dust)


def _soft_blob(rng: np.random.Generator, w: int, h: int, sigma: float) -> Stamp:
    """An uneven blob within (h, w) that fades over ``sigma`` px and is 0 at the border."""
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    wave = cv2.resize(rng.standard_normal((4, 4), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    inside = (np.hypot(x, y) + 0.12 * wave < 0.72).astype(np.float32)
    inside[[0, -1], :] = inside[:, [0, -1]] = 0
    fade = np.minimum(1, 3 * (1 - np.maximum(abs(x), abs(y))))
    return np.asarray(cv2.GaussianBlur(inside, (0, 0), sigma) * fade, np.float32)
