"""Small images for tests of data sets."""

from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, value: int = 90, size: tuple[int, int] = (30, 20)) -> None:
    """An image of one grey level, width x height pixels, in the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(size[::-1], value, np.uint8))
