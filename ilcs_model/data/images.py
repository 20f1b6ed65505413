"""Image files as pixels, and pixels as tiles, just as the running line makes them."""

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ilcs_model.errors import DataError
from ilcs_model.info import Recipe

Tile = NDArray[np.uint8]


def read_image(path: Path) -> Tile:
    """One image as grey uint8 (H, W), a damaged JPEG refused as the line does. Raises ``DataError`` naming the file."""
    try:
        data = np.fromfile(path, np.uint8)
        if data[:2].tobytes() == b"\xff\xd8":
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)[:, :, 0], np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    except (OSError, ValueError, cv2.error) as exc:
        raise DataError(f"{path}: not a readable image ({exc}); remove it or replace it") from exc
    if image is None:
        raise DataError(f"{path}: not a readable image; remove it or replace it")
    return np.asarray(image, np.uint8)


def to_tile(image: Tile, recipe: Recipe) -> Tile:
    """Grey uint8 (H, W) -> tile (S, S) by the model's recipe."""
    side = recipe.size_px
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
