"""The folder of a training run: made where there is room for it, held by one training, gone on with after a kill."""

import fcntl
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from ilcs_model.data.dataset import Dataset
from ilcs_model.errors import DataError
from ilcs_model.info import code_version
from ilcs_model.training import run_report
from ilcs_model.training.processes import hardware
from ilcs_model.training.settings import Settings
from ilcs_model.training.trainer import Trainer


def check_folder(run: Path, root: Path, resume: bool) -> None:
    if run.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{run} lies in the data folder {root}, where its pictures would be taken for data; name one elsewhere")
    if os.path.exists(run) and not os.path.isdir(run):  # the methods of Path raise where that may not be seen: told as it is made
        raise DataError(f"{run} is a file; name a folder for the run")
    if os.path.exists(run / "last.pt") and not resume:
        raise DataError(f"{run} already holds a run; continue it with --resume or name another folder")


def begin_folder(run: Path, data: Dataset, settings: Settings, trainer: Trainer) -> None:
    """Write what is known at the start, and see that what comes at the end will find its place."""
    run_report.need_matplotlib()
    environment = {
        "data": str(data.root.resolve()),
        "train_rows": data.summary()["train_rows"],
        "hardware": hardware(),
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "linepipe": code_version(),
        "processes": trainer.processes.world,
    }
    try:
        (run / "settings.json").write_text(_pretty(settings))
        _forget_after(trainer.epochs, run / "metrics.jsonl")
        (run / "environment.json").write_text(json.dumps(environment, indent=1))
    except OSError as exc:
        raise DataError(f"{run}: cannot be written ({exc.strerror}); name another folder") from exc


@contextmanager
def alone(run: Path, trainer: Trainer) -> Iterator[None]:
    """Make the folder, if there is room for the run, and keep other trainings out of it as long as this one lives."""
    # Weights, their average and two moments; twice for last and best, once more while one is being replaced.
    needed = 3 * 4 * sum(p.numel() * p.element_size() for p in trainer.model.parameters()) + 50_000_000
    try:
        free = shutil.disk_usage(next(p for p in (run.absolute(), *run.absolute().parents) if p.exists())).free
        if free < needed:
            raise DataError(f"{run}: {free / 1e6:.0f} MB free on that disk, the run needs {math.ceil(needed / 1e6)} MB; make room first")
        run.mkdir(parents=True, exist_ok=True)
        fd = os.open(run, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise DataError(f"{run}: cannot be written ({exc.strerror}); name another folder") from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{run}: another training writes into this folder; wait for it, or name another folder") from None
        yield
    finally:
        os.close(fd)


@contextmanager
def room_left(run: Path) -> Iterator[None]:
    """Raises ``DataError`` where the disk takes no more."""
    try:
        yield
    except OSError as exc:
        raise DataError(f"{run}: cannot be written ({exc}); make room and go on with --resume: at most one epoch is lost") from exc


def _forget_after(epochs: int, metrics: Path) -> None:
    """Take out the lines of epochs that a kill cut off from their checkpoint: they are trained again."""
    if metrics.exists():
        kept = [line for line in metrics.read_text().splitlines(True) if line.endswith("\n") and json.loads(line)["epoch"] <= epochs]
        metrics.write_text("".join(kept))


def _pretty(settings: Settings) -> str:
    return json.dumps(msgspec.to_builtins(settings), indent=1)


def append_json(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
