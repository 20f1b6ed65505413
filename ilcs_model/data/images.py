"""Image files as pixels, and pixels as tiles, exactly as the running line makes them."""

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
    """Read one image file as uint8: (H, W) for ``grey``, (H, W, 3) in the order R, G, B for ``rgb``.

    Of 16 bits a channel the upper 8 are taken; transparency is left out; of several pictures in a file the first is taken. A
    JPEG is decoded strictly, as on a line: one with any damage is refused. Raises ``DataError`` naming the file if it cannot be
    read or decoded. ``decode`` must be ``grey`` or ``rgb``, else ``KeyError``.
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
    """uint8 image (H, W) or (H, W, 3) -> uint8 tile (S, S) or (S, S, 3), the whole image resized to ``recipe.size_px``.

    Bilinear, without antialiasing; the sides are not kept in proportion.
    """
    side = recipe.size_px
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
