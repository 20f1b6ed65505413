"""Image files as pixels, and pixels as tiles, just as the running line makes them."""

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ilcs_model.errors import DataError
from ilcs_model.info import TileRecipe

Tile = NDArray[np.uint8]

_JPEG: dict[str, str] = {"grey": "GRAY", "rgb": "RGB"}
_OTHERS = {"grey": cv2.IMREAD_GRAYSCALE, "rgb": cv2.IMREAD_COLOR_RGB}


def read_image(path: Path, decode: str = "grey") -> Tile:
    """One image as uint8: ``grey`` (H, W), ``rgb`` (H, W, 3). Raises ``DataError`` naming the file.

    A damaged JPEG is refused as the line does. Of 16 bits a channel the upper 8 count; transparency is left out.
    """
    try:
        data = np.fromfile(path, np.uint8)
        if not data.size:
            raise ValueError("it is empty")
        if data[:2].tobytes() == b"\xff\xd8":
            image = simplejpeg.decode_jpeg(data, colorspace=_JPEG[decode], strict=True)
            return np.asarray(image[:, :, 0] if decode == "grey" else image, np.uint8)
        image = cv2.imdecode(data, _OTHERS[decode])
    except (OSError, ValueError, cv2.error) as exc:
        raise DataError(f"{path}: not a readable image ({exc}); remove it or replace it") from exc
    if image is None:
        raise DataError(f"{path}: not a readable image; remove it or replace it")
    return np.asarray(image, np.uint8)


def to_tile(image: Tile, recipe: TileRecipe) -> Tile:
    """uint8 (H, W) or (H, W, 3) -> tile (S, S) or (S, S, 3) by the model's recipe."""
    side = recipe.size_px
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
