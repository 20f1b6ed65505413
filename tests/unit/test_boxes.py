"""Places against annotated boxes: hand-counted examples."""

import numpy as np
import pytest

from ilcs_model.data.dataset import Box
from ilcs_model.evaluation.boxes import Placed, hottest, peak, score_boxes
from nodes.infer.join_tiles import patches

LEFT, RIGHT = (0, 0, 10, 20), (10, 0, 10, 20)  # the halves of an image of 20 x 20


def placed(
    boxes: tuple[Box, ...] = (),
    truth: tuple[Box, ...] = (LEFT,),
    *,
    label: int = 0,
    hottest: tuple[float, float] = (5, 5),
    peak: tuple[float, float] = (5, 5),
) -> Placed:
    return Placed(label=label, size_px=(20, 20), hottest=hottest, peak=peak, boxes=boxes, truth=truth)


def test_a_point_scores_inside_a_box_and_not_on_the_far_edge_of_one() -> None:
    images = [placed(hottest=p) for p in ((0, 0), (9.9, 19.9), (10, 5), (5, 20))]

    assert score_boxes(images, ("a", "b")).overall.pointing == 0.5


def test_either_point_may_lie_in_any_of_several_boxes() -> None:
    found = score_boxes([placed(truth=((0, 0, 2, 2), (15, 15, 4, 4)), hottest=(8, 8), peak=(16, 18))], ("a", "b")).overall

    assert (found.pointing, found.pointing_smoothed) == (0, 1)


def test_the_centre_of_the_image_is_the_base_line() -> None:
    centred: tuple[Box, ...] = ((8, 8, 4, 4),)

    assert score_boxes([placed(truth=centred), placed(truth=((0, 0, 5, 5),))], ("a", "b")).overall.centre == 0.5


@pytest.mark.parametrize(
    ("boxes", "truth", "iou", "best"),
    [
        ((LEFT,), (LEFT,), 1, 1),
        ((LEFT,), (RIGHT,), 0, 0),
        ((), (LEFT,), 0, 0),
        (((0, 0, 20, 20),), (LEFT,), 0.5, 0.5),
        ((LEFT, RIGHT), ((0, 0, 20, 20),), 1, 0.5),  # together all of it, each half of it
        (((0, 0, 20, 20),), (LEFT, RIGHT), 1, 0.5),
        (((5, 0, 10, 20),), (LEFT,), 0.3333, 0.3333),  # 100 of 300 pixels
        ((LEFT, (0, 0, 4, 4)), (LEFT, (0, 0, 4, 8)), 1, 0.75),  # 1, and 16 of 32
        (((-5, -5, 15, 25),), (LEFT,), 1, 0.5333),  # what lies outside of the image is no pixel of it: but 200 of 375
    ],
)
def test_overlap_is_counted_in_pixels_and_for_each_true_box(
    boxes: tuple[Box, ...], truth: tuple[Box, ...], iou: float, best: float
) -> None:
    found = score_boxes([placed(boxes, truth)], ("a", "b")).overall

    assert (found.iou, found.best_iou) == (iou, best)


def test_classes_are_scored_apart_and_those_without_images_left_out() -> None:
    found = score_boxes([placed((LEFT,)), placed((LEFT,)), placed((RIGHT,), label=2, hottest=(15, 5))], ("a", "b", "c"))

    assert {c: (s.images, s.iou, s.pointing) for c, s in found.classes.items()} == {"a": (2, 1, 1), "c": (1, 0, 0)}
    assert (found.overall.images, found.overall.iou) == (3, 0.6667)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image with annotated boxes"):
        score_boxes([], ("a", "b"))


def test_the_hottest_pixel_and_the_middle_of_the_hottest_place() -> None:
    heat = np.zeros((100, 100), np.float32)
    heat[40:60, 60:80] = 0.8
    heat[0, 99] = 0.9

    assert hottest(heat) == (0.995, 0.005)
    assert peak(heat) == pytest.approx((0.7, 0.5), abs=0.02)


def test_beyond_the_rim_there_is_nothing() -> None:
    """On a map that is hot everywhere the peak is not at the rim."""
    assert all(0.25 < v < 0.75 for v in peak(np.ones((100, 100), np.float32)))


def test_patches_of_a_map_are_boxes_of_their_own() -> None:
    cells = np.full((12, 12), -1.0, np.float32)
    cells[0:2, 0:3] = 1
    cells[6:12, 10:12] = 1
    cells[5, 5] = 0.5  # less than 0.15 of the strongest patch's sum

    assert patches(cells, 100, 200) == [(0, 0, 24, 32), (80, 96, 20, 104)]
    assert patches(np.full((4, 4), -1.0, np.float32), 10, 10) == []
