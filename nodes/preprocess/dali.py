"""Preprocess by DALI, on a CUDA device or, to compare, on the CPU."""

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from nvidia.dali import Pipeline, fn, types

from nodes.preprocess.opencv import open_frame
from pipeline.config import Config
from pipeline.config.model_file import TileRecipe
from pipeline.core.errors import NodeError
from pipeline.core.frame import FrameRef
from pipeline.core.tiles import Box, Pixels, TiledFrame
from pipeline.system.cuda import Pinned

INTERPOLATION = {"bilinear": types.INTERP_LINEAR}


class TileGraph:
    """A built DALI graph that cuts and resizes up to ``max_frames`` frames a call.

    The backend ``"gpu"`` runs on torch's current CUDA device. The constructor raises ``RuntimeError`` if DALI or CUDA does not
    work, ``AssertionError`` if torch was built without CUDA, ``ImportError`` if torch is not installed.
    """

    def __init__(self, recipe: TileRecipe, backend: Literal["cpu", "gpu"], max_frames: int) -> None:
        self._gpu = backend == "gpu"
        device_id = None
        if self._gpu:
            import torch
            from torch.utils.dlpack import from_dlpack

            torch.zeros(1, device="cuda")  # a context for this thread; says what is wrong if there is none
            device_id = torch.cuda.current_device()
            self._from_dlpack = from_dlpack
        # One batch in, the same batch out: nothing is prefetched, so no frame is held back.
        self._pipe = Pipeline(max_frames, num_threads=2, device_id=device_id, prefetch_queue_depth=1)
        with self._pipe:
            self._pipe.set_outputs(_tiles(recipe, backend))
        self._pipe.build()

    def __call__(self, frames: Sequence[Pixels], boxes: Sequence[tuple[Box, ...]]) -> list[Any]:
        """Tiles of each frame, uint8 (N, S, S): host arrays, or torch tensors on the device.

        ``frames``: uint8 (H, W), of any sizes. ``boxes``: at least one for each frame, all boxes of a frame of one size.
        Returns when the tiles are complete. Raises ``RuntimeError``; the graph cannot be used after that.
        """
        (found,) = self._pipe.run(frames=[frame[:, :, None] for frame in frames], **_windows(boxes))
        if self._gpu:
            return [self._from_dlpack(found[k])[..., 0] for k in range(len(frames))]
        return [np.asarray(found[k])[..., 0] for k in range(len(frames))]


def _tiles(recipe: TileRecipe, backend: Literal["cpu", "gpu"]) -> Any:
    """The graph: frames and places to cut -> uint8 (N, S, S, 1) for each frame."""
    frames = fn.external_source(name="frames", device=backend, dtype=types.UINT8, layout="HWC", no_copy=backend == "cpu")
    first, starts, extents, places, column, width, stack = (
        fn.external_source(name=name, dtype=types.INT32, ndim=ndim)
        for name, ndim in (("first", 1), ("starts", 2), ("extents", 2), ("places", 2), ("column", 1), ("width", 1), ("stack", 1))
    )
    cut = fn.multi_paste(frames, in_ids=first, in_anchors=starts, shapes=extents, out_anchors=places, output_size=column)
    cut = fn.slice(cut, start=(0,), shape=width, axes=(1,))
    side = recipe.size_px
    return fn.resize(
        fn.reshape(cut, shape=stack, layout="FHWC"),
        size=(side, side),
        interp_type=INTERPOLATION[recipe.resize],
        antialias=False,
    )


_WARP = 32
"""``multi_paste`` on a GPU (DALI 2.4.0) starts 32 threads for each 32 columns of its output and lets those beyond the last column
read past its table, until CUDA aborts the process. So the output's width is a multiple of this."""


def _windows(boxes: Sequence[tuple[Box, ...]]) -> dict[str, list[np.ndarray[Any, np.dtype[np.int32]]]]:
    """What the graph needs to know about each frame's tiles, by the names of its inputs."""
    found: dict[str, list[Any]] = {name: [] for name in ("first", "starts", "extents", "places", "column", "width", "stack")}
    for k, cut in enumerate(boxes):
        n, (_, _, w, h) = len(cut), cut[0]
        found["first"].append([k] * n)
        found["starts"].append([(y, x) for x, y, _, _ in cut])
        found["extents"].append([(h, w)] * n)
        found["places"].append([(i * h, 0) for i in range(n)])
        found["column"].append((n * h, -(-w // _WARP) * _WARP))
        found["width"].append((w,))
        found["stack"].append((n, h, w, 1))
    return {name: [np.array(row, np.int32) for row in rows] for name, rows in found.items()}


_FAILURES = (RuntimeError, MemoryError)
_FULL = ("out of memory", "cudaerrormemoryallocation", "cuda_error_out_of_memory")
"""What DALI and CUDA say when the device's memory is full."""
_PROBE = np.zeros((2, 2), np.uint8), ((0, 0, 2, 2),)


class DaliPreprocess:
    """Frames to tiles by DALI; see ``pipeline.core.tiles.Preprocess``.

    Encoded frames are decoded on the host, strictly: DALI returns a picture even for a damaged JPEG. So a bad image never
    enters a batch. If DALI fails all the same, the frames of that batch go one by one through a new graph. A call raises
    ``NodeError`` if DALI does not work any more or the device's memory is full.
    """

    def __init__(self, config: Config, recipe: TileRecipe, log: logging.Logger, backend: Literal["cpu", "gpu"]) -> None:
        """Builds the graph and runs it once. Raises what ``TileGraph`` raises if DALI or torch does not work."""
        self.name = f"dali-{backend}"
        self.frames_at_once = config.infer.max_batch
        self._settings, self._max_pixels = config.preprocess, config.limits.max_pixels
        self._recipe, self._backend, self._log = recipe, backend, log
        self._pinned: dict[str, Pinned] = {}
        self._build()

    def __call__(self, frames: Sequence[tuple[FrameRef, Pixels]]) -> list[TiledFrame]:
        found = [open_frame(ref, data, self._settings, self._max_pixels, self._recipe.size_px) for ref, data in frames]
        good = [frame for frame in found if not frame.invalid]
        if good:
            try:
                for frame, tiles in zip(good, self._run(good), strict=True):
                    frame.tiles = tiles
            except _FAILURES as exc:
                self._log.warning("DALI failed on a batch of %d frames, which now go one by one: %s", len(good), exc)
                self._one_by_one(good)
        now = time.monotonic_ns()
        for frame in found:
            frame.tiled_ns = now
        return found

    def adopt(self, camera: str, memory: Pixels) -> str:
        """See ``Preprocess``. Unpins the camera's former ring, from which no copy may be under way."""
        if self._backend == "cpu":
            return ""
        if (former := self._pinned.pop(camera, None)) is not None:
            former.close()
        pinned = self._pinned[camera] = Pinned(memory)
        return (
            f"copied by the driver, which does not pin it ({pinned.refusal})" if pinned.refusal else "pinned, read directly by the device"
        )

    def _run(self, frames: list[TiledFrame]) -> list[Any]:
        return self._graph([frame.pixels for frame in frames], [frame.boxes for frame in frames])

    def _one_by_one(self, frames: list[TiledFrame]) -> None:
        """Run each frame by itself; one that DALI cannot process becomes invalid.

        Raises ``NodeError`` if DALI does not work at all any more, or if memory is short: that is not the frame's fault.
        """
        self._rebuild()
        for frame in frames:
            try:
                (frame.tiles,) = self._run([frame])
            except _FAILURES as exc:
                if isinstance(exc, MemoryError) or any(text in str(exc).lower() for text in _FULL):
                    raise NodeError(
                        f"the device's memory is full: frame {frame.ref.meta.frame} of camera {frame.ref.meta.camera} does not fit"
                        f" ({exc}). Free memory on the GPU, lower infer.max_batch, or set preprocess.device to cpu"
                    ) from exc
                self._rebuild()
                self._log.warning(
                    "frame %d of camera %s is invalid, DALI fails on it: %s", frame.ref.meta.frame, frame.ref.meta.camera, exc
                )
                frame.invalid, frame.boxes, frame.columns = "corrupt", (), 1

    def _rebuild(self) -> None:
        try:
            self._build()
        except _FAILURES as exc:
            raise NodeError(f"DALI does not work any more: {exc}") from exc

    def _build(self) -> None:
        self._graph = TileGraph(self._recipe, self._backend, self.frames_at_once)
        pixels, boxes = _PROBE
        self._graph([pixels], [boxes])
