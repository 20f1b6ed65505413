"""Where in an image its defects are: from a mask file, or from boxes."""

from math import ceil, floor

import numpy as np

from ilcs_model.data.dataset import Dataset
from ilcs_model.data.images import Tile, read_image
from ilcs_model.errors import DataError


def mask_of(data: Dataset, index: int, shape: tuple[int, ...]) -> Tile | None:
    """The mask (H, W) of an image of ``shape`` (H, W, ...), bright where a defect is; None: there is none, or it is not known.

    Where there is no mask file, every pixel that a box touches is 255. Raises ``DataError`` naming a file of another size.
    """
    name = data.masks[index] if data.masks else ""
    if name == "none":
        return None
    height, width = shape[:2]
    if not name:
        boxes = data.boxes[index] if data.boxes else None
        return _filled(boxes, height, width) if boxes else None
    mask = read_image(data.root / name)
    if mask.shape != (height, width):
        h, w = mask.shape
        raise DataError(f"{data.root / name}: {w} x {h} pixels, but its image {data.files[index].name} has {width} x {height}")
    return mask


def is_clean(data: Dataset, index: int) -> bool:
    """Whether it is known that an image shows no defect."""
    name = data.masks[index] if data.masks else ""
    return name == "none" or (not name and bool(data.boxes) and data.boxes[index] == ())


def _filled(boxes: tuple[tuple[float, float, float, float], ...], height: int, width: int) -> Tile:
    mask = np.zeros((height, width), np.uint8)
    for x, y, w, h in boxes:
        mask[max(0, floor(y)) : max(0, ceil(y + h)), max(0, floor(x)) : max(0, ceil(x + w))] = 255
    return mask
