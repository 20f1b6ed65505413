"""Training tiles by DALI: the crops, flips, blur and light of ``augment``, on the GPU where there is one.

The numbers are those of ``augment.draw``, so a seed gives the same tiles (to 2 of 255 grey levels) by either
loader. Images are read by ``read_image``: DALI would give a picture for a damaged JPEG.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types

from ilcs_model.data.augment import Draw
from ilcs_model.data.dataset import Dataset
from ilcs_model.data.images import read_image
from ilcs_model.data.loader import Batch, ahead, answers, draw_group, epoch_groups
from ilcs_model.info import Recipe

INTERPOLATION = {"bilinear": types.INTERP_LINEAR}


def dali_batches(data: Dataset, recipe: Recipe, batch: int, seed: tuple[int, ...], *, device: Literal["cpu", "cuda"]) -> Iterator[Batch]:
    """One epoch as ``loader.train_batches`` gives it, its tiles on ``device``."""
    groups = epoch_groups(data, batch, seed)
    graph = _build(recipe, max(len(g) for g in groups), device)

    def make(group: NDArray[np.int64]) -> Batch:
        images = [read_image(data.files[i]) for i in group]
        drawn = draw_group(data, group, [image.shape for image in images], recipe, seed)
        fed = [_inputs(d) for d in drawn]
        inputs = {name: [one[name] for one in fed] for name in fed[0]}
        (found,) = graph.run(images=[image[:, :, None] for image in images], **inputs)
        tiles = torch.stack([torch.from_dlpack(found[k]) for k in range(len(group))])
        return Batch(tiles.permute(0, 3, 1, 2), *answers(data, group, drawn, recipe))

    return ahead(groups, make)


def _build(recipe: Recipe, batch: int, device: Literal["cpu", "cuda"]) -> Any:
    """The graph: grey images and what was drawn for each -> tiles, uint8 (S, S, 1)."""
    where = "gpu" if device == "cuda" else "cpu"
    graph = Pipeline(batch, num_threads=2, device_id=torch.cuda.current_device() if device == "cuda" else None, prefetch_queue_depth=1)
    with graph:
        images = fn.external_source(name="images", device=where, dtype=types.UINT8, layout="HWC")
        matrix = fn.external_source(name="matrix", dtype=types.FLOAT, ndim=2)
        sigma = fn.external_source(name="sigma", dtype=types.FLOAT, ndim=0)
        window = fn.external_source(name="window", dtype=types.INT32, ndim=0)
        gain = fn.external_source(name="gain", device=where, dtype=types.FLOAT, ndim=3)
        offset = fn.external_source(name="offset", device=where, dtype=types.FLOAT, ndim=3)
        side = recipe.size_px
        tiles = fn.warp_affine(images, matrix=matrix, size=(side, side), interp_type=INTERPOLATION[recipe.resize])
        tiles = fn.gaussian_blur(tiles, sigma=sigma, window_size=window)
        middle = fn.reductions.mean(tiles, axes=(0, 1, 2), keep_dims=True)
        graph.set_outputs(fn.cast((tiles - middle) * gain + middle + offset, dtype=types.UINT8))
    graph.build()
    return graph


def _inputs(drawn: Draw) -> dict[str, Any]:
    """One augmentation as the inputs of the graph."""
    matrix = drawn.matrix.copy()
    matrix[:, 2] += 0.5 - 0.5 * (matrix[:, 0] + matrix[:, 1])  # DALI counts from the corner of the first pixel, OpenCV from its centre
    return {
        "matrix": matrix.astype(np.float32),
        # OpenCV's window for 8-bit images; a window of 1 leaves the tile as it is.
        "window": np.array(round(6 * drawn.sigma + 1) | 1 if drawn.sigma else 1, np.int32),
        "sigma": np.array(drawn.sigma or 1.0, np.float32),
        "gain": np.full((1, 1, 1), drawn.gain, np.float32),
        "offset": np.full((1, 1, 1), drawn.offset, np.float32),
    }
