"""Figures that say how good a classifier's scores are. Pure numpy.

The line's rule decides what a threshold does (``nodes.infer.join_tiles``): a tile is a defect from ``min_score`` on, by
1 - p(ok) where there is a class ``ok``, else by the score of its best class.
"""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]
"""(N, K), rows sum to 1."""
Labels = NDArray[np.int64]
"""(N,), the column of each true class, 0 to K - 1."""

OK = "ok"
BINS = 15
TAIL = (0.001, 0.005, 0.01, 0.02)
"""Distances from 0 and from 1 of more thresholds: trained networks have most of their scores near these ends."""
THRESHOLDS = tuple(sorted({*(round(0.05 * k, 2) for k in range(1, 20)), *TAIL, *(round(1 - t, 3) for t in TAIL)}))
FINE = tuple(k / 1000 for k in range(1, 1000))
"""Thresholds among which those of note are looked for: numbers that a person would write into a configuration."""


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One class. Shares 0..1; None where there is nothing to divide by."""

    name: str
    support: int
    """Images of the class."""
    predicted: int
    """Images that the model put into the class."""
    precision: float | None
    recall: float | None
    f1: float | None


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Images whose best score is above ``low`` and at most ``high``."""

    low: float
    high: float
    images: int
    score: float | None
    """Mean best score; None without images."""
    right: float | None
    """Share of them whose class is right; None without images."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a score of 0.9 means nine of ten: the expected calibration error (Guo et al. 2017), 0..1.

    That is the mean of \\|share right - mean best score\\| over 15 equal bins of the best score, weighted by images.
    """

    error: float
    bins: tuple[Bin, ...]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What a ``min_score`` does to a model with a class ``ok``. Shares are None where there are no such tiles."""

    min_score: float
    misses: int
    """Defect tiles called ok: 1 - p(ok) < min_score."""
    miss_share: float | None
    """Of all defect tiles."""
    false_alarms: int
    """Tiles of ok with 1 - p(ok) >= min_score."""
    false_alarm_share: float | None
    """Of all tiles of ok."""


class Accepting(msgspec.Struct, frozen=True, kw_only=True):
    """What a ``min_score`` does to a model without a class ``ok``: tiles whose best score reaches it are accepted."""

    min_score: float
    accepted: int
    coverage: float
    """Share of all tiles that is accepted: of the others, the line says nothing."""
    wrong: int
    """Accepted with a wrong label."""
    error: float | None
    """Share of the accepted ones that is wrong; None where none is accepted."""


class MissCurve(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="misses_and_false_alarms"):
    """What thresholds do to a model with a class ``ok``. Those of note are from 0.001 to 0.999; None: none of these does it."""

    points: tuple[Missing, ...]
    no_miss: Missing | None
    """The highest threshold that misses no defect."""
    no_false_alarm: Missing | None
    """The lowest threshold without a false alarm."""


class ErrorCurve(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="coverage_and_error"):
    """What thresholds do to a model without a class ``ok``. That of note is from 0.001 to 0.999; None: none of these does it."""

    points: tuple[Accepting, ...]
    no_error: Accepting | None
    """The lowest threshold at which nothing that is accepted is wrong."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A model's answers on labelled images. Shares 0..1."""

    images: int
    top1: float
    top5: float
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Numbers of images. Rows: the true class; columns: the class that the model gave."""
    calibration: Calibration
    curve: MissCurve | ErrorCurve


def measure(probabilities: Probabilities, labels: Labels, classes: tuple[str, ...]) -> Figures:
    """All figures of N images at once: scores (N, K), labels (N,), K classes.

    Raises ``ValueError`` for no images, shapes that do not fit, or scores that are not finite. The functions below, which it
    calls, do not check this.
    """
    if probabilities.shape != (len(labels), len(classes)) or not len(labels):
        raise ValueError(f"{probabilities.shape} scores for {len(labels)} labels and {len(classes)} classes")
    if not np.isfinite(probabilities).all():
        raise ValueError("scores that are not finite")
    matrix = confusion(probabilities, labels)
    return Figures(
        images=len(labels),
        top1=top(probabilities, labels, 1),
        top5=top(probabilities, labels, 5),
        classes=per_class(matrix, classes),
        confusion=tuple(tuple(int(n) for n in row) for row in matrix),
        calibration=calibration(probabilities, labels),
        curve=curve(probabilities, labels, classes),
    )


def top(probabilities: Probabilities, labels: Labels, k: int) -> float:
    """Top-k (Pei et al. 2022, Algorithm 2): share of images whose true class is among the k best scores.

    With k or fewer classes that is 1. Of equal scores the first class counts as the better one, as it does for a line. NaN
    without images.
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Counts of images, (K, K): rows the true class, columns the one with the best score. All 0 without images."""
    count = probabilities.shape[1]
    return np.bincount(labels * count + probabilities.argmax(axis=1), minlength=count**2).reshape(count, count)


def per_class(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> tuple[ClassFigures, ...]:
    """Precision, recall and their harmonic mean F1 of each class, from ``confusion``'s matrix (K, K)."""
    right, support, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    return tuple(
        ClassFigures(
            name=name,
            support=int(support[k]),
            predicted=int(predicted[k]),
            precision=share(right[k], predicted[k]),
            recall=share(right[k], support[k]),
            f1=share(2 * right[k], predicted[k] + support[k]) if support[k] else None,
        )
        for k, name in enumerate(classes)
    )


def calibration(probabilities: Probabilities, labels: Labels) -> Calibration:
    """The calibration error over 15 bins, see ``Calibration``. Without images the error is NaN, with a warning of numpy."""
    scores = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(scores * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    score_sum, right_sum = np.bincount(place, scores, BINS), np.bincount(place, right, BINS)
    bins = tuple(
        Bin(
            low=k / BINS,
            high=(k + 1) / BINS,
            images=int(images[k]),
            score=share(score_sum[k], images[k]),
            right=share(right_sum[k], images[k]),
        )
        for k in range(BINS)
    )
    return Calibration(error=float(np.abs(right_sum - score_sum).sum() / len(labels)), bins=bins)


def curve(probabilities: Probabilities, labels: Labels, classes: tuple[str, ...]) -> MissCurve | ErrorCurve:
    """What each of ``THRESHOLDS`` would do on a line: a ``MissCurve`` if there is a class ``ok``, else an ``ErrorCurve``.

    Without images and without a class ``ok`` it raises ``ZeroDivisionError``.
    """
    if OK in classes:
        return _miss_curve(1 - probabilities[:, classes.index(OK)], labels != classes.index(OK))
    return _error_curve(probabilities.max(axis=1), probabilities.argmax(axis=1) != labels)


def _miss_curve(scores: NDArray[np.float32], defect: NDArray[np.bool_]) -> MissCurve:
    def at(min_score: float) -> Missing:
        alarm = scores >= np.float32(min_score)
        misses, false_alarms = int((defect & ~alarm).sum()), int((alarm & ~defect).sum())
        return Missing(
            min_score=min_score,
            misses=misses,
            miss_share=share(misses, defect.sum()),
            false_alarms=false_alarms,
            false_alarm_share=share(false_alarms, (~defect).sum()),
        )

    fine = [at(t) for t in FINE]
    return MissCurve(
        points=tuple(at(t) for t in THRESHOLDS),
        no_miss=next((p for p in reversed(fine) if p.miss_share == 0), None),
        no_false_alarm=next((p for p in fine if p.false_alarm_share == 0), None),
    )


def _error_curve(scores: NDArray[np.float32], wrong: NDArray[np.bool_]) -> ErrorCurve:
    def at(min_score: float) -> Accepting:
        accepted = scores >= np.float32(min_score)
        count, bad = int(accepted.sum()), int((accepted & wrong).sum())
        return Accepting(min_score=min_score, accepted=count, coverage=count / len(scores), wrong=bad, error=share(bad, count))

    return ErrorCurve(
        points=tuple(at(t) for t in THRESHOLDS),
        no_error=next((p for t in FINE if (p := at(t)).error == 0), None),
    )


def share(part: Any, whole: Any) -> float | None:
    """``part / whole``, or None where there is nothing to divide by."""
    return float(part / whole) if whole else None
