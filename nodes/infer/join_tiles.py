"""Joins the labelled tiles of a frame into defects: touching tiles of one label become one. Pure."""

from typing import NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from nodes.infer.tile_labels import Rules, label_tiles
from pipeline.config import Camera
from pipeline.core.frame import NEAR_PX
from pipeline.core.tiles import Box, Pixels

LEAST_CONTRAST = 15.0  # grey levels between strip and surroundings; with less, the whole frame is taken for strip
_EVERY = 4  # only each 4th row is examined


class Region(NamedTuple):
    """The inspected part of a frame: columns ``left`` to ``right`` (exclusive), px, without the ``ignored`` boxes."""

    left: int
    right: int
    ignored: tuple[Box, ...]

    def holds(self, box: Box) -> bool:
        """Whether the middle of a box is in the region."""
        x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
        masked = any(left <= x < left + w and top <= y < top + h for left, top, w, h in self.ignored)
        return self.left <= x < self.right and not masked

    def touches(self, box: Box) -> bool:
        """Whether a tile has anything to judge: part of it is between the edges, and no single ignored box covers it."""
        x, y, w, h = box
        masked = any(left <= x and top <= y and x + w <= left + mw and y + h <= top + mh for left, top, mw, mh in self.ignored)
        return x < self.right and x + w > self.left and not masked


def region_of(camera: Camera, pixels: Pixels) -> Region:
    """The region of one frame, uint8 (H, W): with ``edges: auto`` between the strip's edges, else the whole width."""
    left, right = find_edges(pixels) if camera.edges == "auto" else (0, pixels.shape[1])
    return Region(left, right, camera.ignore_px)


def find_edges(pixels: Pixels) -> tuple[int, int]:
    """First column of the strip and the first one after it, in a frame uint8 (H, W). The strip is brighter than its surroundings.

    A column belongs to the strip if its mean is above the middle between the darkest column's and the median of all. With less
    than ``LEAST_CONTRAST`` between these two, the whole width is returned.
    """
    columns = pixels[::_EVERY].mean(axis=0)
    dark, bright = float(columns.min()), float(np.median(columns))
    if bright - dark < LEAST_CONTRAST:
        return 0, len(columns)
    strip = np.flatnonzero(columns > (dark + bright) / 2)
    return int(strip[0]), int(strip[-1]) + 1


SOLID = 0.15
"""Patches of a map with less than this share of the strongest patch's sum count as noise. With them, 86 % of the simulator's
validation tiles are placed within 5 mm; without them, 98 %."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One defect: touching tiles of one label whose parts of it are near each other."""

    label: str
    score: float
    scores: dict[str, float]
    """Score of each class, of the tile with the highest score."""
    box: Box
    """Where it is in the frame."""
    tile: Box
    """The tile with the highest score."""


class Tiles(NamedTuple):
    """The tiles of one frame, row by row, with what the network says of them."""

    boxes: tuple[Box, ...]
    columns: int
    """Tiles in a row."""
    judged: list[int]
    """Indices of the tiles that the network judged; the others are outside of the region."""
    scores: NDArray[np.float32]
    """(N, K)"""
    maps: NDArray[np.float32] | None
    """(N, h, w), above 0 where the defect is; None from a network that does not locate."""


def find_defects(tiles: Tiles, rules: Rules, region: Region) -> list[Found]:
    """Defects of one frame.

    A tile is a defect when the score of its best class reaches that class's ``min_score``; with a class ``ok``, when
    1 - p(ok) does, and its label is the best of the others. Tiles of one label that touch (4-neighbours) are one defect, if
    what their maps show is at most ``NEAR_PX`` apart; its box is the union of that, or of the tiles. Dropped: what is
    smaller than its class's ``min_size_px`` in its longer side, and what has its middle outside of ``region``.
    """
    labels, tile_scores = label_tiles(tiles.scores, rules.classes)
    bad = {k for k in tiles.judged if tile_scores[k] >= rules.min_score[labels[k]]}
    places = {k: _place(tiles, k) for k in bad}
    found = []
    while bad:
        group = _grow(min(bad), bad, labels, places, tiles.columns)
        bad -= group
        best = max(group, key=lambda k: (tile_scores[k], -k))
        box = _union([places[k] for k in sorted(group)])
        if max(box[2:]) < rules.min_size_px[labels[best]] or not region.holds(box):
            continue
        found.append(
            Found(
                label=rules.classes[labels[best]],
                score=round(float(tile_scores[best]), 6),
                scores={c: round(float(s), 6) for c, s in zip(rules.classes, tiles.scores[best], strict=True)},
                box=box,
                tile=tiles.boxes[best],
            )
        )
    return found


def _place(tiles: Tiles, k: int) -> Box:
    """Where the defect of a tile is in the frame: the box around its map's patches, or the whole tile if there are none."""
    x, y, w, h = tiles.boxes[k]
    found = [] if tiles.maps is None else patches(tiles.maps[k], w, h)
    if not found:
        return tiles.boxes[k]
    left, top, width, height = _union(found)
    return x + left, y + top, width, height


def patches(cells: NDArray[np.float32], w: int, h: int) -> list[Box]:
    """The patches of a map, float32 (rows, columns), each as a box in px of the ``w`` x ``h`` px area that the map covers.

    A patch is a group of cells above 0 (8-neighbours) with at least ``SOLID`` of the strongest patch's sum.
    """
    rows, columns = cells.shape
    count, patch, spans, _ = cv2.connectedComponentsWithStats((cells > 0).astype(np.uint8), connectivity=8)
    sums = np.bincount(patch.ravel(), weights=np.maximum(cells, 0).ravel(), minlength=count)
    found = []
    for left, top, width, height, _ in spans[1:][sums[1:] >= SOLID * sums[1:].max(initial=0)].tolist():
        x, end_x = _edge(left, columns, w), _edge(left + width, columns, w)
        y, end_y = _edge(top, rows, h), _edge(top + height, rows, h)
        found.append((x, y, end_x - x, end_y - y))
    return found


def _edge(cell: int, cells: int, size: int) -> int:
    """Where a cell of a map begins, px, along a side of ``size`` px."""
    # 37 cells of 8 pixels are 296 of 300: the last one also covers the rest.
    return size if cell == cells else round(cell * size / (cells + 0.5))


def _grow(start: int, bad: set[int], labels: NDArray[np.int64], places: dict[int, Box], columns: int) -> set[int]:
    """The tiles of ``bad`` connected to ``start`` with its label, their parts near each other."""
    group, edge = {start}, [start]
    while edge:
        k = edge.pop()
        near = [k - columns, k + columns]
        if k % columns > 0:
            near.append(k - 1)
        if k % columns < columns - 1:
            near.append(k + 1)
        for n in near:
            if n in bad and n not in group and labels[n] == labels[start] and _near(places[k], places[n]):
                group.add(n)
                edge.append(n)
    return group


def _near(a: Box, b: Box) -> bool:
    """Whether two boxes are at most ``NEAR_PX`` apart in both directions."""
    across = max(a[0], b[0]) - min(a[0] + a[2], b[0] + b[2])
    along = max(a[1], b[1]) - min(a[1] + a[3], b[1] + b[3])
    return max(across, along) <= NEAR_PX


def _union(boxes: list[Box]) -> Box:
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    return left, top, right - left, bottom - top
