"""Batches of tiles: augmented ones to learn from, plain ones to be judged by."""

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ilcs_model.data.augment import CELL, Draw, Kind, augment, draw
from ilcs_model.data.dataset import Dataset, is_clean, mask_of
from ilcs_model.data.images import Tile, read_image, to_tile
from ilcs_model.errors import DataError
from ilcs_model.info import TileRecipe

WORKERS = max(1, min(8, (os.cpu_count() or 1) // 2))


class Batch(NamedTuple):
    """What a network learns from at once."""

    tiles: Tensor
    """uint8 (N, 1 or 3, S, S)."""
    labels: Tensor
    """int64 (N,)."""
    maps: Tensor | None
    """float32 (N, S // 8, S // 8), 1 where the defect is, 0 elsewhere, -1 where it is not known; None: nobody asked."""


class Epoch(NamedTuple):
    """What an epoch's batches are made by; the same one gives the same batches."""

    recipe: TileRecipe
    batch: int
    """Tiles in a batch of one process."""
    seed: tuple[int, ...]
    kind: Kind = "full"
    side: int | None = None
    """Of the tiles in pixels: crops at the model's scale. None: the model's own size, nearly whole images."""
    locate: bool = True
    """Whether maps are asked for, where the data has them."""
    rank: int = 0
    world: int = 1
    """Which of how many processes these batches are for."""


def train_batches(data: Dataset, epoch: Epoch) -> Iterator[Batch]:
    """One epoch of augmented, shuffled, full batches; the remainder is left out. Made ahead in threads."""

    def make(group: NDArray[np.int64]) -> Batch:
        images = [read_image(data.files[i], epoch.recipe.decode) for i in group]
        drawn = draw_group(data, group, [image.shape for image in images], epoch)
        tiles = [augment(image, d) for image, d in zip(images, drawn, strict=True)]
        return Batch(stacked(tiles), *answers(data, group, drawn, epoch))

    return ahead(epoch_groups(data, epoch), make)


def epoch_groups(data: Dataset, epoch: Epoch) -> list[NDArray[np.int64]]:
    """Indices of the training images in an epoch's order, in full batches; one short batch if there are too few."""
    order = np.random.default_rng(epoch.seed).permutation(data.split("train"))
    size = epoch.batch * epoch.world
    groups = [order[k : k + size] for k in range(0, len(order) - size + 1, size)] or [order]
    return [group[epoch.rank :: epoch.world] for group in groups]


def draw_group(data: Dataset, group: NDArray[np.int64], shapes: list[tuple[int, ...]], epoch: Epoch) -> list[Draw]:
    """What is drawn for each image of a batch; every image has its own stream of numbers."""
    whole = epoch.recipe.size_px
    drawn = []
    for i, shape in zip(group, shapes, strict=True):
        mask = mask_of(data, int(i), shape) if epoch.locate else None
        rng = np.random.default_rng((*epoch.seed, int(i)))
        drawn.append(draw(shape, epoch.side or whole, whole, rng, kind=epoch.kind, mask=mask))
    return drawn


def answers(data: Dataset, group: NDArray[np.int64], drawn: list[Draw], epoch: Epoch) -> tuple[Tensor, Tensor | None]:
    """Labels of a batch, and its target maps if the data tells where defects lie."""
    labels = torch.tensor([data.labels[i] for i in group])
    if not (data.locates and epoch.locate):
        return labels, None
    side = (epoch.side or epoch.recipe.size_px) // CELL
    clean, unknown = np.zeros((side, side), np.float32), np.full((side, side), -1, np.float32)
    blank = [clean if is_clean(data, int(i)) else unknown for i in group]
    maps = [instead if d.target is None else d.target for instead, d in zip(blank, drawn, strict=True)]
    return labels, torch.from_numpy(np.stack(maps))


def ahead(groups: list[NDArray[np.int64]], make: Callable[[NDArray[np.int64]], Batch], workers: int = WORKERS) -> Iterator[Batch]:
    """Make batches in threads before they are asked for, in order."""
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        waiting = [pool.submit(make, g) for g in groups[: workers + 1]]
        for k in range(len(groups)):
            ready = waiting.pop(0).result()
            if k + workers + 1 < len(groups):
                waiting.append(pool.submit(make, groups[k + workers + 1]))
            yield ready


def plain_batches(data: Dataset, indices: list[int], recipe: TileRecipe, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles as the running line would cut them, in the order of ``indices``: uint8 (N, 1 or 3, S, S) and int64 (N,)."""
    for k in range(0, len(indices), batch):
        group = indices[k : k + batch]
        tiles = [to_tile(read_image(data.files[i], recipe.decode), recipe) for i in group]
        yield stacked(tiles), torch.tensor([data.labels[i] for i in group])


def stacked(tiles: list[Tile]) -> Tensor:
    """Tiles (S, S) or (S, S, 3) -> uint8 (N, 1 or 3, S, S)."""
    found = torch.from_numpy(np.stack(tiles))
    return found[:, None] if found.ndim == 3 else found.permute(0, 3, 1, 2)


def choose_loader(name: str, device: torch.device) -> tuple[Callable[[Dataset, Epoch], Iterator[Batch]], str]:
    """What makes training batches, and its name with the reason if it is not the one that ``auto`` prefers."""
    if name == "opencv" or (name == "auto" and device.type == "cpu"):
        return train_batches, "OpenCV"
    try:
        from ilcs_model.data.dali_loader import dali_batches
    except ImportError as exc:
        if name == "dali":
            raise DataError(f"--loader dali: {exc}; install nvidia-dali-cuda130 (x86_64 only) or choose opencv") from exc
        return train_batches, f"OpenCV, as DALI is not installed ({exc})"
    return functools.partial(dali_batches, device="cuda" if device.type == "cuda" else "cpu"), "DALI"
