"""Format and size of an encoded image from its first bytes, before anything is decoded. Pure."""

import struct

from pipeline.core.errors import BadImageError

_SOF = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PNG = b"\x89PNG\r\n\x1a\n"


def read_header(data: memoryview) -> tuple[str, int, int]:
    """(``"jpeg"``, ``"png"`` or ``"bmp"``, width, height).

    Raises ``BadImageError`` with reason ``format`` (none of the three) or ``truncated`` (it ends too early, or lacks its end).
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
