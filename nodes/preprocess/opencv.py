"""The CPU's preprocess: decode, grey, cut, resize. Also the reference with which other preprocessors are compared."""

import struct
import time
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

from pipeline.config import Config
from pipeline.config import Preprocess as Settings
from pipeline.config.model_file import TileRecipe
from pipeline.core.errors import BadImageError
from pipeline.core.frame import FrameRef
from pipeline.core.tiles import Box, Pixels, TiledFrame, grid


class OpenCvPreprocess:
    """Frames to tiles by OpenCV; see ``pipeline.core.tiles.Preprocess``."""

    name = "opencv-cpu"
    frames_at_once = 1  # a frame's tiles are complete before the next frame is begun

    def __init__(self, config: Config, recipe: TileRecipe) -> None:
        self._settings, self._side = config.preprocess, recipe.size_px
        self._max_pixels = config.limits.max_pixels

    def __call__(self, frames: Sequence[tuple[FrameRef, Pixels]]) -> list[TiledFrame]:
        found = []
        for ref, data in frames:
            frame = open_frame(ref, data, self._settings, self._max_pixels, self._side)
            frame.tiles = cut(frame.pixels, frame.boxes, self._side)
            frame.tiled_ns = time.monotonic_ns()
            found.append(frame)
        return found

    def adopt(self, camera: str, memory: Pixels) -> str:
        return ""


def open_frame(ref: FrameRef, data: Pixels, settings: Settings, max_pixels: int, side: int) -> TiledFrame:
    """Decode a frame and choose the boxes of its tiles, or give the reason why it is invalid; ``tiles`` is still empty.

    ``data``: uint8 (H, W) raw pixels, which are not copied, or (length,) bytes of an encoded image. ``side``: of a tile, px.
    Never raises for a bad image.
    """
    frame = TiledFrame(
        ref=ref,
        pixels=np.empty((0, 0), np.uint8),
        tiles=np.empty((0, side, side), np.uint8),
        boxes=(),
        columns=1,
        invalid=ref.meta.reason,
        received_ns=time.monotonic_ns(),
    )
    if not frame.invalid:
        try:
            frame.pixels = data if ref.meta.shape is not None else decode(data, max_pixels)
            frame.boxes, frame.columns = tile_boxes(settings, frame.pixels)
        except BadImageError as exc:
            frame.invalid = exc.reason
    return frame


def decode(data: Pixels, max_pixels: int) -> Pixels:
    """Bytes of a JPEG, PNG or BMP, uint8 (length,), -> grey pixels, uint8 (H, W).

    Raises ``BadImageError`` with the reason ``format``, ``truncated``, ``corrupt``, or ``too_large`` for over ``max_pixels``.

    The size is read from the header first. JPEGs go through libjpeg-turbo, which here treats every warning as an error:
    OpenCV returns a picture for a damaged file. For intact files both give the same pixels (all 1,530 NEU images).
    """
    kind, width, height = read_header(data.data)
    if width * height > max_pixels:
        raise BadImageError("too_large", f"{width} x {height} pixels is over limits.max_pixels ({max_pixels})")
    try:
        if kind == "jpeg":
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)[:, :, 0], np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    except (ValueError, cv2.error) as exc:
        cut_short = "Premature end of JPEG file" in str(exc)
        raise BadImageError("truncated" if cut_short else "corrupt", f"the {kind} cannot be decoded: {exc}") from exc
    if image is None or image.shape != (height, width):
        raise BadImageError("corrupt", f"the {kind} cannot be decoded")
    return np.asarray(image, np.uint8)


def tile_boxes(settings: Settings, pixels: Pixels) -> tuple[tuple[Box, ...], int]:
    """Boxes of the tiles of a frame, uint8 (H, W), and the number of tiles in a row."""
    height, width = pixels.shape
    if settings.layout == "whole":
        return ((0, 0, width, height),), 1
    return grid(width, height, settings.tile_px, settings.overlap_px)


def cut(pixels: Pixels, boxes: tuple[Box, ...], side: int) -> Pixels:
    """Cut and resize tiles: uint8 (H, W) -> uint8 (N, side, side), bilinear without antialiasing, rounded. Boxes are in the frame."""
    tiles = np.empty((len(boxes), side, side), np.uint8)
    for tile, (x, y, w, h) in zip(tiles, boxes, strict=True):
        part = pixels[y : y + h, x : x + w]
        if part.shape == tile.shape:
            np.copyto(tile, part)
        else:
            cv2.resize(part, (side, side), dst=tile, interpolation=cv2.INTER_LINEAR)
    return tiles


_SOF = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PNG = b"\x89PNG\r\n\x1a\n"


def read_header(data: memoryview) -> tuple[str, int, int]:
    """Kind (``"jpeg"``, ``"png"`` or ``"bmp"``), width and height in px of an encoded image; no pixel is decoded.

    Raises ``BadImageError`` with the reason ``format`` (none of the three), ``truncated`` (it ends too early, or lacks its end)
    or ``corrupt`` (a malformed header).
    """
    try:
        start = bytes(data[:8])
        if start.startswith(b"\xff\xd8\xff"):
            return ("jpeg", *_jpeg(data))
        if start == _PNG:
            return ("png", *_png(data))
        if start.startswith(b"BM"):
            return ("bmp", *_bmp(data))
    except (IndexError, struct.error):
        raise BadImageError("truncated", "the image ends within its header") from None
    raise BadImageError("format", "neither JPEG nor PNG nor BMP")


def _jpeg(data: memoryview) -> tuple[int, int]:
    at = 2
    while True:
        if data[at] != 0xFF:
            raise BadImageError("corrupt", "no JPEG marker where one should be")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 5)
            break
        if marker in (0xD9, 0xDA):
            raise BadImageError("corrupt", "a JPEG without a frame header")
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return _positive(width, height)


def _png(data: memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    if b"IEND" not in bytes(data):
        raise BadImageError("truncated", "the PNG has no end chunk")
    return _positive(width, height)


def _bmp(data: memoryview) -> tuple[int, int]:
    (size,) = struct.unpack_from("<I", data, 2)
    width, height = struct.unpack_from("<ii", data, 18)
    if size > len(data):
        raise BadImageError("truncated", f"the BMP has {len(data)} of {size} bytes")
    return _positive(width, abs(height))


def _positive(width: int, height: int) -> tuple[int, int]:
    if width < 1 or height < 1:
        raise BadImageError("corrupt", f"an image of {width} x {height} pixels")
    return width, height
