"""Figures of an evaluation are what one counts by hand, and its thresholds do what the line does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ilcs_model.evaluation.metrics import ErrorCurve, MissCurve, calibration, curve, measure, top
from nodes.infer.join_tiles import Region, Tiles, find_defects
from nodes.infer.tile_labels import Rules
from pipeline.config import Infer

Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


@st.composite
def answers(draw: st.DrawFn) -> Labelled:
    """Probabilities (N, K) and labels of 1 to 40 images and 2 to 8 classes."""
    classes, images = draw(st.integers(2, 8)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.dirichlet(np.full(classes, draw(st.sampled_from((0.05, 0.5, 5.0)))), images).astype(np.float32)
    return scores, rng.integers(0, classes, images)


def names(scores: NDArray[np.float32]) -> tuple[str, ...]:
    return tuple("abcdefgh"[: scores.shape[1]])


THREE = np.array([[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.1, 0.9, 0.0], [0.7, 0.2, 0.1], [0.3, 0.4, 0.3]], np.float32)
TRUE = np.array([0, 0, 1, 1, 1])


def test_figures_are_those_counted_by_hand() -> None:
    found = measure(THREE, TRUE, ("a", "b", "c"))

    assert (found.images, found.top1, found.top5) == (5, 0.6, 1.0)
    assert found.confusion == ((1, 1, 0), (1, 2, 0), (0, 0, 0))
    a, b, c = found.classes
    assert (a.name, a.support, a.predicted, a.precision, a.recall, a.f1) == ("a", 2, 2, 0.5, 0.5, 0.5)
    assert (b.support, b.predicted) == (3, 3)
    assert (b.precision, b.recall, b.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (c.support, c.predicted, c.precision, c.recall, c.f1) == (0, 0, None, None, None)


def test_a_class_of_no_image_that_is_called_has_a_precision_and_no_recall() -> None:
    found = measure(np.array([[0.2, 0.8], [0.9, 0.1]], np.float32), np.array([0, 0]), ("a", "b"))

    assert [(c.precision, c.recall, c.f1) for c in found.classes] == [(1.0, 0.5, pytest.approx(2 / 3)), (0.0, None, None)]


def test_top_k_looks_at_the_k_best() -> None:
    scores = np.array([[0.1, 0.3, 0.2, 0.15, 0.15, 0.06, 0.04]], np.float32)

    assert [top(scores, np.array([true]), 5) for true in range(7)] == [1, 1, 1, 1, 1, 0, 0]
    assert [top(scores, np.array([true]), 2) for true in range(7)] == [0, 1, 1, 0, 0, 0, 0]


def test_of_equal_scores_the_first_class_counts_as_the_better_one() -> None:
    equal = np.full((1, 7), 1 / 7, np.float32)

    assert [top(equal, np.array([true]), 5) for true in range(7)] == [1, 1, 1, 1, 1, 0, 0]


def test_the_calibration_error_is_the_gap_between_score_and_share_right() -> None:
    scores = np.array([[0.9, 0.1]] * 10 + [[0.62, 0.38]] * 10, np.float32)
    labels = np.array([0] * 7 + [1] * 3 + [0] * 10)

    found = calibration(scores, labels)

    assert found.error == pytest.approx((0.2 + 0.38) / 2, abs=1e-6)
    filled = [b for b in found.bins if b.images]
    assert [(b.images, b.right, round(b.score or 0, 3)) for b in filled] == [(10, 1.0, 0.62), (10, 0.7, 0.9)]
    assert all(b.low < (b.score or 0) <= b.high for b in filled)


def test_with_a_class_ok_the_curve_counts_misses_and_false_alarms() -> None:
    p_ok = np.array([0.02, 0.5, 0.5995, 0.0995, 0.8, 0.99])
    scores = np.stack([1 - p_ok, p_ok], axis=1).astype(np.float32)

    found = curve(scores, np.array([0, 0, 0, 1, 1, 1]), ("dent", "ok"))

    assert isinstance(found, MissCurve)
    half = next(p for p in found.points if p.min_score == 0.5)
    assert (half.misses, half.false_alarms) == (1, 1)
    assert (half.miss_share, half.false_alarm_share) == pytest.approx((1 / 3, 1 / 3))
    assert found.no_miss is not None and (found.no_miss.min_score, found.no_miss.false_alarms) == (0.4, 1)
    assert found.no_false_alarm is not None and (found.no_false_alarm.min_score, found.no_false_alarm.misses) == (0.901, 2)


def test_where_there_are_no_clean_tiles_nothing_is_said_of_false_alarms() -> None:
    found = curve(np.array([[0.9, 0.1]], np.float32), np.array([0]), ("dent", "ok"))

    assert isinstance(found, MissCurve)
    assert {p.false_alarm_share for p in found.points} == {None}
    assert found.no_false_alarm is None
    assert found.no_miss is not None


def test_without_a_class_ok_the_curve_counts_coverage_and_errors() -> None:
    found = curve(THREE, TRUE, ("a", "b", "c"))

    assert isinstance(found, ErrorCurve)
    at = {p.min_score: p for p in found.points}
    assert (at[0.6].accepted, at[0.6].coverage, at[0.6].wrong) == (3, 0.6, 1)
    assert at[0.6].error == pytest.approx(1 / 3)
    assert (at[0.95].accepted, at[0.95].coverage, at[0.95].error) == (0, 0.0, None)
    assert found.no_error is not None and (found.no_error.min_score, found.no_error.coverage) == (0.701, 0.4)


@given(answers())
def test_figures_agree_with_each_other(given: Labelled) -> None:
    scores, labels = given
    found = measure(scores, labels, names(scores))

    matrix = np.array(found.confusion)
    assert matrix.sum() == found.images
    assert found.top1 == pytest.approx(matrix.trace() / matrix.sum()) == pytest.approx(top(scores, labels, 1))
    assert found.top1 <= found.top5 <= 1
    assert len(found.classes) > 5 or found.top5 == 1
    assert [c.support for c in found.classes] == np.bincount(labels, minlength=scores.shape[1]).tolist()
    assert sum(b.images for b in found.calibration.bins) == found.images
    assert 0 <= found.calibration.error <= 1


@given(answers())
def test_the_order_of_images_does_not_matter(given: Labelled) -> None:
    scores, labels = given
    order = np.random.default_rng(0).permutation(len(labels))

    one, other = measure(scores, labels, names(scores)), measure(scores[order], labels[order], names(scores))

    assert (one.top1, one.top5, one.confusion, one.curve) == (other.top1, other.top5, other.confusion, other.curve)
    assert one.calibration.error == pytest.approx(other.calibration.error)


@given(answers())
def test_a_higher_threshold_misses_more_and_alarms_less(given: Labelled) -> None:
    scores, labels = given
    found = curve(scores, labels, ("ok", *names(scores)[1:]))
    other = curve(scores, labels, names(scores))

    assert isinstance(found, MissCurve) and isinstance(other, ErrorCurve)
    assert [p.misses for p in found.points] == sorted(p.misses for p in found.points)
    assert [p.false_alarms for p in found.points] == sorted((p.false_alarms for p in found.points), reverse=True)
    assert [p.accepted for p in other.points] == sorted((p.accepted for p in other.points), reverse=True)


@given(answers(), st.booleans(), st.sampled_from((0.05, 0.35, 0.5, 0.9, 0.99)))
def test_a_threshold_does_on_the_line_what_the_curve_says(given: Labelled, has_ok: bool, min_score: float) -> None:
    scores, labels = given
    classes = ("ok", *names(scores)[1:]) if has_ok else names(scores)
    rules = Rules(Infer(model="m", min_score=min_score), classes)
    box = (0, 0, 10, 10)
    reported = np.array([bool(find_defects(Tiles((box,), 1, [0], row[None], None), rules, Region(0, 10, ()))) for row in scores])

    found = curve(scores, labels, classes)
    if isinstance(found, MissCurve):
        point = next(p for p in found.points if p.min_score == min_score)
        assert point.misses == (~reported & (labels != 0)).sum()
        assert point.false_alarms == (reported & (labels == 0)).sum()
    else:
        accepting = next(p for p in found.points if p.min_score == min_score)
        assert accepting.accepted == reported.sum()
        assert accepting.wrong == (reported & (scores.argmax(1) != labels)).sum()


@pytest.mark.parametrize(
    ("scores", "labels"),
    [(np.zeros((0, 2)), np.zeros(0, int)), (np.ones((2, 3)), np.zeros(2, int)), (np.full((1, 2), np.nan), np.zeros(1, int))],
)
def test_what_cannot_be_measured_is_refused(scores: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="scores"):
        measure(scores.astype(np.float32), labels, ("a", "b"))
