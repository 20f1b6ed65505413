"""Training tiles by DALI: the crops, flips, blur and light of ``data.augment``, on the GPU where there is one.

The numbers are drawn as ``augment`` draws them, so a seed gives the same tiles (to 2 of 255 grey levels) by either
loader. Images are read by ``read_image``: DALI would give a picture for a damaged JPEG.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch import Tensor

from ilcs_model.data import Dataset, read_image
from ilcs_model.info import Recipe

INTERPOLATION = {"bilinear": types.INTERP_LINEAR}


def dali_batches(
    data: Dataset, recipe: Recipe, batch: int, seed: tuple[int, ...], *, device: Literal["cpu", "cuda"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch as ``data.train_batches`` gives it: uint8 (N, 1, S, S), on ``device``, and int64 (N,)."""
    order = np.random.default_rng(seed).permutation(data.split("train"))
    groups = [order[k : k + batch] for k in range(0, len(order) - batch + 1, batch)] or [order]
    graph = _build(recipe, max(len(g) for g in groups), device)

    def make(group: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        images = [read_image(data.files[i]) for i in group]
        draws = [_draw(image.shape, recipe.size_px, np.random.default_rng((*seed, int(i)))) for image, i in zip(images, group, strict=True)]
        inputs = {name: [draw[name] for draw in draws] for name in draws[0]}
        (found,) = graph.run(images=[image[:, :, None] for image in images], **inputs)
        tiles = torch.stack([torch.from_dlpack(found[k]) for k in range(len(group))])
        return tiles.permute(0, 3, 1, 2), torch.tensor([data.labels[i] for i in group])

    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        ahead = [pool.submit(make, g) for g in groups[:2]]
        for k in range(len(groups)):
            ready = ahead.pop(0).result()
            if k + 2 < len(groups):
                ahead.append(pool.submit(make, groups[k + 2]))
            yield ready


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


def _draw(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> dict[str, Any]:
    """What ``data.augment`` draws, in its order, as the inputs of the graph."""
    height, width = shape
    scale = np.sqrt(rng.uniform(0.65, 1.0))
    w, h = scale * width, scale * height
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    if rng.random() < 0.5:
        left, w = left + w, -w
    if rng.random() < 0.5:
        top, h = top + h, -h
    sigma = rng.uniform(0.3, 1.5) if rng.random() < 0.3 else 0.0
    gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
    return {
        # DALI counts from the corner of the first pixel, OpenCV from its centre.
        "matrix": np.array([[w / side, 0, left], [0, h / side, top]], np.float32),
        # OpenCV's window for 8-bit images; a window of 1 leaves the tile as it is.
        "window": np.array(round(6 * sigma + 1) | 1 if sigma else 1, np.int32),
        "sigma": np.array(sigma or 1.0, np.float32),
        "gain": np.full((1, 1, 1), gain, np.float32),
        "offset": np.full((1, 1, 1), offset, np.float32),
    }
