"""Batches of tiles: augmented ones to learn from, plain ones to be judged by."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ilcs_model.data.augment import CELL, Draw, augment, draw
from ilcs_model.data.dataset import Dataset
from ilcs_model.data.images import Tile, read_image, to_tile
from ilcs_model.data.masks import is_clean, mask_of
from ilcs_model.info import Recipe


class Batch(NamedTuple):
    """What a network learns from at once."""

    tiles: Tensor
    """uint8 (N, 1, S, S)."""
    labels: Tensor
    """int64 (N,)."""
    maps: Tensor | None
    """float32 (N, S // 8, S // 8), 1 where the defect is, 0 elsewhere, -1 where it is not known; None: nobody asked."""


def train_batches(data: Dataset, recipe: Recipe, batch: int, seed: tuple[int, ...]) -> Iterator[Batch]:
    """One epoch of augmented, shuffled, full batches; the remainder is left out.

    The same seed gives the same epoch. Batches are made two ahead in a thread.
    """

    def make(group: NDArray[np.int64]) -> Batch:
        images = [read_image(data.files[i]) for i in group]
        drawn = draw_group(data, group, [image.shape for image in images], recipe, seed)
        tiles = [augment(image, recipe, d) for image, d in zip(images, drawn, strict=True)]
        return Batch(torch.from_numpy(np.stack(tiles))[:, None], *answers(data, group, drawn, recipe))

    return ahead(epoch_groups(data, batch, seed), make)


def epoch_groups(data: Dataset, batch: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Indices of the training images in an epoch's order, in full batches; one short batch if there are too few."""
    order = np.random.default_rng(seed).permutation(data.split("train"))
    return [order[k : k + batch] for k in range(0, len(order) - batch + 1, batch)] or [order]


def draw_group(data: Dataset, group: NDArray[np.int64], shapes: list[tuple[int, ...]], recipe: Recipe, seed: tuple[int, ...]) -> list[Draw]:
    """What is drawn for each image of a batch; every image has its own stream of numbers."""
    masks = [mask_of(data, int(i), shape) for i, shape in zip(group, shapes, strict=True)]
    streams = [np.random.default_rng((*seed, int(i))) for i in group]
    return [draw(shape, recipe, rng, mask) for shape, rng, mask in zip(shapes, streams, masks, strict=True)]


def answers(data: Dataset, group: NDArray[np.int64], drawn: list[Draw], recipe: Recipe) -> tuple[Tensor, Tensor | None]:
    """Labels of a batch, and its target maps if the data tells where defects lie."""
    labels = torch.tensor([data.labels[i] for i in group])
    if not data.locates:
        return labels, None
    cells = (recipe.size_px // CELL, recipe.size_px // CELL)
    clean, unknown = np.zeros(cells, np.float32), np.full(cells, -1, np.float32)
    blank = [clean if is_clean(data, int(i)) else unknown for i in group]
    maps = [instead if d.target is None else d.target for instead, d in zip(blank, drawn, strict=True)]
    return labels, torch.from_numpy(np.stack(maps))


def ahead(groups: list[NDArray[np.int64]], make: Callable[[NDArray[np.int64]], Batch]) -> Iterator[Batch]:
    """Make batches in a thread, two before they are asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        waiting = [pool.submit(make, g) for g in groups[:2]]
        for k in range(len(groups)):
            ready = waiting.pop(0).result()
            if k + 2 < len(groups):
                waiting.append(pool.submit(make, groups[k + 2]))
            yield ready


def plain_batches(data: Dataset, indices: list[int], recipe: Recipe, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles as the running line would cut them, in the order of ``indices``: uint8 (N, 1 or 3, S, S) and int64 (N,)."""
    for k in range(0, len(indices), batch):
        group = indices[k : k + batch]
        tiles = [to_tile(read_image(data.files[i], recipe.decode), recipe) for i in group]
        yield stacked(tiles), torch.tensor([data.labels[i] for i in group])


def stacked(tiles: list[Tile]) -> Tensor:
    """Tiles (S, S) or (S, S, 3) -> uint8 (N, 1 or 3, S, S)."""
    found = torch.from_numpy(np.stack(tiles))
    return found[:, None] if found.ndim == 3 else found.permute(0, 3, 1, 2)
