"""Corruptions: the same for the same tile, stronger at a higher strength, and counted by kind."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ilcs_model.data.corrupt import HELD_OUT, KINDS, STRENGTHS, TRAINED, Tile
from ilcs_model.evaluation.robustness import CASES, corrupted, robustness


@pytest.fixture(scope="module")
def pictures() -> list[Tile]:
    """Smooth random pictures with fine grain, (300, 300)."""
    rng = np.random.default_rng(0)
    smooth = [cv2.resize(rng.integers(40, 216, (30, 30), np.uint8), (300, 300)).astype(int) for _ in range(6)]
    return [np.clip(s + rng.integers(-8, 9, s.shape), 0, 255).astype(np.uint8) for s in smooth]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_is_spoiled_to_the_bit_in_the_same_way(pictures: list[Tile], kind: str) -> None:
    one = corrupted(pictures[0], kind, 3)
    corrupted(pictures[1], kind, 3)

    assert np.array_equal(one, corrupted(pictures[0].copy(), kind, 3))
    assert not np.array_equal(one, pictures[0])


@pytest.mark.parametrize("kind", ["noise", "motion_blur", "uneven_light", "dust"])
def test_another_seed_spoils_in_another_way(pictures: list[Tile], kind: str) -> None:
    assert not np.array_equal(corrupted(pictures[0], kind, 3, seed=0), corrupted(pictures[0], kind, 3, seed=1))


@pytest.mark.parametrize("kind", ["noise", "motion_blur", "uneven_light", "dust"])
def test_each_tile_is_spoiled_in_its_own_way(pictures: list[Tile], kind: str) -> None:
    """Also one that differs from another in a single pixel."""
    other = pictures[0].copy()
    other[0, 0] ^= 1

    assert not np.array_equal(corrupted(pictures[0], kind, 3)[50:], corrupted(other, kind, 3)[50:])


@pytest.mark.parametrize("shape", [(300, 300), (300, 300, 3), (64, 48), (64, 48, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_keeps_size_and_type_and_the_original_is_left_alone(kind: str, shape: tuple[int, ...]) -> None:
    tile = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = tile.copy()

    for strength in STRENGTHS:
        found = corrupted(tile, kind, strength)
        assert found.shape == tile.shape and found.dtype == np.uint8
    assert np.array_equal(tile, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_strength_changes_more(pictures: list[Tile], kind: str) -> None:
    def change(strength: int) -> float:
        pairs = ((tile.astype(int), corrupted(tile, kind, strength)) for tile in pictures)
        return float(np.mean([np.abs(tile - found).mean() for tile, found in pairs]))

    changes = [change(strength) for strength in STRENGTHS]

    assert changes == sorted(changes)
    assert changes[-1] > 1.2 * changes[0] > 0


@pytest.mark.parametrize("strength", [0, 6, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_strength_but_one_to_five(pictures: list[Tile], kind: str, strength: int) -> None:
    with pytest.raises(ValueError, match="strength"):
        KINDS[kind](pictures[0], strength, np.random.default_rng(0))


def test_each_kind_and_strength_is_counted_apart(pictures: list[Tile]) -> None:
    """By a judge who is wrong about all tiles of one case, and of a second one about half of them."""
    labels = np.zeros(len(pictures), np.int64)
    spoiled = {kind: {s: {corrupted(t, kind, s).tobytes() for t in pictures} for s in STRENGTHS} for kind in KINDS}
    calls = []

    def judge(tiles: Sequence[Tile]) -> NDArray[np.float32]:
        calls.append(len(tiles))
        wrong = [t.tobytes() in spoiled["jpeg"][5] or (k % 2 and t.tobytes() in spoiled["noise"][2]) for k, t in enumerate(tiles)]
        return np.array([[0.0, 1.0] if w else [1.0, 0.0] for w in wrong], np.float32)

    told: list[int] = []
    found = robustness([(pictures[:4], labels[:4]), (pictures[4:], labels[4:])], judge, progress=told.append)

    assert sum(calls) == sum(told) == CASES * len(pictures)
    assert found.kinds["jpeg"].strengths == (1.0, 1.0, 1.0, 1.0, 0.0)
    assert found.kinds["jpeg"].mean == pytest.approx(0.8)
    assert found.kinds["noise"].strengths == (1.0, 0.5, 1.0, 1.0, 1.0)
    assert found.held_out.strengths == (1.0, 1.0, 1.0, 1.0, 0.5)
    assert found.trained.strengths == pytest.approx((1, 0.9, 1, 1, 1))
    assert found.all.strengths == pytest.approx((1, 1 - 0.5 / 7, 1, 1, 1 - 1 / 7))
    assert found.all.mean == pytest.approx(1 - 1.5 / CASES)
    assert set(TRAINED) | set(HELD_OUT) == set(found.kinds)
