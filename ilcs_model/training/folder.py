"""The folder of a training run: made where there is room for it, locked by one training, used again after a kill."""

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
    """Refuse a run folder that cannot be used; ``root`` is the data folder. Writes nothing.

    Raises ``DataError`` if ``run`` is in ``root``, is a file, or has a checkpoint ``last.pt`` already and ``resume`` is not set.
    """
    if run.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{run} is in the data folder {root}: its pictures would be taken for data; name a folder elsewhere")
    if os.path.exists(run) and not os.path.isdir(run):  # methods of Path raise without permission; ``alone`` reports that
        raise DataError(f"{run} is a file; name a folder for the run")
    if os.path.exists(run / "last.pt") and not resume:
        raise DataError(f"{run} already holds a run; continue it with --resume or name another folder")


def begin_folder(run: Path, data: Dataset, settings: Settings, trainer: Trainer) -> None:
    """Write what is known at the start into ``run``, a folder that exists: ``settings.json`` and ``environment.json``.

    Lines of ``metrics.jsonl`` that are later than the trainer's checkpoint are removed. Raises ``DataError`` if the folder cannot
    be written, and if matplotlib, which is needed after the last epoch, is missing.
    """
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
        (run / "settings.json").write_text(json.dumps(msgspec.to_builtins(settings), indent=1))
        _forget_after(trainer.epochs, run / "metrics.jsonl")
        (run / "environment.json").write_text(json.dumps(environment, indent=1))
    except OSError as exc:
        raise DataError(f"{run}: cannot be written ({exc.strerror}); name another folder") from exc


@contextmanager
def alone(run: Path, trainer: Trainer) -> Iterator[None]:
    """Make the folder and lock it, without waiting, against other trainings until the block ends or the process dies.

    Raises ``DataError`` if the disk has too little room for the run (its checkpoints and 50 MB), the folder cannot be made, or
    another training has the lock.
    """
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
    """Turn any ``OSError`` in the block, such as a full disk, into a ``DataError`` that says how to go on."""
    try:
        yield
    except OSError as exc:
        raise DataError(f"{run}: cannot be written ({exc}); make room and go on with --resume: at most one epoch is lost") from exc


def _forget_after(epochs: int, metrics: Path) -> None:
    """Remove the lines of epochs after the checkpoint's: these epochs are trained again."""
    if not metrics.exists():
        return
    kept = []
    for number, line in enumerate(metrics.read_text(errors="replace").splitlines(True), start=1):
        try:
            if line.endswith("\n") and json.loads(line)["epoch"] <= epochs:
                kept.append(line)
        except (ValueError, KeyError, TypeError) as exc:
            raise DataError(f"{metrics}:{number}: damaged ({exc}); remove the line and go on with --resume") from exc
    metrics.write_text("".join(kept))


def append_json(path: Path, record: dict[str, Any]) -> None:
    """Append one line of JSON to a file, which is made if it is missing. Not synced to disk. Raises ``OSError``."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
