"""Checks whether an exported network answers as the trained one does."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from nodes.infer.engines.contract import Network, Output, softmax
from nodes.infer.engines.golden_tiles import TOLERANCE
from pipeline.core.errors import LinepipeError
from pipeline.core.tiles import Pixels

BATCH = 16
CELLS = 0.05
"""Share of the maps' cells that may be a defect for only one of the two networks. With ``ilcs-line`` bfloat16 moves 0.008
of those of golden tiles and 0.005 of those of NEU's images."""


class Differing(msgspec.Struct, frozen=True, kw_only=True):
    """An image to which the two networks give different labels."""

    file: str
    trained: str
    """Label by the trained network, in float32."""
    exported: str
    """Label by what was exported."""
    margin: float
    """How much higher the trained network's best score is than its score of the exported label, 0..1: small for a near tie."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The exported network compared with the trained one, over some tiles."""

    tiles: int
    """Number of tiles."""
    largest_difference: float
    """Largest difference of a probability, 0..1; up to 2 if the exported network gives values that are not finite."""
    labels_that_differ: tuple[Differing, ...]
    cells_that_differ: float | None
    """Share of the maps' cells that are a defect for only one of the two networks; None from networks that do not locate."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, and whether the export may be used."""

    golden: Compared
    """Over the golden tiles."""
    images: Compared | None
    """Over a data set; None if none was given."""
    data: str | None
    """Name of the data set's folder."""
    split: str | None
    """The split that was compared; None: all images."""

    @property
    def holds(self) -> bool:
        """Whether each image keeps its label, golden tiles (noise, whose labels may change) keep ``TOLERANCE``, and maps ``CELLS``."""
        parts = [self.golden] if self.images is None else [self.golden, self.images]
        same_labels = self.images is None or not self.images.labels_that_differ
        return same_labels and self.golden.largest_difference <= TOLERANCE and all((p.cells_that_differ or 0) <= CELLS for p in parts)


class Named(NamedTuple):
    """Some tiles, with a name for each."""

    names: list[str]
    tiles: Pixels
    """uint8 (N, S, S)"""


def batches(files: Iterable[Path], to_tile: Callable[[Path], Pixels]) -> Iterator[Named]:
    """Read images as tiles, ``BATCH`` at a time. Raises what ``to_tile`` raises."""
    waiting = list(files)
    for start in range(0, len(waiting), BATCH):
        group = waiting[start : start + BATCH]
        yield Named([str(file) for file in group], np.stack([to_tile(file) for file in group]))


def compare(exported: Network, trained: Callable[[Pixels], Output], given: Iterable[Named], classes: tuple[str, ...]) -> Compared:
    """Have both networks judge the tiles ``given``, and compare their answers. ``classes``: of the model, in order.

    Raises ``LinepipeError`` if their answers have different shapes, and what the networks raise.
    """
    tiles, largest, cells, cells_off = 0, 0.0, 0, 0
    differing: list[Differing] = []
    for names, batch in given:
        right, found = trained(batch), exported(exported.gather(list(batch)))
        _same_shapes(right, found)
        a, b = softmax(right.logits), softmax(found.logits)
        b = np.where(np.isfinite(b), b, -1.0)  # not a number: as wrong as can be
        tiles += len(names)
        largest = max(largest, float(np.abs(a - b).max()))
        for k in np.flatnonzero((a.argmax(1) != b.argmax(1)) | (b < 0).any(1)):
            label, other = int(a[k].argmax()), int(b[k].argmax())
            margin = float(a[k][label] - a[k][other])
            differing.append(Differing(file=names[k], trained=classes[label], exported=classes[other], margin=margin))
        if right.maps is not None and found.maps is not None:
            cells += right.maps.size
            cells_off += int(((right.maps > 0) != (found.maps > 0)).sum())
    return Compared(
        tiles=tiles,
        largest_difference=largest,
        labels_that_differ=tuple(differing),
        cells_that_differ=cells_off / cells if cells else None,
    )


def _same_shapes(right: Output, found: Output) -> None:
    for name, a, b in zip(Output._fields, right, found, strict=True):
        shapes = [None if part is None else part.shape for part in (a, b)]
        if shapes[0] != shapes[1]:
            raise LinepipeError(f"what was exported gives {name} of shape {shapes[1]}, the trained network {shapes[0]}")
