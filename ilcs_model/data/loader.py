"""Batches of tiles: augmented ones to learn from, plain ones to judge by."""

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
    """What a network learns from in one step."""

    tiles: Tensor
    """uint8 (N, 1 or 3, S, S)."""
    labels: Tensor
    """int64 (N,)."""
    maps: Tensor | None
    """float32 (N, S // 8, S // 8): 1 where the defect is, 0 elsewhere, -1 where it is not known; None: not asked for, or the data
    does not say where defects are."""


class Epoch(NamedTuple):
    """What an epoch's batches are made by; equal values give equal batches."""

    recipe: TileRecipe
    batch: int
    """Tiles in a batch of one process."""
    seed: tuple[int, ...]
    """Not negative; another one for each epoch."""
    kind: Kind = "full"
    side: int | None = None
    """Side of the tiles in pixels: crops at the model's scale. None: the model's own size, most of the image."""
    locate: bool = True
    """Whether maps are wanted, if the data has them."""
    rank: int = 0
    """The process that these batches are for, 0 to ``world`` - 1."""
    world: int = 1
    """How many processes train."""


def train_batches(data: Dataset, epoch: Epoch) -> Iterator[Batch]:
    """One epoch of augmented, shuffled batches of the split ``train``, made ahead in threads; tensors are on the CPU.

    All batches are full and the remainder is left out, but see ``epoch_groups``. Iterating raises ``DataError`` naming an image
    or mask that cannot be read.
    """

    def make(group: NDArray[np.int64]) -> Batch:
        images = [read_image(data.files[i], epoch.recipe.decode) for i in group]
        drawn = draw_group(data, group, [image.shape for image in images], epoch)
        tiles = [augment(image, d) for image, d in zip(images, drawn, strict=True)]
        return Batch(stacked(tiles), *answers(data, group, drawn, epoch))

    return ahead(epoch_groups(data, epoch), make)


def epoch_groups(data: Dataset, epoch: Epoch) -> list[NDArray[np.int64]]:
    """Indices into ``data.files`` of each batch of an epoch for this process, int64 (N,) each, in a shuffled order.

    All batches are full and the remainder is left out. If the images are too few for one batch in each process, each gets one
    short batch; with fewer images than processes it is empty in some.
    """
    order = np.random.default_rng(epoch.seed).permutation(data.split("train"))
    size = epoch.batch * epoch.world
    groups = [order[k : k + size] for k in range(0, len(order) - size + 1, size)] or [order]
    return [group[epoch.rank :: epoch.world] for group in groups]


def draw_group(data: Dataset, group: NDArray[np.int64], shapes: list[tuple[int, ...]], epoch: Epoch) -> list[Draw]:
    """What is drawn for each image of a batch, ``shapes`` (H, W, ...) being those of the images.

    Every image has its own stream of random numbers, from the epoch's seed and its index. If ``epoch.locate``, masks are read:
    raises ``DataError`` naming one that cannot be used.
    """
    whole = epoch.recipe.size_px
    drawn = []
    for i, shape in zip(group, shapes, strict=True):
        mask = mask_of(data, int(i), shape) if epoch.locate else None
        rng = np.random.default_rng((*epoch.seed, int(i)))
        drawn.append(draw(shape, epoch.side or whole, whole, rng, kind=epoch.kind, mask=mask))
    return drawn


def answers(data: Dataset, group: NDArray[np.int64], drawn: list[Draw], epoch: Epoch) -> tuple[Tensor, Tensor | None]:
    """Labels of a batch, int64 (N,), and its target maps, see ``Batch.maps``."""
    labels = torch.tensor([data.labels[i] for i in group])
    if not (data.locates and epoch.locate):
        return labels, None
    side = (epoch.side or epoch.recipe.size_px) // CELL
    clean, unknown = np.zeros((side, side), np.float32), np.full((side, side), -1, np.float32)
    blank = [clean if is_clean(data, int(i)) else unknown for i in group]
    maps = [instead if d.target is None else d.target for instead, d in zip(blank, drawn, strict=True)]
    return labels, torch.from_numpy(np.stack(maps))


def ahead(groups: list[NDArray[np.int64]], make: Callable[[NDArray[np.int64]], Batch], workers: int = WORKERS) -> Iterator[Batch]:
    """Call ``make`` for each group in ``workers`` threads, up to ``workers + 1`` calls ahead, and yield the batches in order.

    An exception of ``make`` is raised when its batch is due. Closing the iterator early waits for the calls that are ahead.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        waiting = [pool.submit(make, g) for g in groups[: workers + 1]]
        for k in range(len(groups)):
            ready = waiting.pop(0).result()
            if k + workers + 1 < len(groups):
                waiting.append(pool.submit(make, groups[k + workers + 1]))
            yield ready


def plain_batches(data: Dataset, indices: list[int], recipe: TileRecipe, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles as a running line would make them, and labels, in the order of ``indices``: uint8 (N, 1 or 3, S, S) and int64 (N,).

    N is ``batch``, less in the last batch. Images are read when their batch is asked for; ``DataError`` names one that cannot be
    read.
    """
    for k in range(0, len(indices), batch):
        group = indices[k : k + batch]
        tiles = [to_tile(read_image(data.files[i], recipe.decode), recipe) for i in group]
        yield stacked(tiles), torch.tensor([data.labels[i] for i in group])


def stacked(tiles: list[Tile]) -> Tensor:
    """N uint8 tiles (S, S) or (S, S, 3) -> uint8 (N, 1 or 3, S, S). Raises ``ValueError`` if their shapes differ."""
    found = torch.from_numpy(np.stack(tiles))
    return found[:, None] if found.ndim == 3 else found.permute(0, 3, 1, 2)


def choose_loader(name: str, device: torch.device) -> tuple[Callable[[Dataset, Epoch], Iterator[Batch]], str]:
    """The function that makes training batches, and its name for the log: ``OpenCV`` or ``DALI``.

    ``name`` is ``opencv``, ``dali`` or ``auto``: OpenCV on a CPU, DALI on a GPU. Where ``auto`` wants DALI and it is not
    installed, OpenCV is taken and its name says why. Raises ``DataError`` for ``dali`` where it is not installed.
    """
    if name == "opencv" or (name == "auto" and device.type == "cpu"):
        return train_batches, "OpenCV"
    try:
        from ilcs_model.data.dali_loader import dali_batches
    except ImportError as exc:
        if name == "dali":
            raise DataError(f"--loader dali: {exc}; install nvidia-dali-cuda130 (x86_64 only) or choose opencv") from exc
        return train_batches, f"OpenCV, as DALI is not installed ({exc})"
    return functools.partial(dali_batches, device="cuda" if device.type == "cuda" else "cpu"), "DALI"
