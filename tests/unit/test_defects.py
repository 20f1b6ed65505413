"""Scores to defects: thresholds, the class ok, and touching tiles as one defect."""

import numpy as np
import pytest

from nodes.infer.engines.contract import softmax
from nodes.infer.join_tiles import Found, Region, Tiles, find_defects
from nodes.infer.tile_labels import Rules
from pipeline.config import ClassRule, Infer

CLASSES = ("ok", "patches", "scratches")
CLEAN, PATCH, SCRATCH = (0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.1, 0.2, 0.7)


EVERYWHERE = Region(0, 10_000, ())


def find(
    rows: list[list[tuple[float, ...]]],
    *,
    maps: dict[int, np.ndarray] | None = None,
    region: Region = EVERYWHERE,
    **settings: object,
) -> list[Found]:
    """Defects of a grid of 100 x 100 tiles with these scores; ``maps``: those that are not empty."""
    columns = len(rows[0])
    scores = np.array([s for row in rows for s in row], np.float32)
    boxes = tuple((100 * (k % columns), 100 * (k // columns), 100, 100) for k in range(len(scores)))
    judged = [k for k, box in enumerate(boxes) if region.touches(box)]
    where = None if maps is None else np.stack([maps.get(k, np.full((12, 12), -5.0)) for k in range(len(boxes))])
    rules = Rules(Infer(model="m", **settings), CLASSES)  # type: ignore[arg-type]
    return find_defects(Tiles(boxes, columns, judged, scores, where), rules, region)


def defects(rows: list[list[tuple[float, ...]]], **more: object) -> list[tuple[str, tuple[int, int, int, int]]]:
    """(label, box)"""
    return [(d.label, d.box) for d in find(rows, **more)]  # type: ignore[arg-type]


def hot(rows: slice, columns: slice) -> np.ndarray:
    """A map of 12 x 12 cells, 8 pixels each, that is above 0 there."""
    found = np.full((12, 12), -5.0)
    found[rows, columns] = 1.0
    return found


def test_clean_tiles_are_no_defects() -> None:
    assert defects([[CLEAN, CLEAN]]) == []


def test_touching_tiles_of_one_label_are_one_defect_with_one_box() -> None:
    assert defects([[CLEAN, PATCH, PATCH], [CLEAN, CLEAN, PATCH]]) == [("patches", (100, 0, 200, 200))]


def test_diagonal_neighbours_do_not_touch() -> None:
    assert len(defects([[PATCH, CLEAN], [CLEAN, PATCH]])) == 2


def test_the_end_of_a_row_does_not_touch_the_start_of_the_next() -> None:
    assert len(defects([[CLEAN, CLEAN, PATCH], [PATCH, CLEAN, CLEAN]])) == 2


def test_different_labels_stay_apart() -> None:
    assert defects([[PATCH, SCRATCH]]) == [("patches", (0, 0, 100, 100)), ("scratches", (100, 0, 100, 100))]


@pytest.mark.parametrize(("ok", "expected"), [(0.5, 1), (0.51, 0)])
def test_with_ok_a_tile_is_a_defect_when_the_rest_reaches_the_threshold(ok: float, expected: int) -> None:
    """Not the best class decides but 1 - p(ok): two doubtful defects are still no clean steel."""
    rest = (1 - ok) / 2
    assert len(defects([[(ok, rest, rest)]])) == expected


def test_without_ok_the_best_class_must_reach_the_threshold() -> None:
    scores = np.array([[0.6, 0.4], [0.45, 0.55]], np.float32)
    tiles = Tiles(((0, 0, 1, 1), (5, 5, 1, 1)), 1, [0, 1], scores, None)

    found = find_defects(tiles, Rules(Infer(model="m", min_score=0.6), ("a", "b")), EVERYWHERE)

    assert [d.label for d in found] == ["a"]
    assert found[0].score == pytest.approx(0.6)
    assert found[0].scores == pytest.approx({"a": 0.6, "b": 0.4})


def test_a_map_says_where_in_its_tile_the_defect_is() -> None:
    assert defects([[CLEAN, PATCH]], maps={1: hot(slice(2, 4), slice(5, 6))}) == [("patches", (140, 16, 8, 16))]


def test_defects_that_are_far_apart_in_touching_tiles_stay_two() -> None:
    maps = {0: hot(slice(3, 5), slice(0, 3)), 1: hot(slice(4, 6), slice(8, 12))}

    assert len(defects([[PATCH, PATCH]], maps=maps)) == 2


def test_the_last_cell_reaches_to_the_tiles_end() -> None:
    assert defects([[PATCH]], maps={0: hot(slice(10, 12), slice(0, 12))}) == [("patches", (0, 80, 100, 20))]


def test_a_defect_across_two_tiles_has_one_box_around_both_parts() -> None:
    maps = {0: hot(slice(3, 5), slice(10, 12)), 1: hot(slice(4, 6), slice(0, 2))}

    assert defects([[PATCH, PATCH]], maps=maps) == [("patches", (80, 24, 36, 24))]


def test_a_faint_patch_far_from_the_defect_does_not_stretch_its_box() -> None:
    where = hot(slice(2, 6), slice(2, 6))
    where[11, 11] = 0.5

    assert defects([[PATCH]], maps={0: where}) == [("patches", (16, 16, 32, 32))]


def test_two_strong_patches_in_a_tile_are_in_one_box() -> None:
    where = hot(slice(1, 3), slice(1, 3)) + 6.0 * (hot(slice(9, 11), slice(9, 11)) > 0)

    assert defects([[PATCH]], maps={0: where}) == [("patches", (8, 8, 80, 80))]


def test_an_empty_map_leaves_the_whole_tile() -> None:
    assert defects([[PATCH]], maps={}) == [("patches", (0, 0, 100, 100))]


def test_a_class_may_have_its_own_threshold() -> None:
    rule = {"patches": ClassRule(min_score=0.95)}

    assert [label for label, _ in defects([[PATCH, SCRATCH]], classes=rule)] == ["scratches"]


def test_what_is_smaller_than_its_class_asks_for_is_dropped() -> None:
    maps = {0: hot(slice(0, 2), slice(0, 3)), 1: hot(slice(0, 4), slice(0, 2))}
    rule = {"patches": ClassRule(min_size_px=30)}

    assert defects([[PATCH, CLEAN]], maps=maps, min_size_px=30) == []
    assert defects([[PATCH, CLEAN]], maps=maps, classes=rule) == []
    assert len(defects([[CLEAN, PATCH]], maps=maps, classes=rule)) == 1


def test_outside_the_edges_and_in_masks_nothing_is_found() -> None:
    masked = Region(0, 1000, ((90, 0, 120, 110),))

    assert defects([[PATCH, PATCH, PATCH]], region=Region(150, 200, ())) == [("patches", (100, 0, 100, 100))]
    assert defects([[CLEAN, PATCH, CLEAN]], region=masked) == []
    assert defects([[PATCH, CLEAN, CLEAN]], region=masked, maps={0: hot(slice(0, 2), slice(11, 12))}) == []
    assert len(defects([[PATCH, CLEAN, CLEAN]], region=masked, maps={0: hot(slice(0, 2), slice(0, 1))})) == 1


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([[1e4, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]
