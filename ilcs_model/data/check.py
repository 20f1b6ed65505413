"""Checks before a long run that need the pixels: broken files, the same picture twice, colour."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from ilcs_model.data.dataset import Dataset, mask_of
from ilcs_model.data.images import Tile, read_image
from ilcs_model.data.rows import OK, several
from ilcs_model.errors import DataError

MOST = 10  # files named in one message
SAMPLE = 64  # images that tell whether a data set is coloured
GRID = 32  # cells along an image's side
LEVELS = 16  # a cell is coloured when two of its channels differ by more grey levels
CELLS = 0.01  # share of an image's cells that makes it coloured
IMAGES = 0.1  # share of coloured images that makes the data set coloured


class _Seen(NamedTuple):
    problem: str = ""
    digest: str = ""
    cut: bool = False
    """Whether a box reaches more than a pixel beyond the image."""


def check_images(data: Dataset, rows: Sequence[int] | None = None) -> tuple[str, ...]:
    """Decode every image and mask once and return remarks, such as identical images in different splits; () if there are none.

    ``rows`` are the indices into ``data.files`` to look at; None: all. Works in one thread per core and takes less time than
    making the tiles of an epoch. Raises ``DataError`` naming up to ten files that cannot be used.
    """
    rows = range(len(data.files)) if rows is None else rows
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = list(pool.map(lambda index: _look(data, index), rows))
    if bad := [s.problem for s in seen if s.problem]:
        more = f"\nand {len(bad) - MOST} more" if len(bad) > MOST else ""
        raise DataError(f"{len(bad)} of {len(seen)} images cannot be used:\n" + "\n".join(bad[:MOST]) + more)
    remarks = _twins(data, {i: s.digest for i, s in zip(rows, seen, strict=True)})
    if cut := [data.files[i].name for i, s in zip(rows, seen, strict=True) if s.cut]:
        remarks.append(f"boxes of {len(cut)} images reach beyond the image and are cut off there: {several(cut)}")
    return tuple(remarks)


def _look(data: Dataset, index: int) -> _Seen:
    path = data.files[index]
    try:
        image = read_image(path)
        # OpenCV would take the first of several pictures in silence.
        if path.suffix.lower() in (".tif", ".tiff", ".webp", ".png") and (count := cv2.imcount(str(path))) > 1:
            return _Seen(f"{path}: holds {count} pictures; save the one that counts as a file of its own")
        mask = mask_of(data, index, image.shape)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (DataError, OSError) as exc:
        return _Seen(str(exc))
    boxes = (data.boxes[index] if data.boxes else None) or ()
    if boxes and data.sizes and (size := data.sizes[index]) and size != image.shape[::-1]:
        return _Seen(
            f"{path}: has {image.shape[1]} x {image.shape[0]} pixels, its boxes were drawn on {size[0]:g} x {size[1]:g};"
            f" bring back the image that was annotated, or annotate this one"
        )
    if mask is not None and mask.max() <= 127 and data.classes[data.labels[index]] != OK:
        if data.masks and data.masks[index]:
            found = "all black" if mask.max() == 0 else f"nothing above 127 in it (the most is {mask.max()}, white is 255)"
            return _Seen(f"{data.root / data.masks[index]}: {found}, but {path.name} shows a defect; mend it, or write none for it")
        return _Seen(f"{path}: its boxes lie outside the image; is it the right annotation?")
    height, width = image.shape
    return _Seen("", digest, any(x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1 for x, y, w, h in boxes))


def _twins(data: Dataset, digests: dict[int, str]) -> list[str]:
    """Remarks on byte-identical images: between splits, where they make a test worth less, and others."""
    same = defaultdict(list)
    for index, digest in digests.items():
        same[digest].append(index)
    leaks: list[str] = []
    others: list[str] = []
    for group in (g for g in same.values() if len(g) > 1):
        text = " = ".join(f"{data.files[i].name} ({data.classes[data.labels[i]]}, {data.splits[i]})" for i in group)
        (leaks if len({data.splits[i] for i in group}) > 1 else others).append(text)
    remarks = [f"byte-identical images in different splits, so accuracy looks better than it is: {several(leaks)}"] if leaks else []
    return remarks + ([f"byte-identical images: {several(others)}"] if others else [])


def has_colour(data: Dataset) -> bool:
    """Whether at least a tenth of up to 64 images, evenly spread over the data, is coloured.

    An image is coloured when on a 32 x 32 grid of averages at least one cell in a hundred has channels more than 16 levels
    apart. So neither noise nor JPEG makes colour of a grey picture saved as RGB. Raises ``DataError`` naming an image that
    cannot be read.
    """
    chosen = np.linspace(0, len(data.files) - 1, min(SAMPLE, len(data.files))).astype(int)
    return float(np.mean([_coloured(read_image(data.files[i], "rgb")) for i in chosen])) >= IMAGES


def _coloured(image: Tile) -> bool:
    cells = cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(int)
    return float(np.mean(np.ptp(cells, axis=2) > LEVELS)) >= CELLS
