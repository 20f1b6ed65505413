"""The label of each tile, and the score from which on it shows a defect. Pure."""

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClassRule, Infer

OK = "ok"
"""The class of clean material, where a model has one."""


class Rules:
    """Thresholds of each class, in the order of ``classes``: ``min_score``, float32 (K,), and ``min_size_px`` of the longer side."""

    def __init__(self, settings: Infer, classes: tuple[str, ...]) -> None:
        self.classes = classes
        of = [settings.classes.get(c, ClassRule()) for c in classes]
        self.min_score = np.array([settings.min_score if r.min_score is None else r.min_score for r in of], np.float32)
        self.min_size_px = [settings.min_size_px if r.min_size_px is None else r.min_size_px for r in of]


def label_tiles(scores: NDArray[np.float32], classes: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Label index, int64 (N,), and defect score, float32 (N,), of each tile from the scores of its classes, float32 (N, K).

    With a class ``ok`` the defect score is 1 - p(ok) and the label the best of the other classes.
    """
    if OK not in classes:
        return scores.argmax(axis=1), scores.max(axis=1)
    ok = classes.index(OK)
    others = scores.copy()
    others[:, ok] = -1
    return others.argmax(axis=1), 1 - scores[:, ok]
