"""Which defect a model sees in an image, and where: boxes by the rule of a running line, and how well they fit annotated ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ilcs_model.data.dataset import Dataset
from ilcs_model.data.images import Tile, read_image, to_tile
from ilcs_model.errors import DataError
from ilcs_model.evaluation.boxes import BoxScores, Placed, hottest, peak, score_boxes
from ilcs_model.evaluation.heat import look
from ilcs_model.info import ModelInfo
from nodes.infer.join_tiles import patches
from nodes.infer.tile_labels import OK
from pipeline.core.tiles import Box

BATCH = 8


class Seen(NamedTuple):
    """What a model sees in one image, which it takes as one tile."""

    label: int
    """The class with the highest score."""
    scores: NDArray[np.float32]
    """(K,)"""
    heat: NDArray[np.float32]
    """(S, S), 0..1."""
    hottest: tuple[float, float]
    """x and y of the heat's maximum, in pixels of the image."""
    peak: tuple[float, float]
    """The same of the smoothed heat: the middle of the hottest place."""
    boxes: tuple[Box, ...]
    """In pixels of the image; the box that a line would give this tile is the one around them all. () if the label is ``ok``."""
    method: str
    """``map`` or ``grad-cam``."""


def see(network: nn.Module, info: ModelInfo, images: list[Tile]) -> list[Seen]:
    """What the model sees in each image. ``images``: at least one, uint8 (H, W) or (H, W, 3) as ``read`` gives them, of any sizes."""
    tiles = np.stack([to_tile(image, info.recipe) for image in images])
    stacked = tiles[:, None] if tiles.ndim == 3 else np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))
    found = look(network, torch.from_numpy(stacked), locate=info.locate)
    seen = []
    for image, scores, heat, cells in zip(images, found.scores, found.heat, found.cells, strict=True):
        h, w = image.shape[:2]
        label = int(scores.argmax())
        one, middle = ((x * w, y * h) for x, y in (hottest(heat), peak(heat)))
        boxes = () if info.classes[label] == OK else tuple(patches(cells, w, h)) or ((0, 0, w, h),)
        seen.append(Seen(label, scores, heat, one, middle, boxes, found.method))
    return seen


def box_scores(network: nn.Module, info: ModelInfo, data: Dataset, rows: list[int]) -> BoxScores:
    """Compare the model's places with the annotated boxes of those ``rows`` (indices) of ``data`` that have any.

    Raises ``DataError`` if none has, or for an image that cannot be read.
    """
    return score_boxes(_placed(network, info, data, refuse_without_boxes(data, rows)), data.classes)


def refuse_without_boxes(data: Dataset, rows: list[int]) -> list[int]:
    """Those of the ``rows`` that have annotated boxes. Raises ``DataError`` if none has."""
    annotated = [i for i in rows if data.boxes and data.boxes[i]]
    if not annotated:
        raise DataError(f"{data.root}: none of these images has annotated boxes (VOC or COCO files)")
    return annotated


def _placed(network: nn.Module, info: ModelInfo, data: Dataset, rows: list[int]) -> Iterator[Placed]:
    for k in range(0, len(rows), BATCH):
        group = rows[k : k + BATCH]
        images = [read(data.files[i], info) for i in group]
        for i, image, seen in zip(group, images, see(network, info, images), strict=True):
            truth = data.boxes[i]
            assert truth
            size = image.shape[1], image.shape[0]
            yield Placed(label=data.labels[i], size_px=size, hottest=seen.hottest, peak=seen.peak, boxes=seen.boxes, truth=truth)


def read(path: Path, info: ModelInfo) -> Tile:
    """Read an image as the model takes it: uint8 (H, W), or (H, W, 3) for a colour model. Raises ``DataError`` if it cannot be read."""
    return read_image(path, info.recipe.decode)
