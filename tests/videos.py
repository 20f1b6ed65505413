"""Small videos, made where they are needed."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


def moving(count: int, width: int = 96, height: int = 64) -> list[NDArray[np.uint8]]:
    """Grey pictures of a smooth texture that moves, each different from the others."""
    y, x = np.mgrid[0:height, 0:width]
    return [(128 + 60 * np.sin((x + 3 * k) / 9) + 50 * np.cos((y + k) / 7)).astype(np.uint8) for k in range(count)]


def write_video(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    codec: str = "ffv1",
    pixels: str = "gray",
    fps: int = 25,
    gop: int = 12,
    b_frames: int = 0,
    stamps: Sequence[int] | None = None,
    index_first: bool = False,
    **options: str,
) -> Path:
    """Encode grey pictures; ``stamps``: times in frames, by default 0, 1, 2, ...; ``index_first``: of an MP4."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if index_first else {}) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = pictures[0].shape
        stream.pix_fmt = pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "gray").reformat(format=pixels)
            frame.pts, frame.time_base = k if stamps is None else stamps[k], Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """(position in the file, bytes) of each packet, in the order of decoding."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]


def damage(path: Path, packet: int) -> None:
    """Overwrite the second half of a packet with noise."""
    start, size = packets(path)[packet]
    data = bytearray(path.read_bytes())
    data[start + size // 2 : start + size] = np.random.default_rng(packet).bytes(size - size // 2)
    path.write_bytes(data)
