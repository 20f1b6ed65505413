"""Training tiles by DALI: the crops, flips, blur and light of ``augment``, on the GPU where there is one.

The numbers are those of ``augment.draw``, so a seed gives the same tiles (to 2 of 255 grey levels) by either loader.
Images are read by ``read_image``: DALI would give a picture for a damaged JPEG. Tiles that are corrupted are made by
OpenCV; DALI only passes them through. Importing this module raises ``ImportError`` where DALI is not installed.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch.utils.dlpack import from_dlpack

from ilcs_model.data.augment import Draw, augment
from ilcs_model.data.dataset import Dataset
from ilcs_model.data.images import Tile, read_image
from ilcs_model.data.loader import Batch, Epoch, ahead, answers, draw_group, epoch_groups

INTERPOLATION = {"bilinear": types.INTERP_LINEAR}


def dali_batches(data: Dataset, epoch: Epoch, *, device: Literal["cpu", "cuda"]) -> Iterator[Batch]:
    """One epoch of the batches of ``loader.train_batches``; labels and maps on the CPU.

    The tiles, uint8 (N, 1 or 3, S, S), are on ``device``, for ``cuda`` on torch's current GPU. The graph is built by this call;
    a thread then makes up to two batches ahead. Iterating raises ``DataError`` naming an image or mask that cannot be read.
    """
    groups = epoch_groups(data, epoch)
    graph = _build(epoch, max(len(g) for g in groups), device)

    def make(group: NDArray[np.int64]) -> Batch:
        images = [read_image(data.files[i], epoch.recipe.decode) for i in group]
        drawn = draw_group(data, group, [image.shape for image in images], epoch)
        fed = [_inputs(image, d) for image, d in zip(images, drawn, strict=True)]
        (found,) = graph.run(**{name: [one[name] for one in fed] for name in fed[0]})
        tiles = torch.stack([from_dlpack(found[k]) for k in range(len(group))])
        if device == "cuda":
            torch.cuda.current_stream().synchronize()  # DALI takes its memory back in a stream of its own, torch copies in this one
        return Batch(tiles.permute(0, 3, 1, 2), *answers(data, group, drawn, epoch))

    return ahead(groups, make, workers=1)  # a graph runs in one thread at a time


def _build(epoch: Epoch, batch: int, device: Literal["cpu", "cuda"]) -> Any:
    """The graph: images and what was drawn for each -> tiles, uint8 (S, S, C)."""
    where = "gpu" if device == "cuda" else "cpu"
    graph = Pipeline(batch, num_threads=2, device_id=torch.cuda.current_device() if device == "cuda" else None, prefetch_queue_depth=1)
    with graph:
        images = fn.external_source(name="images", device=where, dtype=types.UINT8, layout="HWC")
        matrix = fn.external_source(name="matrix", dtype=types.FLOAT, ndim=2)
        sigma = fn.external_source(name="sigma", dtype=types.FLOAT, ndim=0)
        window = fn.external_source(name="window", dtype=types.INT32, ndim=0)
        gain = fn.external_source(name="gain", device=where, dtype=types.FLOAT, ndim=3)
        offset = fn.external_source(name="offset", device=where, dtype=types.FLOAT, ndim=3)
        side = epoch.side or epoch.recipe.size_px
        tiles = fn.warp_affine(images, matrix=matrix, size=(side, side), interp_type=INTERPOLATION[epoch.recipe.resize])
        tiles = fn.gaussian_blur(tiles, sigma=sigma, window_size=window)
        middle = fn.reductions.mean(tiles, axes=(0, 1, 2), keep_dims=True)
        graph.set_outputs(fn.cast((tiles - middle) * gain + middle + offset, dtype=types.UINT8))
    graph.build()
    return graph


def _inputs(image: Tile, drawn: Draw) -> dict[str, Any]:
    """One image and its augmentation as the inputs of the graph."""
    if drawn.corruptions:
        image, drawn = augment(image, drawn), Draw(drawn.side, np.eye(2, 3))  # which leaves the tile unchanged
    matrix = drawn.matrix.copy()
    matrix[:, 2] += 0.5 - 0.5 * (matrix[:, 0] + matrix[:, 1])  # DALI counts from the corner of the first pixel, OpenCV from its centre
    return {
        "images": image.reshape(*image.shape[:2], -1),
        "matrix": matrix.astype(np.float32),
        # OpenCV's window for 8-bit images; a window of 1 leaves the tile as it is.
        "window": np.array(round(6 * drawn.sigma + 1) | 1 if drawn.sigma else 1, np.int32),
        "sigma": np.array(drawn.sigma or 1.0, np.float32),
        "gain": np.full((1, 1, 1), drawn.gain, np.float32),
        "offset": np.full((1, 1, 1), drawn.offset, np.float32),
    }
