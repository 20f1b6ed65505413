"""Scores to defects: thresholds, the class ok, and touching tiles as one defect."""

import numpy as np
import pytest

from nodes.infer.verdict import find_defects, softmax

CLASSES = ("ok", "patches", "scratches")
CLEAN, PATCH, SCRATCH = (0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.1, 0.2, 0.7)


def defects(rows: list[list[tuple[float, ...]]], min_score: float = 0.5) -> list[tuple[str, tuple[int, int, int, int]]]:
    """(label, box) for a grid of 10 x 10 tiles with these scores."""
    columns = len(rows[0])
    scores = np.array([s for row in rows for s in row], np.float32)
    boxes = tuple((10 * (k % columns), 10 * (k // columns), 10, 10) for k in range(len(scores)))
    return [(d.label, d.box) for d in find_defects(scores, CLASSES, boxes, columns, min_score)]


def test_clean_tiles_are_no_defects() -> None:
    assert defects([[CLEAN, CLEAN]]) == []


def test_touching_tiles_of_one_label_are_one_defect_with_one_box() -> None:
    assert defects([[CLEAN, PATCH, PATCH], [CLEAN, CLEAN, PATCH]]) == [("patches", (10, 0, 20, 20))]


def test_diagonal_neighbours_do_not_touch() -> None:
    assert len(defects([[PATCH, CLEAN], [CLEAN, PATCH]])) == 2


def test_the_end_of_a_row_does_not_touch_the_start_of_the_next() -> None:
    assert len(defects([[CLEAN, CLEAN, PATCH], [PATCH, CLEAN, CLEAN]])) == 2


def test_different_labels_stay_apart() -> None:
    assert defects([[PATCH, SCRATCH]]) == [("patches", (0, 0, 10, 10)), ("scratches", (10, 0, 10, 10))]


@pytest.mark.parametrize(("ok", "expected"), [(0.5, 1), (0.51, 0)])
def test_with_ok_a_tile_is_a_defect_when_the_rest_reaches_the_threshold(ok: float, expected: int) -> None:
    """Not the best class decides but 1 - p(ok): two doubtful defects are still no clean steel."""
    rest = (1 - ok) / 2
    assert len(defects([[(ok, rest, rest)]])) == expected


def test_without_ok_the_best_class_must_reach_the_threshold() -> None:
    scores = np.array([[0.6, 0.4], [0.45, 0.55]], np.float32)

    found = find_defects(scores, ("a", "b"), ((0, 0, 1, 1), (5, 5, 1, 1)), 1, min_score=0.6)

    assert [d.label for d in found] == ["a"]
    assert found[0].score == pytest.approx(0.6)
    assert found[0].scores == pytest.approx({"a": 0.6, "b": 0.4})


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([[1e4, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]
