"""Decoded pictures as grey pixels, the way every source that decodes by FFmpeg gives them."""

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_LUMA_FIRST = re.compile(r"(gray|yuvj?a?4\d\dp)(\d+)?(le|be)?")
_LIMITED, _FULL = 1, 2  # FFmpeg's AVCOL_RANGE


def to_grey(frame: Any, into: NDArray[np.uint8]) -> None:
    """Write the luma of a PyAV frame into ``into``, uint8 (H, W), full range 0..255; formats without a luma plane by ITU-R 601."""
    name = frame.format.name
    match = _LUMA_FIRST.fullmatch(name)
    if match is None:
        np.copyto(into, cv2.cvtColor(frame.to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY))
        return
    bits = int(match[2] or 8)
    kind: np.dtype[np.integer] = np.dtype(np.uint8 if bits == 8 else ">u2" if match[3] == "be" else "<u2")
    plane = frame.planes[0]
    rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)[: frame.height, : frame.width]
    grey_or_full = match[1] == "gray" or match[1].startswith("yuvj")
    limited = frame.color_range == _LIMITED or (frame.color_range != _FULL and not grey_or_full)
    if bits == 8 and not limited:
        np.copyto(into, rows)
    elif bits == 8:
        cv2.LUT(rows, _levels(bits, limited), dst=into)
    else:
        np.take(_levels(bits, limited), rows, out=into, mode="clip")


def _levels(bits: int, limited: bool) -> NDArray[np.uint8]:
    """What each luma value becomes: uint8 (2 ** bits,)."""
    values = np.arange(1 << bits, dtype=np.float64)
    low, span = (16 << (bits - 8), 219 << (bits - 8)) if limited else (0, (1 << bits) - 1)
    return np.clip(np.rint((values - low) * 255 / span), 0, 255).astype(np.uint8)
