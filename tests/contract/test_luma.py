"""Decoded pictures become grey as the recipe says, whatever their pixel format."""

from typing import Any

import av
import cv2
import numpy as np
import pytest

from nodes.capture.sources.luma import to_grey


@pytest.mark.parametrize(
    ("name", "value", "full_range", "grey"),
    [
        ("gray", 77, None, 77),
        ("yuv420p", 16, None, 0),
        ("yuv420p", 235, None, 255),
        ("yuv420p", 126, None, 128),
        ("yuv420p", 77, True, 77),
        ("yuvj420p", 77, None, 77),
        ("gray", 235, False, 255),
        ("yuv420p10le", 940, None, 255),
        ("yuv420p10le", 504, None, 128),
        ("gray12le", 2056, None, 128),
        ("gray16be", 0x8080, None, 128),
    ],
)
def test_luma_of_every_depth_and_range_becomes_0_to_255(name: str, value: int, full_range: bool | None, grey: int) -> None:
    frame = av.VideoFrame(6, 4, name)
    plane: Any = frame.planes[0]
    kind = ">u2" if name.endswith("be") else "<u2" if name[-2:] == "le" else "u1"
    plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, value, kind).tobytes())
    if full_range is not None:
        frame.color_range = 2 if full_range else 1
    into = np.zeros((4, 6), np.uint8)

    to_grey(frame, into)

    assert (into == grey).all()


def test_colour_without_a_luma_plane_becomes_the_grey_of_the_recipe() -> None:
    colour = np.random.default_rng(5).integers(0, 256, (4, 6, 3), np.uint8)
    into = np.zeros((4, 6), np.uint8)

    to_grey(av.VideoFrame.from_ndarray(colour, "rgb24"), into)

    assert (into == cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)).all()
