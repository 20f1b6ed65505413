"""Small images for tests of data sets."""

from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, value: int = 90) -> None:
    """An image of one grey level, 30 x 20 pixels, in the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((20, 30), value, np.uint8))
