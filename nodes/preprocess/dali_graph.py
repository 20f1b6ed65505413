"""The DALI graph that makes tiles of grey frames: cut, resize, uint8 out. The only file of the nodes that imports DALI.

A frame is one sample. Its tiles are pasted one below the other into a column, which read as (N, h, w) is the stack of
tiles: each frame goes to the device once, and only its tiles are copied there.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from nvidia.dali import Pipeline, fn, types

from pipeline.model_file import Recipe
from pipeline.stage import Box, Pixels

INTERPOLATION = {"bilinear": types.INTERP_LINEAR}


class TileGraph:
    """A built graph. ``backend`` ``"gpu"`` runs on torch's current CUDA device."""

    def __init__(self, recipe: Recipe, backend: Literal["cpu", "gpu"], max_frames: int) -> None:
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

        ``frames``: uint8 (H, W), of any sizes. ``boxes``: for each frame at least one, all of one size. Returns when
        the tiles are there. Raises ``RuntimeError``; the graph cannot be used after that.
        """
        (found,) = self._pipe.run(frames=[frame[:, :, None] for frame in frames], **_windows(boxes))
        if self._gpu:
            return [self._from_dlpack(found[k])[..., 0] for k in range(len(frames))]
        return [np.asarray(found[k])[..., 0] for k in range(len(frames))]


def _tiles(recipe: Recipe, backend: Literal["cpu", "gpu"]) -> Any:
    """The graph: frames and where to cut -> (N, S, S, 1) a frame."""
    frames = fn.external_source(name="frames", device=backend, dtype=types.UINT8, layout="HWC", no_copy=backend == "cpu")
    first, starts, extents, places, column, stack = (
        fn.external_source(name=name, dtype=types.INT32, ndim=ndim)
        for name, ndim in (("first", 1), ("starts", 2), ("extents", 2), ("places", 2), ("column", 1), ("stack", 1))
    )
    cut = fn.multi_paste(frames, in_ids=first, in_anchors=starts, shapes=extents, out_anchors=places, output_size=column)
    side = recipe.size_px
    return fn.resize(
        fn.reshape(cut, shape=stack, layout="FHWC"),
        size=(side, side),
        interp_type=INTERPOLATION[recipe.resize],
        antialias=False,
    )


def _windows(boxes: Sequence[tuple[Box, ...]]) -> dict[str, list[np.ndarray[Any, np.dtype[np.int32]]]]:
    """What the graph must know of each frame's tiles, by the names of its inputs."""
    found: dict[str, list[Any]] = {name: [] for name in ("first", "starts", "extents", "places", "column", "stack")}
    for k, cut in enumerate(boxes):
        n, (_, _, w, h) = len(cut), cut[0]
        found["first"].append([k] * n)
        found["starts"].append([(y, x) for x, y, _, _ in cut])
        found["extents"].append([(h, w)] * n)
        found["places"].append([(i * h, 0) for i in range(n)])
        found["column"].append((n * h, w))
        found["stack"].append((n, h, w, 1))
    return {name: [np.array(row, np.int32) for row in rows] for name, rows in found.items()}
