"""Training: AdamW with a one-cycle rate, weight averaging, batch-norm statistics recomputed for the final weights.

The two linear layers learn 150 times slower than the rest: with 350,464 inputs a unit, one Adam step at the common
rate moves their output by hundreds and the loss never leaves ln(classes).
"""

import copy
import functools
import itertools
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ilcs_model import create
from ilcs_model.data.dataset import Dataset
from ilcs_model.data.loader import Batch, plain_batches, train_batches
from ilcs_model.errors import DataError, ModelFileError
from ilcs_model.evaluation.judge import logits_of, top1
from ilcs_model.files import load_model, save_model
from ilcs_model.info import ModelInfo, Recipe, code_version, digest
from ilcs_model.networks.normalise import MEAN, STD

COMPILE_STEPS = 100  # compiling takes about a minute on two cores; a shorter run is over sooner without
Batches = Callable[[Dataset, Recipe, int, tuple[int, ...]], Iterator[Batch]]
Report = Callable[[dict[str, Any]], None]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a run; written into the run folder and into the model's metadata."""

    model: str = "ilcs"
    name: str = "model"
    epochs: int = 30
    batch: int = 16
    seed: int = 0
    rate: float = 3e-3
    linear_rate: float = 2e-5
    level_rate: float = 3e-6  # of the linear layers where the first is kept level: all its places move as one
    weight_decay: float = 0.02
    warm_up: float = 0.1  # share of all steps
    label_smoothing: float = 0.05
    average: float = 0.995  # weight of the running average at each step, once past the first steps
    clip_norm: float = 5.0
    norm_images: int = 1024  # training images over which batch-norm statistics are recomputed
    loader: str = "auto"  # who makes the training tiles: opencv, dali, or auto: dali on CUDA
    init: str | None = None  # model file whose weights the run starts from


def train(data: Dataset, run: Path, settings: Settings, *, resume: bool = False, report: Report = lambda _: None) -> Path:
    """Train, write ``run/model.safetensors`` and return its path.

    ``run`` receives ``settings.json``, ``metrics.jsonl`` and, after each epoch, ``checkpoint.pt``; with ``resume`` an
    interrupted run goes on from there. ``report`` is called with a record for each step, epoch and remark. Raises
    ``DataError`` when the run folder does not fit, or the loss is no longer a number.
    """
    recipe = Recipe()
    trainer = _Trainer(data, settings)
    first = _open_run(run, settings, trainer, resume)
    report({"remark": f"{trainer.describe()}; epochs {first + 1} to {settings.epochs}"})
    for epoch in range(first, settings.epochs):
        started = time.monotonic()
        losses = list(trainer.epoch(recipe, epoch, report))
        took = time.monotonic() - started
        record = {
            "epoch": epoch + 1,
            "loss": sum(losses) / len(losses),
            "images_per_s": len(losses) * settings.batch / took,
            "seconds": took,
        }
        _append_json(run / "metrics.jsonl", record)
        trainer.save(run / "checkpoint.pt", epoch + 1)
        report(record)

    model = trainer.final(recipe)
    info = _describe(data, settings, recipe, _judge(model, data, recipe, settings.batch, report))
    path = run / "model.safetensors"
    save_model(path, model, info)
    _append_json(run / "metrics.jsonl", {"accuracy": info.accuracy})
    return path


def _judge(model: nn.Module, data: Dataset, recipe: Recipe, batch: int, report: Report) -> dict[str, float]:
    """Top-1 of every split but ``train``."""
    accuracy = {}
    for split in sorted(set(data.splits) - {"train"}):
        accuracy[split] = top1(model, plain_batches(data, data.split(split), recipe, batch))
        report({"remark": f"Top-1 on {split}: {accuracy[split]:.2%}"})
    return accuracy


def _describe(data: Dataset, settings: Settings, recipe: Recipe, accuracy: dict[str, float]) -> ModelInfo:
    training = {
        **msgspec.to_builtins(settings),
        "init": None if settings.init is None else digest(Path(settings.init)),
        "hardware": platform.machine(),
        "torch": str(torch.__version__),
    }
    return ModelInfo(
        name=settings.name,
        architecture=settings.model,
        classes=data.classes,
        recipe=recipe,
        mean=MEAN,
        std=STD,
        data=data.summary(),
        training=training,
        accuracy=accuracy,
        code_version=code_version(),
        locate=data.locates,
    )


class _Trainer:
    """Network, optimiser and running average; one call an epoch."""

    def __init__(self, data: Dataset, settings: Settings) -> None:
        self.data, self.settings = data, settings
        torch.manual_seed(settings.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.batches, self.loader = _loader(settings.loader, self.device)
        self.model = _first_weights(data, settings).to(self.device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model)
        self.steps_per_epoch = max(1, len(data.split("train")) // settings.batch)
        self.optimizer = torch.optim.AdamW(self._groups())
        self.step = 0
        self.locate = data.locates
        self.bf16 = _has_bf16(self.device)
        # On a CPU, inductor needs a C++ compiler; without one training runs eagerly, at about half the speed.
        self.compiler = self.device.type == "cuda" or shutil.which("g++") is not None
        self.compiled = self.compiler and self.steps_per_epoch * settings.epochs >= COMPILE_STEPS
        self.forward = torch.compile(self.model) if self.compiled else self.model

    def describe(self) -> str:
        precision = "bfloat16" if self.bf16 else "float32"
        how = "compiled" if self.compiled else "eager, the run is short" if self.compiler else "eager: no C++ compiler found"
        return f"{self.device.type}, {precision}, {how}, tiles by {self.loader}"

    def _groups(self) -> list[dict[str, Any]]:
        """Linear layers of the classifier apart; biases and norms without decay."""
        s = self.settings
        linear = s.level_rate if self.data.locates else s.linear_rate
        slow = {id(p) for name, m in self.model.named_children() if isinstance(m, nn.Linear) for p in m.parameters()}
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for p in self.model.parameters():
            groups.setdefault((id(p) in slow, p.ndim > 1), []).append(p)
        return [
            {"params": params, "lr": 0.0, "peak": linear if is_slow else s.rate, "weight_decay": s.weight_decay * decays}
            for (is_slow, decays), params in groups.items()
        ]

    def epoch(self, recipe: Recipe, epoch: int, report: Report) -> Iterator[float]:
        """Train over one epoch and yield each step's loss."""
        self.model.train()
        for batch in self.batches(self.data, recipe, self.settings.batch, (self.settings.seed, epoch)):
            yield (loss := self._step(batch))
            report({"epoch": epoch + 1, "step": self.step, "steps": self.steps_per_epoch * self.settings.epochs, "loss": loss})

    def _step(self, batch: Batch) -> float:
        s = self.settings
        factor = one_cycle(self.step / (self.steps_per_epoch * s.epochs), s.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            output = self.forward(batch.tiles.to(self.device))
        loss = F.cross_entropy(logits_of(output).float(), batch.labels.to(self.device), label_smoothing=s.label_smoothing)
        if batch.maps is not None:
            loss = loss + map_loss(output[1].float(), batch.maps.to(self.device))
        loss.backward()
        if self.locate:
            self.model.level_gradient()
        nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._average(min(s.average, self.step / (self.step + 9)))
        if not math.isfinite(value := loss.item()):
            raise DataError(f"the loss is {value} at step {self.step}: lower the rate or look for broken images")
        return value

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        for kept, new in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new, 1 - keep)

    def final(self, recipe: Recipe) -> nn.Module:
        """The averaged network with batch-norm statistics of its own, in evaluation mode."""
        s, model = self.settings, copy.deepcopy(self.averaged)
        # Augmented as in training: the statistics must be those under which the weights were learned.
        batches = self.batches(self.data, recipe, s.batch, (s.seed, s.epochs))
        enough = itertools.islice(batches, max(1, s.norm_images // s.batch))
        recompute_norms(model, (batch.tiles.to(self.device) for batch in enough))
        return model

    def save(self, path: Path, epochs: int) -> None:
        part = path.with_suffix(".part")
        state = {
            "epochs": epochs,
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> int:
        """Restore a checkpoint and return the number of epochs it has behind it."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        return int(state["epochs"])


@torch.no_grad()
def recompute_norms(model: nn.Module, batches: Iterator[Tensor]) -> None:
    """Set every batch-norm layer's statistics to the plain average over ``batches``; leaves evaluation mode on.

    What the layers averaged while the weights moved does not fit the averaged weights, and the large linear layer
    magnifies the error: 93.3 % against 98.1 % Top-1 on NEU.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momentum = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
    model.train()
    for count, tiles in enumerate(batches, start=1):
        for m in norms:
            m.momentum = 1 / count
        model(tiles)
    for m, old in zip(norms, momentum, strict=True):
        m.momentum = old
    model.eval()


def map_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy of a map's logits (N, h, w), over the tiles whose defects' places are known.

    Defects cover few cells; theirs count four times.
    """
    known = (wanted >= 0).float()
    weight = known * (1 + 3 * wanted.clamp(min=0))
    losses = F.binary_cross_entropy_with_logits(found, wanted.clamp(min=0), weight=weight, reduction="sum")
    return losses / known.sum().clamp(min=1)


def _loader(name: str, device: torch.device) -> tuple[Batches, str]:
    """What makes training batches, and its name with the reason if it is not the one that ``auto`` prefers."""
    if name == "opencv" or (name == "auto" and device.type == "cpu"):
        return train_batches, "OpenCV"
    try:
        from ilcs_model.data.dali_loader import dali_batches
    except ImportError as exc:
        if name == "dali":
            raise DataError(f"--loader dali: {exc}; install nvidia-dali-cuda130 (x86_64 only) or choose opencv") from exc
        return train_batches, f"OpenCV, as DALI is not installed ({exc})"
    return functools.partial(dali_batches, device=device.type), "DALI"


def _first_weights(data: Dataset, settings: Settings) -> nn.Module:
    """A fresh network with the weights of ``settings.init``, if any; what other classes change starts anew."""
    model = create(settings.model, len(data.classes), locate=data.locates)
    if settings.init is not None:
        try:
            before, info = load_model(Path(settings.init))
        except ModelFileError as exc:
            raise DataError(str(exc)) from exc
        if info.architecture != settings.model:
            raise DataError(f"{settings.init} is a {info.architecture}; this run trains a {settings.model}")
        mine = model.state_dict()
        fitting = {k: v for k, v in before.state_dict().items() if k in mine and mine[k].shape == v.shape}
        if info.classes != data.classes:
            # Its rows stand for other classes.
            fitting = {k: v for k, v in fitting.items() if not k.startswith("fc2.")}
        model.load_state_dict(fitting, strict=False)
    if data.locates:
        model.level()
    return model


def one_cycle(done: float, warm_up: float) -> float:
    """Share of the peak rate after ``done`` (0..1) of the run: linear rise over ``warm_up``, then a half cosine to 0."""
    if done < warm_up:
        return 0.04 + 0.96 * done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _open_run(run: Path, settings: Settings, trainer: _Trainer, resume: bool) -> int:
    checkpoint, record = run / "checkpoint.pt", run / "settings.json"
    if checkpoint.exists() and not resume:
        raise DataError(f"{run} already holds a run; continue it with --resume or name another folder")
    if checkpoint.exists():
        before = record.read_text()
        if before != (now := _pretty(settings)):
            raise DataError(f"{run} was started with other settings; resume needs the same ones. Then: {before} now: {now}")
        return trainer.load(checkpoint)
    run.mkdir(parents=True, exist_ok=True)
    record.write_text(_pretty(settings))
    return 0


def _pretty(settings: Settings) -> str:
    return json.dumps(msgspec.to_builtins(settings), indent=1)


def _append_json(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text()
