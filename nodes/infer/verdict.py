"""Scores of a frame's tiles -> its defects. Pure."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.stage import Box

OK = "ok"
"""The class of clean material, where a model has one."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One defect: touching tiles of one label."""

    label: str
    score: float
    scores: dict[str, float]
    """Of the tile with the highest score."""
    box: Box


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, K) -> (N, K), rows sum to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def find_defects(
    scores: NDArray[np.float32], classes: tuple[str, ...], boxes: tuple[Box, ...], columns: int, min_score: float
) -> list[Found]:
    """Defects of one frame from its tiles' scores (N, K), N boxes in rows of ``columns``.

    A tile is a defect when the score of its best class reaches ``min_score``; with a class ``ok``, when 1 - p(ok) does,
    and its label is the best of the others. Tiles of one label that touch (4-neighbours) are one defect.
    """
    labels, tile_scores = _judge(scores, classes)
    bad = {k for k in range(len(boxes)) if tile_scores[k] >= min_score}
    found = []
    while bad:
        group = _grow(min(bad), bad, labels, columns)
        bad -= group
        best = max(group, key=lambda k: (tile_scores[k], -k))
        found.append(
            Found(
                label=classes[labels[best]],
                score=round(float(tile_scores[best]), 6),
                scores={c: round(float(s), 6) for c, s in zip(classes, scores[best], strict=True)},
                box=_union([boxes[k] for k in sorted(group)]),
            )
        )
    return found


def _judge(scores: NDArray[np.float32], classes: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Label index and defect score of each tile."""
    if OK not in classes:
        return scores.argmax(axis=1), scores.max(axis=1)
    ok = classes.index(OK)
    others = scores.copy()
    others[:, ok] = -1
    return others.argmax(axis=1), 1 - scores[:, ok]


def _grow(start: int, bad: set[int], labels: NDArray[np.int64], columns: int) -> set[int]:
    """The tiles of ``bad`` connected to ``start`` with its label."""
    group, edge = {start}, [start]
    while edge:
        k = edge.pop()
        near = [k - columns, k + columns]
        if k % columns > 0:
            near.append(k - 1)
        if k % columns < columns - 1:
            near.append(k + 1)
        for n in near:
            if n in bad and n not in group and labels[n] == labels[start]:
                group.add(n)
                edge.append(n)
    return group


def _union(boxes: list[Box]) -> Box:
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    return left, top, right - left, bottom - top
