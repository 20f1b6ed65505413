"""Tiles: no pixel uninspected, nothing outside the frame."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.tiles import grid


@given(st.integers(1, 700), st.integers(1, 700), st.integers(16, 300), st.data())
def test_every_pixel_lies_in_a_tile_and_every_tile_in_the_frame(width: int, height: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile // 2))

    boxes, columns = grid(width, height, tile, overlap)

    seen = np.zeros((height, width), bool)
    for x, y, w, h in boxes:
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        seen[y : y + h, x : x + w] = True
    assert seen.all()
    assert len(boxes) % columns == 0


def test_the_last_column_is_shifted_inwards() -> None:
    boxes, columns = grid(900, 300, 300, 32)

    assert [b[0] for b in boxes] == [0, 268, 536, 600]
    assert columns == 4


def test_a_frame_smaller_than_a_tile_is_one_tile() -> None:
    assert grid(200, 100, 300, 0) == (((0, 0, 200, 100),), 1)
