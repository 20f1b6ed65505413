"""A training run: its folder, its epochs, its judgements, and the model it ends with."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from ilcs_model.data.check import check_images, has_colour
from ilcs_model.data.dataset import Dataset
from ilcs_model.data.loader import plain_batches
from ilcs_model.evaluation.metrics import Figures, measure
from ilcs_model.evaluation.predict import predict
from ilcs_model.files import save_model
from ilcs_model.info import ModelInfo, TileRecipe, code_version, digest
from ilcs_model.networks.normalise import MEAN, STD
from ilcs_model.training import run_report
from ilcs_model.training.folder import alone, append_json, begin_folder, check_folder, room_left
from ilcs_model.training.processes import Processes, hardware, joined
from ilcs_model.training.settings import Settings
from ilcs_model.training.trainer import Step, Trainer

JUDGEMENTS = 12  # on the watched split in a run: enough for a curve
WATCH_NORMS = 256  # images for the statistics of a judgement on the way
WORTH = 4  # images trained on for each image that judgements take, at about the same pace: a short run is judged less often
Report = Callable[[dict[str, Any]], None]
"""Called with a record: ``remark`` with a text; or, after each step, ``done`` (share of the run, 0..1) beside ``epoch``, ``loss``,
``accuracy`` (0..1) and ``images_per_s``; or, after each epoch, its line of ``metrics.jsonl``."""


def train(data: Dataset, run: Path, settings: Settings, *, resume: bool = False, report: Report = lambda _: None) -> Path:
    """Train, write the run folder with ``model.safetensors``, and return that file's path.

    The folder receives ``settings.json``, ``environment.json``, ``metrics.jsonl``, after each epoch ``last.pt``, and at the
    end what ``run_report`` writes. With a split ``val`` the weights that were best on it are taken (``best.pt``), and the run
    ends early after ``settings.patience`` judgements without a better one; without ``val`` the last weights are taken. With
    ``resume`` an interrupted run goes on, at the cost of one epoch at most; without a checkpoint it begins at the start.

    Under torchrun every process must call it; only the first one writes, reports and judges. Raises ``DataError`` for what is
    wrong with data, folder, disk or settings, before the first epoch if it can be known then.
    """
    with joined() as processes:
        if not processes.first:
            report = _silent
        return _train(data, run, settings, processes, resume, report)


def _train(data: Dataset, run: Path, settings: Settings, processes: Processes, resume: bool, report: Report) -> Path:
    check_folder(run, data.root, resume)
    remarks = check_images(data) if processes.first else ()
    recipe = TileRecipe(decode=_decode(data, settings.colour))
    for remark in (*data.remarks, *remarks, *_remarks(data, recipe, settings)):
        report({"remark": remark})
    trainer = Trainer(data, recipe, settings, processes)
    if settings.init is not None:
        report({"remark": f"starts from {settings.init}; with new random weights: {', '.join(trainer.new_layers) or 'no layers'}"})
    if resume and (run / "last.pt").exists():
        trainer.load(run / "last.pt")
    path = run / "model.safetensors"
    with alone(run, trainer) if processes.first else nullcontext():
        if processes.first:
            begin_folder(run, data, settings, trainer)
        report({"remark": f"{trainer.describe()}; {trainer.epochs} epochs done"})
        processes.wait()
        _TrainingRun(trainer, run, report).run()
        if processes.first:
            with room_left(run):
                _finish(trainer, run, path, report)
        processes.wait()
    return path


class _TrainingRun:
    """The epochs of a run, with a judgement after some of them."""

    def __init__(self, trainer: Trainer, run: Path, report: Report) -> None:
        self.trainer, self.folder, self.report = trainer, run, report
        self.chooses = bool(trainer.data.split("val"))
        self.watched = next((s for s in ("val", "test") if trainer.data.split(s)), None)

    def run(self) -> None:
        """Train until the run is done or ``val`` gets no better; every process must call it."""
        trainer = self.trainer
        while trainer.done() < 1:
            enough = self.chooses and trainer.without_better >= trainer.settings.patience
            if trainer.processes.agreed(float(enough)):
                self.report({"remark": f"stopped early: no better judgement on val in {trainer.without_better}"})
                return
            before = trainer.done()
            record = self._epoch()
            if trainer.processes.first:
                if self.watched is not None and self._due(self.watched, before, trainer.done()):
                    record |= self._judge(self.watched)
                with room_left(self.folder):
                    append_json(self.folder / "metrics.jsonl", record)
                    trainer.save(self.folder / "last.pt")
                self.report(record)

    def _due(self, split: str, before: float, now: float) -> bool:
        """Whether the epoch between two shares of the run is to be judged; the last one always is."""
        learned = len(self.trainer.data.split("train"))
        cost = min(WATCH_NORMS, learned) + len(self.trainer.data.split(split))
        judgements = max(1, min(JUDGEMENTS, int(self.trainer.epochs * learned / now / (WORTH * cost))))
        return int(now * judgements) > int(before * judgements)

    def _epoch(self) -> dict[str, Any]:
        trainer, began, steps = self.trainer, time.monotonic(), list[Step]()
        images = trainer.settings.batch * trainer.processes.world
        for step in trainer.epoch():
            steps.append(step)
            rate = len(steps) * images / (time.monotonic() - began)
            right = float(np.mean([s.right for s in steps]))
            now = {"epoch": trainer.epochs + 1, "loss": step.loss, "accuracy": right, "images_per_s": rate}
            self.report({"done": trainer.done(), **now})
        seconds = time.monotonic() - began
        return {
            "epoch": trainer.epochs,
            "loss": float(np.mean([s.loss for s in steps])),
            "accuracy": float(np.mean([s.right for s in steps])),
            "images_per_s": len(steps) * images / seconds,
            "seconds": seconds,
            "loader_share": sum(s.waited_s for s in steps) / seconds,
        }

    def _judge(self, split: str) -> dict[str, Any]:
        trainer = self.trainer
        network = trainer.final(WATCH_NORMS)
        probabilities, labels = _predict(network, trainer, split)
        right = float((probabilities.argmax(1) == labels).mean())
        loss = float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-9)).mean())
        if self.chooses:
            trainer.without_better += 1
            if trainer.best is None or right > trainer.best:
                trainer.best, trainer.without_better = right, 0
                with room_left(self.folder):
                    trainer.save(self.folder / "best.pt")
        return {"judged": split, "judged_accuracy": right, "judged_loss": loss}


def _finish(trainer: Trainer, run: Path, path: Path, report: Report) -> None:
    data, settings, recipe = trainer.data, trainer.settings, trainer.recipe
    epochs = trainer.epochs
    if (run / "best.pt").exists():
        trainer.load(run / "best.pt")
        report({"remark": f"the weights of epoch {trainer.epochs} are taken: {trainer.best:.2%} on val"})
    report({"remark": f"trained; judging the model, its batch-norm statistics recomputed over {settings.norm_images} training images"})
    network = trainer.final(settings.norm_images)
    figures: dict[str, Figures] = {}
    wrong: list[tuple[int, int]] = []
    for split in sorted(set(data.splits) - {"train"}):
        probabilities, labels = _predict(network, trainer, split)
        figures[split] = measure(probabilities, labels, data.classes)
        rows = zip(data.split(split), probabilities.argmax(1).tolist(), strict=True)
        wrong += [(index, called) for index, called in rows if called != data.labels[index]]
        report({"remark": f"Top-1 on {split}: {figures[split].top1:.2%}"})
    info = _describe(trainer, epochs, {split: found.top1 for split, found in figures.items()})
    save_model(path, network, info)
    run_report.write_all(run, data, recipe, path, info, figures, wrong)


def _predict(network: nn.Module, trainer: Trainer, split: str) -> tuple[Any, Any]:
    data = trainer.data
    return predict(network, plain_batches(data, data.split(split), trainer.recipe, trainer.settings.batch))


def _describe(trainer: Trainer, epochs: int, accuracy: dict[str, float]) -> ModelInfo:
    settings = trainer.settings
    training = {
        **msgspec.to_builtins(settings),
        "init": None if settings.init is None else digest(Path(settings.init)),
        "epochs_done": epochs,
        "trained_s": round(trainer.trained_s, 1),
        "hardware": hardware(),
        "torch": str(torch.__version__),
    }
    return ModelInfo(
        name=settings.name,
        architecture=settings.model,
        classes=trainer.data.classes,
        recipe=trainer.recipe,
        mean=MEAN,
        std=STD,
        data=trainer.data.summary(),
        training=training,
        accuracy=accuracy,
        code_version=code_version(),
        miam=settings.miam,
        invariant=settings.invariant,
        locate=trainer.locate,
    )


def _decode(data: Dataset, colour: str) -> str:
    if colour == "auto":
        return "rgb" if has_colour(data) else "grey"
    return colour


def _remarks(data: Dataset, recipe: TileRecipe, settings: Settings) -> Iterator[str]:
    """What the user should know of this run before the first epoch."""
    if recipe.decode == "rgb" and settings.colour == "auto":
        yield "the images are coloured: the model takes colour, which a line does not give; --colour grey trains one for a line"
    if not data.split("val"):
        yield "no split val: the last epoch's weights are taken, and nothing ends the run early"


def _silent(_: dict[str, Any]) -> None:
    """The report of every process but the first: nothing."""
