"""Preprocess by DALI, on a CUDA device or, to compare, on the CPU."""

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nodes.preprocess.cuda import Pinned
from nodes.preprocess.dali_graph import TileGraph
from nodes.preprocess.opencv import open_frame
from pipeline.config import Config
from pipeline.errors import NodeError
from pipeline.frame import FrameRef
from pipeline.model_file import Recipe
from pipeline.stage import Pixels, TiledFrame

_FAILURES = (RuntimeError, MemoryError)
_FULL = ("out of memory", "cudaerrormemoryallocation", "cuda_error_out_of_memory")
"""What DALI and CUDA say when the device's memory is full."""
_PROBE = np.zeros((2, 2), np.uint8), ((0, 0, 2, 2),)


class DaliPreprocess:
    """Frames to tiles by DALI; see ``pipeline.stage.Preprocess``.

    Encoded frames are decoded on the host, strictly: DALI gives a picture for a damaged JPEG. So a bad image never
    enters a batch. Should DALI fail all the same, the frames of that batch go one by one through a new graph.
    """

    def __init__(self, config: Config, recipe: Recipe, log: logging.Logger, backend: Literal["cpu", "gpu"]) -> None:
        """Builds the graph and runs it once. Raises what DALI or torch raise where they do not work (``RuntimeError``)."""
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
        """The frame that DALI cannot take becomes invalid.

        Raises ``NodeError`` if DALI does not work at all any more, or for want of memory: that is not the frame's fault.
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
