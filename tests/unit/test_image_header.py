"""What an image claims to be is checked before a single pixel is decoded."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.preprocess.opencv import decode, read_header
from pipeline.core.errors import BadImageError

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
ENCODED = {kind: cv2.imencode(f".{kind}", PICTURE)[1].tobytes() for kind in ("jpeg", "png", "bmp")}


def reason(data: bytes, max_pixels: int = 10_000) -> str:
    """Why ``data`` is refused; empty if it is decoded."""
    try:
        decode(np.frombuffer(data, np.uint8), max_pixels)
    except BadImageError as exc:
        return exc.reason
    return ""


@pytest.mark.parametrize("kind", ENCODED)
def test_whole_images_are_read(kind: str) -> None:
    assert read_header(memoryview(ENCODED[kind])) == (kind, 60, 40)
    pixels = decode(np.frombuffer(ENCODED[kind], np.uint8), 10_000)
    assert pixels.shape == (40, 60)
    assert pixels.dtype == np.uint8
    if kind != "jpeg":
        assert (pixels == PICTURE).all()


@pytest.mark.parametrize("kind", ENCODED)
def test_an_image_cut_off_anywhere_is_never_inspected(kind: str) -> None:
    """OpenCV alone returns a picture for most of these."""
    data = ENCODED[kind]
    for length in range(1, len(data) - 2, max(1, len(data) // 97)):
        assert reason(data[:length]) in ("truncated", "corrupt", "format"), length


def test_a_jpeg_that_was_cut_and_given_an_end_marker_is_corrupt() -> None:
    data = ENCODED["jpeg"]
    assert reason(data[: len(data) // 2] + b"\xff\xd9") == "corrupt"


def test_bytes_behind_a_whole_image_harm_nothing() -> None:
    for data in ENCODED.values():
        assert reason(data + b"\0" * 200) == ""


def test_a_png_with_a_flipped_bit_is_corrupt() -> None:
    data = bytearray(ENCODED["png"])
    data[len(data) // 2] ^= 1
    assert reason(bytes(data)) == "corrupt"


def test_text_is_not_an_image() -> None:
    assert reason(b"this is a text file named .jpg\n" * 10) == "format"


def test_a_huge_image_is_refused_by_its_header() -> None:
    """30,000 x 30,000 pixels in 100 bytes: decoding it would take 900 MB."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IEND\xaeB`\x82"
    assert reason(bomb, max_pixels=50_000_000) == "too_large"
    assert reason(ENCODED["jpeg"], max_pixels=60 * 40 - 1) == "too_large"


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"]))
def test_garbage_is_refused_with_a_reason_and_nothing_else(data: bytes, start: bytes) -> None:
    assert reason(start + data) != ""
