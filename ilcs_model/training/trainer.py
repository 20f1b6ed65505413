"""One network in training: AdamW with a one-cycle rate, a running average of the weights, statistics recomputed for it."""

import copy
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ilcs_model import ARCHITECTURES, create
from ilcs_model.data.dataset import Dataset
from ilcs_model.data.loader import Batch, Epoch, choose_loader
from ilcs_model.errors import DataError, ModelFileError
from ilcs_model.evaluation.predict import form_problem, logits_of
from ilcs_model.export import has_bf16
from ilcs_model.files import load_model
from ilcs_model.info import TileRecipe, options
from ilcs_model.training.processes import Processes, keep_freed_memory
from ilcs_model.training.settings import SMALL, SMALL_UNTIL, Settings

COMPILE_STEPS, COMPILE_S = 100, 300  # compiling takes about a minute on two cores; a shorter run is over sooner without
UNEVEN = 1.5  # ratio of the largest to the smallest class above which classes are weighted
HEAVIEST = 10.0  # a class's weight at most
LOST = 1e6  # loss from which no run comes back
WIDE = 100_000  # inputs of a linear layer that needs the slow rate


class Step(NamedTuple):
    """What one step showed."""

    loss: float
    right: float
    """Share of the batch's augmented tiles that got their own label, 0..1."""
    waited_s: float = 0.0
    """Seconds of waiting for the loader before the step."""


class Trainer:
    """Network, optimiser and running average of one training run, on the device of ``processes``; seeds torch.

    With several processes all must build theirs at the same time. Raises ``DataError`` for fewer training images than processes,
    for DALI that is not installed, for settings with which no network can be built, and for a file ``settings.init`` that cannot
    be read or is of another network.
    """

    def __init__(self, data: Dataset, recipe: TileRecipe, settings: Settings, processes: Processes) -> None:
        self.data, self.recipe, self.settings, self.processes = data, recipe, settings, processes
        torch.manual_seed(settings.seed)
        self.device = processes.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.batches, self.loader = choose_loader(settings.loader, self.device)
        self.locate = data.locates and settings.invariant
        if len(data.split("train")) < processes.world:
            raise DataError(f"{data.root}: fewer training images than processes ({processes.world}); start fewer")
        network, self.new_layers = first_weights(data, settings, self.locate)
        if settings.model not in ARCHITECTURES:
            form = recipe.size_px, 3 if recipe.decode == "rgb" else 1, len(data.classes)
            if problem := form_problem(copy.deepcopy(network), *form):  # a copy: it may keep what it computed
                raise DataError(f"the model {settings.model} cannot be trained: {problem}; mend or remove its package")
        self.model = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model)
        self.class_weights = class_weights(data)
        self.steps_per_epoch = max(1, len(data.split("train")) // (settings.batch * processes.world))
        self.optimizer = torch.optim.AdamW(self._groups())
        self.step = self.epochs = 0
        self.trained_s = 0.0
        self.best: float | None = None
        self.without_better = 0
        self.bf16 = has_bf16(self.device.type)
        # On a CPU, inductor needs a C++ compiler; without one training runs eagerly, at about half the speed.
        self.compiler = self.device.type == "cuda" or shutil.which("g++") is not None
        long = (settings.budget_s or 0) >= COMPILE_S if settings.epochs is None else self.steps_per_epoch * settings.epochs >= COMPILE_STEPS
        self.compiled = self.compiler and long
        shared = processes.share(self.model)
        self.forward = torch.compile(shared, dynamic=False) if self.compiled else shared

    def describe(self) -> str:
        """How this run trains, in words: device, precision, compiled or not, loader, processes, class weights."""
        precision = "bfloat16" if self.bf16 else "float32"
        how = "compiled" if self.compiled else "eager, the run is short" if self.compiler else "eager: no C++ compiler found"
        several = f", {self.processes.world} processes" if self.processes.world > 1 else ""
        weighted = ", classes weighted" if self.class_weights is not None else ""
        return f"{self.device.type}, {precision}, {how}, tiles by {self.loader}{several}{weighted}"

    def done(self) -> float:
        """Share of the run that is done, 0..1. With a budget a collective call: all processes must make it, or those that do wait."""
        s = self.settings
        if s.budget_s is not None:
            return self.processes.agreed(min(1.0, self.trained_s / s.budget_s))
        assert s.epochs is not None
        return min(1.0, self.step / (self.steps_per_epoch * s.epochs))

    def epoch(self) -> Iterator[Step]:
        """Train over one epoch and yield what each step showed; ends early once a budget is used up. All processes must iterate to
        the end. Raises ``DataError`` for a loss that is huge or not a number, and naming an image that cannot be read."""
        self.model.train()
        # The size changes between epochs only: each size is compiled, and the last part of the run should be all whole tiles.
        side = SMALL if self.settings.any_size and self.settings.recipe == "full" and self.done() < SMALL_UNTIL else None
        batches = self.batches(self.data, self._epoch(self.epochs, side))
        began = time.monotonic()
        for batch in batches:
            waited_s = time.monotonic() - began
            found = self._step(batch)._replace(waited_s=waited_s)
            self.trained_s += time.monotonic() - began
            yield found
            began = time.monotonic()
            if self.done() >= 1:
                break
        self.epochs += 1

    def _epoch(self, number: int, side: int | None) -> Epoch:
        s, p = self.settings, self.processes
        return Epoch(self.recipe, s.batch, (s.seed, number), s.recipe, side, self.locate, p.rank, p.world)

    def _step(self, batch: Batch) -> Step:
        s = self.settings
        factor = one_cycle(self.done(), s.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            output = self.forward(batch.tiles.to(self.device))
        logits, labels = logits_of(output).float(), batch.labels.to(self.device)
        weights = None if self.class_weights is None else self.class_weights.to(self.device)
        loss = named = F.cross_entropy(logits, labels, weight=weights, label_smoothing=s.label_smoothing)
        if batch.maps is not None:
            loss = named + s.map_weight * map_loss(output[1].float(), batch.maps.to(self.device))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._average(min(s.average, self.step / (self.step + 9)))
        if not loss.item() < LOST:  # also if it is not a number
            raise DataError(f"the loss is {loss.item()} at step {self.step}: lower --rate (now {s.rate:g}) or look for broken images")
        return Step(named.item(), (logits.argmax(1) == labels).float().mean().item())

    def _groups(self) -> list[dict[str, Any]]:
        """Linear layers after a flattened map in groups of their own; biases and norms without decay."""
        s = self.settings
        heads = [m for m in self.model.children() if isinstance(m, nn.Linear)]
        slow = {id(p) for m in heads for p in m.parameters() if any(h.in_features > WIDE for h in heads)}
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for p in self.model.parameters():
            groups.setdefault((id(p) in slow, p.ndim > 1), []).append(p)
        return [
            {"params": params, "lr": 0.0, "peak": s.linear_rate if is_slow else s.rate, "weight_decay": s.weight_decay * decays}
            for (is_slow, decays), params in groups.items()
        ]

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        for kept, new in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new, 1 - keep)

    def final(self, images: int) -> nn.Module:
        """A copy of the averaged network in evaluation mode, its batch norms recomputed over about ``images`` training images.

        The statistics are taken in float32 whatever the steps were: with those of bfloat16 the same weights, run in float32,
        named 77 % of a fold of NEU right instead of 99.6 %; float32's are right for both.
        """
        model = copy.deepcopy(self.averaged)
        # Augmented as in training: the statistics must be those under which the weights were learned.
        epoch = self._epoch(1_000_000, None)._replace(rank=0, world=1, locate=False)
        enough = max(1, images // self.settings.batch)
        recompute_norms(model, (b.tiles.to(self.device) for b, _ in zip(self.batches(self.data, epoch), range(enough), strict=False)))
        return model

    def state(self) -> dict[str, Any]:
        """What ``save`` writes and ``load`` reads. The tensors in it are those in use, not copies."""
        return {
            "step": self.step,
            "epochs": self.epochs,
            "trained_s": self.trained_s,
            "best": self.best,
            "without_better": self.without_better,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "of": self._of(),
        }

    def _of(self) -> dict[str, Any]:
        """The settings and images that a checkpoint belongs to; a run's length is not among them, as it may be changed."""
        settings = msgspec.to_builtins(msgspec.structs.replace(self.settings, epochs=None, budget_s=None))
        return {**settings, "train_rows": self.data.summary()["train_rows"]}

    def save(self, path: Path) -> None:
        """Write a checkpoint, which appears whole or not at all; it is not synced to disk. Raises ``OSError``."""
        part = path.with_suffix(".part")
        try:
            torch.save(self.state(), part)
        except RuntimeError as exc:  # torch's writer hides what the disk says
            raise OSError(f"{part}: {str(exc)[:100]}") from exc
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. Raises ``DataError`` for one that is missing, damaged, or of another network or run.

        A checkpoint of another network may be loaded in part by then: this trainer must not be used further.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as exc:  # zip, pickle and torch each have their own; weights_only keeps code in it from running
            raise DataError(f"{path}: damaged, or not our checkpoint ({type(exc).__name__}); start again in another folder") from exc
        try:
            before = {key: state["of"].get(key) for key in self._of()}
            if others := [key for key, value in self._of().items() if before[key] != value]:
                what = ", ".join("other training images" if key == "train_rows" else f"{key} {before[key]}" for key in others)
                raise DataError(f"{path}: of a run that had {what}; give the same, or start a new run in another folder")
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name in ("step", "epochs", "trained_s", "best", "without_better"):
                setattr(self, name, state[name])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as exc:
            raise DataError(f"{path}: does not fit this run: it is of another network or other classes ({str(exc)[:200]})") from exc


@torch.no_grad()
def recompute_norms(model: nn.Module, batches: Iterator[Tensor]) -> None:
    """Set the statistics of every batch norm to the plain mean over ``batches``: tiles (N, C, S, S) on the network's device.

    Leaves evaluation mode on. Without a batch they are those of an untrained network. What the layers averaged while the weights
    moved does not fit the averaged weights, and a large linear layer magnifies the error: 93.3 % against 98.1 % Top-1 on NEU.
    """
    update_bn(batches, model)
    model.eval()


def map_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy of a map's logits (N, h, w) against ``Batch.maps``: the mean over the cells that are known, 0 if none is."""
    known = (wanted >= 0).float()
    losses = F.binary_cross_entropy_with_logits(found, wanted.clamp(min=0), weight=known, reduction="sum")
    return losses / known.sum().clamp(min=1)


def class_weights(data: Dataset) -> Tensor | None:
    """Weight of each class in the loss, float32 (K,): inverse to its number of training images, at most 10. Without that limit all
    classes would count alike. None if the largest class has at most 1.5 times as many training images as the smallest."""
    counts = Counter(data.labels[i] for i in data.split("train"))
    numbers = torch.tensor([float(counts[k]) for k in range(len(data.classes))])
    if numbers.max() <= UNEVEN * numbers.min():
        return None
    return (numbers.sum() / (len(data.classes) * numbers)).clamp(max=HEAVIEST)


def first_weights(data: Dataset, settings: Settings, locate: bool) -> tuple[nn.Module, list[str]]:
    """A network with the weights of ``settings.init``, if any, and the names of the layers that keep their random ones.

    These are layers that do not fit and, for other classes, the last one; [] without ``init``. Raises ``DataError``, see ``Trainer``.
    """
    form = options(settings.model, miam=settings.miam, invariant=settings.invariant, locate=locate)
    try:
        model = create(settings.model, len(data.classes), **form)
    except ValueError as exc:
        raise DataError(str(exc)) from exc
    if settings.init is None:
        return model, []
    try:
        before, info = load_model(Path(settings.init))
    except ModelFileError as exc:
        raise DataError(str(exc)) from exc
    if info.architecture != settings.model:
        raise DataError(f"{settings.init} is a {info.architecture}; this run trains a {settings.model}")
    mine, theirs = model.state_dict(), before.state_dict()
    if settings.invariant and not info.invariant:  # every place alike: the sum over places, as the input is their mean
        theirs["fc1.weight"] = theirs["fc1.weight"].unflatten(1, (mine["fc1.weight"].shape[1], -1)).sum(2)
    fitting = {k: v for k, v in theirs.items() if k in mine and mine[k].shape == v.shape}
    if info.classes != data.classes:
        last = list(model.named_children())[-1][0] if settings.model != "ilcs" else "fc2"
        fitting = {k: v for k, v in fitting.items() if not k.startswith(f"{last}.")}
    model.load_state_dict(fitting, strict=False)
    return model, sorted({name.rpartition(".")[0] for name in mine.keys() - fitting.keys()})


def one_cycle(done: float, warm_up: float) -> float:
    """Share of the peak rate after ``done`` (0..1) of the run: linear rise over ``warm_up``, then a half cosine to 0."""
    if done < warm_up:
        return 0.04 + 0.96 * done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
