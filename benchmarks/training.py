"""Training ILCS on this machine: a plain PyTorch loop with its own loader, against ``linepipe train``. Images/s.

    python -m benchmarks.training --data neu-det [--out FILE]

The plain loop is what a tutorial would write: float32, eager, Adam, ``torch.utils.data.DataLoader`` with two workers, the
network with three channels as the paper draws it. Ours is timed on the same whole tiles, and on the crops from which
most of a ``full`` run learns. Each is a process of its own, and they take turns; medians of the turns, after one that does
not count.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.line import commit
from ilcs_model import create
from ilcs_model.data.dataset import Dataset, open_dataset
from ilcs_model.data.loader import train_batches
from ilcs_model.info import TileRecipe
from ilcs_model.training.processes import Processes, hardware
from ilcs_model.training.settings import SMALL, Settings
from ilcs_model.training.trainer import Trainer

BATCH, STEPS, TURNS = 16, 6, 4


class Plain(TorchDataset[tuple[Tensor, int]]):
    """The train images: decoded in three channels, resized to 330 pixels, cropped to 300 and flipped by numpy."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.rows = data, data.split("train")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        image = cv2.resize(np.asarray(cv2.imread(str(self.data.files[row])), np.uint8), (330, 330))
        top, left = np.random.randint(0, 30, 2)
        image = image[top : top + 300, left : left + 300]
        if np.random.random() < 0.5:
            image = image[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), self.data.labels[row]


def plain_loop(data: Dataset) -> Iterator[None]:
    """Train by the plain loop: one step each time the iterator is asked; it never ends."""
    network = create("ilcs", len(data.classes)).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    while True:
        for tiles, labels in DataLoader(Plain(data), BATCH, shuffle=True, num_workers=2, drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(network(tiles), labels).backward()
            optimizer.step()
            yield


def ours(data: Dataset, settings: Settings, side: int | None) -> Iterator[None]:
    """Train by ``linepipe train``'s own steps on tiles of ``side`` pixels, None: whole ones; one step each time, without end."""
    trainer = Trainer(data, TileRecipe(), settings, Processes(device=torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    print(f"{settings.recipe}, side {side}: {trainer.describe()}")
    trainer.model.train()
    number = 0
    while True:
        for batch in train_batches(data, trainer._epoch(number, side)):
            trainer._step(batch)
            yield
        number += 1


WAYS = {
    "plain PyTorch, eager float32, whole tiles": plain_loop,
    "paper recipe, whole tiles": lambda data: ours(data, Settings(recipe="paper"), None),
    "full recipe, whole tiles": lambda data: ours(data, Settings(), None),
    "full recipe, crops": lambda data: ours(data, Settings(), SMALL),
}


def serve(name: str, folder: Path, pipe: Connection) -> None:
    """Train by one of ``WAYS`` for some steps each time ``pipe`` brings True, and send the images/s; end at False."""
    way = WAYS[name](open_dataset(folder))
    while pipe.recv():
        next(way)  # starts workers, compiles
        began = time.monotonic()
        for _ in range(STEPS):
            next(way)
        pipe.send(STEPS * BATCH / (time.monotonic() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pipes: dict[str, Connection] = {}
    for name in WAYS:
        pipes[name], theirs = multiprocessing.Pipe()
        multiprocessing.get_context("spawn").Process(target=serve, args=(name, args.data, theirs)).start()
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(TURNS + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            rate = pipe.recv()
            print(f"turn {turn}: {name}: {rate:.1f} images/s", flush=True)
            if turn:
                rates[name].append(rate)
    for pipe in pipes.values():
        pipe.send(False)
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    result: dict[str, Any] = {
        "machine": hardware(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "commit": commit(),
        "batch": BATCH,
        "images_per_s": medians,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
