"""``sim:strip``: a moving strip of hot-rolled steel, rendered ahead from a seed, with marks at known places."""

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from nodes.capture.source import Shot

LENGTH_FRAMES = 24  # the strip is this many frames long, then it repeats
MARKS_PER_FRAME = 0.75
KINDS = ("scratches", "inclusion", "patches")


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A planted defect: label and box (x, y, width, height) in pixels of the whole strip, y along it."""

    label: str
    box: tuple[int, int, int, int]


class StripSource:
    """The strip passes at one frame's height a frame. Bit-identical for the same seed and size."""

    def __init__(self, seed: int, width: int, height: int) -> None:
        self._shape = self.size = (height, width)
        self.fps = None
        self.slot_bytes = width * height
        self._strip, self.marks = render(seed, width, height * LENGTH_FRAMES)

    def has(self, frame: int) -> bool:
        return True

    def read(self, frame: int, into: NDArray[np.uint8]) -> Shot | None:
        height = self._shape[0]
        top = frame % LENGTH_FRAMES * height
        np.copyto(into[: self.slot_bytes].reshape(self._shape), self._strip[top : top + height])
        return Shot(shape=self._shape, length=self.slot_bytes)

    def close(self) -> None:
        pass


def render(seed: int, width: int, length: int) -> tuple[NDArray[np.uint8], list[Mark]]:
    """The strip, uint8 (length, width), and its marks."""
    rng = np.random.default_rng(seed)
    strip = _texture(rng, width, length)
    count = max(1, round(length * MARKS_PER_FRAME / (length / LENGTH_FRAMES)))
    marks = [_plant(strip, rng) for _ in range(count)]
    return np.clip(strip, 0, 255).astype(np.uint8), marks


def _texture(rng: np.random.Generator, width: int, length: int) -> NDArray[np.float32]:
    """Grain, rolling streaks along the strip, scale clouds and uneven light."""
    grain = rng.standard_normal((length, width), np.float32)
    streaks = cv2.GaussianBlur(rng.standard_normal((length // 16 + 1, width), np.float32), (0, 0), 1.2)
    clouds = cv2.GaussianBlur(rng.standard_normal((length // 32 + 1, width // 32 + 1), np.float32), (0, 0), 1.5)
    light = 1 - 0.15 * np.square(np.linspace(-1, 1, width, dtype=np.float32))
    size = (width, length)
    strip = 130 + 5 * grain + 10 * cv2.resize(streaks, size) + 14 * cv2.resize(clouds, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(strip * light, np.float32)


def _plant(strip: NDArray[np.float32], rng: np.random.Generator) -> Mark:
    """Draw one mark into ``strip`` and say where it is."""
    length, width = strip.shape
    label = KINDS[rng.integers(len(KINDS))]
    w, h = {
        "scratches": (rng.integers(4, 9), rng.integers(80, 240)),
        "inclusion": (rng.integers(8, 24), rng.integers(60, 160)),
        "patches": (rng.integers(60, 140), rng.integers(60, 140)),
    }[label]
    w, h = min(int(w), width - 2), min(int(h), length - 2)
    x, y = int(rng.integers(1, width - w)), int(rng.integers(1, length - h))
    shape = cv2.GaussianBlur(rng.standard_normal((h, w), np.float32), (0, 0), max(1.0, min(w, h) / 12))
    inside = cv2.ellipse(np.zeros((h, w), np.float32), ((w / 2, h / 2), (w, h), 0), 1.0, -1)
    edge = cv2.GaussianBlur(inside, (0, 0), 1.0)
    level = 90.0 if label == "scratches" else -65.0
    strip[y : y + h, x : x + w] += edge * (level + 12 * shape / (float(shape.std()) + 1e-6))
    return Mark(label=label, box=(x, y, w, h))
