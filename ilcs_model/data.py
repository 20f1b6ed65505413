"""Labelled images: which files belong to which class and split, and batches of tiles made from them."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from ilcs_model.errors import DataError
from ilcs_model.info import Recipe

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
HELD_OUT = 0.1  # share of each class kept for testing where the folder names no split
CELL = 8  # side in pixels of what one value of a network's map stands for
KEPT = 0.6  # share of a mask that a random crop must keep
_TRIES = 6
Tile = NDArray[np.uint8]


class Batch(NamedTuple):
    """What a network learns from at once."""

    tiles: Tensor
    """uint8 (N, 1, S, S)."""
    labels: Tensor
    """int64 (N,)."""
    maps: Tensor | None
    """float32 (N, S // 8, S // 8), 1 where the defect is, 0 elsewhere, -1 where it is not known; None: nobody asked."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Files, labels (indices into ``classes``) and the name of the split each file belongs to."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]
    masks: tuple[str, ...] = ()
    """Of each file: an image whose bright pixels are the defect, ``none``: there is none, or empty: not known. () without masks."""

    @property
    def locates(self) -> bool:
        """Whether there is anything to learn of where defects lie."""
        return any(self.masks)

    def split(self, name: str) -> list[int]:
        """Indices of the files of one split."""
        return [i for i, s in enumerate(self.splits) if s == name]

    def summary(self) -> dict[str, object]:
        """What a model's metadata says of its data: name, counts per split and class, digest of the train rows."""
        counts = Counter(zip(self.splits, self.labels, strict=True))
        rows = sorted(f"{self.files[i].name},{self.labels[i]}" for i in self.split("train"))
        return {
            "name": self.root.resolve().name,
            "images": {s: {c: counts[s, k] for k, c in enumerate(self.classes)} for s in sorted(set(self.splits))},
            "train_rows": "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest(),
            **({"origin": msgspec.json.decode(origin.read_bytes())} if (origin := self.root / "origin.json").is_file() else {}),
        }


def open_dataset(root: Path) -> Dataset:
    """A folder with ``split.csv`` (columns file, class, split; files under ``images/`` or beside it) or class sub-folders.

    Class sub-folders name no split: every tenth image of a class, by name, is held out as ``test``. Raises
    ``DataError`` if there is nothing to train on, a listed file is missing, or a class has no training image.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    rows = _read_split(root) if (root / "split.csv").is_file() else _read_folders(root)
    classes = tuple(sorted({row[1] for row in rows}))
    if len(classes) < 2:
        raise DataError(f"{root}: found {len(classes)} class(es); a classifier needs at least two")
    trained = {label for _, label, split, _ in rows if split == "train"}
    if missing := [c for c in classes if c not in trained]:
        raise DataError(f"{root}: no image of class {', '.join(missing)} in split 'train'")
    return Dataset(
        root=root,
        classes=classes,
        files=tuple(row[0] for row in rows),
        labels=tuple(classes.index(row[1]) for row in rows),
        splits=tuple(row[2] for row in rows),
        masks=tuple(row[3] for row in rows),
    )


def _read_split(root: Path) -> list[tuple[Path, str, str, str]]:
    base = root / "images" if (root / "images").is_dir() else root
    rows = []
    with (root / "split.csv").open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                path, label, split, mask = base / row["file"], row["class"], row["split"], row.get("mask") or ""
            except KeyError as exc:
                raise DataError(f"{root}/split.csv: no column {exc}; it needs file, class, split") from None
            if not path.is_file():
                raise DataError(f"{root}/split.csv:{line}: {path} does not exist")
            if mask not in ("", "none") and not (root / mask).is_file():
                raise DataError(f"{root}/split.csv:{line}: {root / mask} does not exist")
            rows.append((path, label, split, mask))
    return rows


def _read_folders(root: Path) -> list[tuple[Path, str, str, str]]:
    rows = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        every = round(1 / HELD_OUT)
        rows += [(f, folder.name, "test" if k % every == every - 1 else "train", "") for k, f in enumerate(files)]
    return rows


def read_image(path: Path) -> Tile:
    """One image as grey uint8 (H, W), a damaged JPEG refused as the line does. Raises ``DataError`` naming the file."""
    try:
        data = np.fromfile(path, np.uint8)
        if data[:2].tobytes() == b"\xff\xd8":
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)[:, :, 0], np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    except (OSError, ValueError, cv2.error) as exc:
        raise DataError(f"{path}: not a readable image ({exc}); remove it or replace it") from exc
    if image is None:
        raise DataError(f"{path}: not a readable image; remove it or replace it")
    return np.asarray(image, np.uint8)


def to_tile(image: Tile, recipe: Recipe) -> Tile:
    """Grey uint8 (H, W) -> tile (S, S) by the model's recipe."""
    side = recipe.size_px
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def augment(image: Tile, recipe: Recipe, rng: np.random.Generator, mask: Tile | None = None) -> tuple[Tile, Tile | None]:
    """Random crop (65-100 % of the area), flips, brightness, contrast, blur: grey uint8 (H, W) -> tile (S, S).

    ``mask`` (H, W) is cut alike -> (S, S); a crop that loses most of it is drawn again.
    """
    side, found = recipe.size_px, None
    for _ in range(_TRIES):
        matrix = _geometry(image.shape, side, rng)
        if mask is None:
            break
        found = _warp(mask, matrix, side)
        if np.count_nonzero(found) >= KEPT * np.count_nonzero(mask) * (side / mask.shape[0]) * (side / mask.shape[1]):
            break
    tile = _warp(image, matrix, side)
    if rng.random() < 0.3:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), rng.uniform(0.3, 1.5)), np.uint8)
    gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
    middle = float(tile.mean())
    return np.asarray(cv2.convertScaleAbs(np.clip((tile - middle) * gain + middle + offset, 0, 255)), np.uint8), found


def _geometry(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Affine map from tile to image: a random crop, perhaps flipped."""
    height, width = shape
    scale = np.sqrt(rng.uniform(0.65, 1.0))
    w, h = scale * width, scale * height
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    if rng.random() < 0.5:
        left, w = left + w, -w
    if rng.random() < 0.5:
        top, h = top + h, -h
    # Maps tile pixel centres onto the crop; a negative width or height is a flip.
    sx, sy = w / side, h / side
    return np.array([[sx, 0, left + sx / 2 - 0.5], [0, sy, top + sy / 2 - 0.5]])


def _warp(image: Tile, matrix: NDArray[np.float64], side: int) -> Tile:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def target_map(mask: Tile) -> NDArray[np.float32]:
    """Mask of a tile (S, S) -> the map a network should give, (S // 8, S // 8): 1 where a tenth of the cell is defect."""
    n = mask.shape[0] // CELL
    cells = (mask[: n * CELL, : n * CELL] > 127).reshape(n, CELL, n, CELL)
    return (cells.mean((1, 3)) >= 0.1).astype(np.float32)


def train_batches(data: Dataset, recipe: Recipe, batch: int, seed: tuple[int, ...]) -> Iterator[Batch]:
    """One epoch of augmented, shuffled, full batches; the remainder is left out.

    The same seed gives the same epoch. Batches are made two ahead in a thread.
    """
    order = np.random.default_rng(seed).permutation(data.split("train"))
    groups = [order[k : k + batch] for k in range(0, len(order) - batch + 1, batch)] or [order]

    def make(group: NDArray[np.int64]) -> Batch:
        pairs = [_example(data, int(i), recipe, np.random.default_rng((*seed, int(i)))) for i in group]
        maps = torch.from_numpy(np.stack([m for _, m in pairs])) if data.locates else None
        return Batch(torch.from_numpy(np.stack([t for t, _ in pairs]))[:, None], torch.tensor([data.labels[i] for i in group]), maps)

    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        ahead = [pool.submit(make, g) for g in groups[:2]]
        for k in range(len(groups)):
            ready = ahead.pop(0).result()
            if k + 2 < len(groups):
                ahead.append(pool.submit(make, groups[k + 2]))
            yield ready


def _example(data: Dataset, index: int, recipe: Recipe, rng: np.random.Generator) -> tuple[Tile, NDArray[np.float32]]:
    """An augmented tile and its target map."""
    image, name = read_image(data.files[index]), data.masks[index] if data.masks else ""
    cells = recipe.size_px // CELL
    if name in ("", "none"):
        return augment(image, recipe, rng)[0], np.full((cells, cells), 0 if name else -1, np.float32)
    tile, mask = augment(image, recipe, rng, read_image(data.root / name))
    assert mask is not None
    return tile, target_map(mask)


def plain_batches(data: Dataset, indices: list[int], recipe: Recipe, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles as the running line would cut them, in the order of ``indices``: uint8 (N, 1, S, S) and int64 (N,)."""
    for k in range(0, len(indices), batch):
        group = indices[k : k + batch]
        tiles = np.stack([to_tile(read_image(data.files[i]), recipe) for i in group])
        yield torch.from_numpy(tiles)[:, None], torch.tensor([data.labels[i] for i in group])
