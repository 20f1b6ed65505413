"""How well the place that a network names agrees with annotated boxes. Boxes are (x, y, w, h) in pixels of the image."""

from collections.abc import Iterable, Sequence

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from ilcs_model.data.dataset import Box

SMOOTH = 0.08
"""Standard deviation of the Gaussian of ``peak``, as a share of the tile's side.

Of the values from 0.02 to 0.1 that were tried on NEU train rows, it is in the middle of those that point best.
"""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """One image: what was found in it, and what is annotated. Places are in pixels of the image."""

    label: int
    """The true class, an index into the classes."""
    size_px: tuple[int, int]
    """Width and height."""
    hottest: tuple[float, float]
    """x and y of the heat map's maximum, see ``hottest``."""
    peak: tuple[float, float]
    """x and y of the maximum of the smoothed map, see ``peak``."""
    boxes: tuple[Box, ...]
    """Those that were found; () if none."""
    truth: tuple[Box, ...]
    """Those that are annotated; at least one."""


class BoxScore(msgspec.Struct, frozen=True, kw_only=True):
    """Means over images, 0..1, rounded to 4 decimals."""

    images: int
    """How many."""
    pointing: float
    """Pointing game (Zhang et al. 2018, without their tolerance): share of images whose hottest pixel is in a box."""
    pointing_smoothed: float
    """The same for the peak."""
    centre: float
    """The same for the image's centre: what a network that has learned nothing would reach."""
    iou: float
    """Pixels in both a found and an annotated box, of the pixels in either."""
    best_iou: float
    """For each annotated box the IoU of the found box that fits it best, the mean over the image's boxes."""


class BoxScores(msgspec.Struct, frozen=True, kw_only=True):
    """Of all images, and of those of each class that has any."""

    overall: BoxScore
    classes: dict[str, BoxScore]


def score_boxes(images: Iterable[Placed], classes: Sequence[str]) -> BoxScores:
    """Score what was found against annotated boxes. A class without an image is left out. Raises ``ValueError`` without images."""
    rows = [(p.label, _scores(p)) for p in images]
    if not rows:
        raise ValueError("no image with annotated boxes")
    by_class = {c: [found for label, found in rows if label == k] for k, c in enumerate(classes)}
    return BoxScores(
        overall=_mean([found for _, found in rows]),
        classes={c: _mean(found) for c, found in by_class.items() if found},
    )


def hottest(heat: NDArray[np.float32]) -> tuple[float, float]:
    """Where a heat map (S, S) has its maximum: x and y of that pixel's middle, as shares 0..1 of the map's sides."""
    y, x = divmod(int(heat.argmax()), heat.shape[1])
    return (x + 0.5) / heat.shape[1], (y + 0.5) / heat.shape[0]


def peak(heat: NDArray[np.float32]) -> tuple[float, float]:
    """Where a heat map (S, S) is hottest after smoothing, as ``hottest`` gives it; outside the map heat is 0.

    This is the middle of the hottest place. The single hottest pixel of an evenly hot place may be anywhere in it, and is often
    at the image's edge.
    """
    return hottest(np.asarray(cv2.GaussianBlur(heat, (0, 0), SMOOTH * len(heat), borderType=cv2.BORDER_CONSTANT), np.float32))


def _scores(image: Placed) -> tuple[float, ...]:
    """The figures of a ``BoxScore``, in its order."""
    centre = image.size_px[0] / 2, image.size_px[1] / 2
    return (*(_inside(point, image.truth) for point in (image.hottest, image.peak, centre)), _union_iou(image), _best_iou(image))


def _mean(rows: list[tuple[float, ...]]) -> BoxScore:
    pointing, smoothed, centre, iou, best = (round(float(v), 4) for v in np.mean(rows, axis=0))
    return BoxScore(images=len(rows), pointing=pointing, pointing_smoothed=smoothed, centre=centre, iou=iou, best_iou=best)


def _inside(point: tuple[float, float], boxes: tuple[Box, ...]) -> float:
    """1 if the point lies in any box, else 0."""
    return float(any(x <= point[0] < x + w and y <= point[1] < y + h for x, y, w, h in boxes))


def _union_iou(image: Placed) -> float:
    found, truth = (_mask(boxes, image.size_px) for boxes in (image.boxes, image.truth))
    either = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / either if either else 0.0


def _mask(boxes: tuple[Box, ...], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """(h, w), the pixels that lie in any of the boxes."""
    mask = np.zeros((size_px[1], size_px[0]), bool)
    for box in boxes:
        x, y, w, h = box
        mask[max(0, round(y)) : max(0, round(y + h)), max(0, round(x)) : max(0, round(x + w))] = True
    return mask


def _best_iou(image: Placed) -> float:
    return float(np.mean([max((_iou(t, f) for f in image.boxes), default=0.0) for t in image.truth]))


def _iou(a: Box, b: Box) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    along = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0.0, across) * max(0.0, along)
    return both / max(1e-12, a[2] * a[3] + b[2] * b[3] - both)
