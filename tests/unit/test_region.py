"""The part of a frame that is judged: edges are found, masks are kept out."""

import numpy as np

from nodes.capture.sources.sim.strip import Strip
from nodes.infer.join_tiles import Region, find_edges, region_of
from pipeline.config import Camera


def test_the_edges_of_a_strip_on_a_dark_table_are_found() -> None:
    strip = Strip(5, 900, 300)
    for frame in range(0, 60, 7):
        left, right = find_edges(strip.render(frame))

        assert abs(left - (40 + strip.shift(frame))) <= 2
        assert abs(right - (860 + strip.shift(frame))) <= 2


def test_a_frame_that_shows_strip_only_has_its_own_edges() -> None:
    frame = np.random.default_rng(0).integers(110, 150, (300, 400), np.uint8)

    assert find_edges(frame) == (0, 400)
    assert find_edges(np.zeros((5, 1), np.uint8)) == (0, 1)


def test_a_tile_is_judged_unless_nothing_of_it_is_material() -> None:
    region = Region(100, 300, ((150, 0, 100, 100),))

    assert not region.touches((0, 0, 100, 100))
    assert region.touches((1, 0, 100, 100))
    assert not region.touches((160, 10, 50, 50))
    assert region.touches((160, 60, 50, 50))


def test_edges_are_looked_for_only_when_asked() -> None:
    frame = np.full((10, 20), 200, np.uint8)
    frame[:, :5] = 0
    plain, auto = (Camera(source="sim:strip", edges=edges, ignore_px=((1, 2, 3, 4),)) for edges in ("none", "auto"))

    assert region_of(plain, frame) == Region(0, 20, ((1, 2, 3, 4),))
    assert region_of(auto, frame) == Region(5, 20, ((1, 2, 3, 4),))
