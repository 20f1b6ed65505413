"""``linepipe eval``: figures of a model on labelled images."""

import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.config.model_file import find_model
from pipeline.config.plugins import ENGINES
from pipeline.core.errors import LinepipeError


def machine() -> str:
    """The machine on which a speed was measured, as text: processor, memory, system, and the GPU if torch is loaded and has one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "processor")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return f"{len(os.sched_getaffinity(0))} x {cpu}, {memory} GiB, {platform.system()} {platform.machine()}" + _gpu()


def engines_cache() -> Path:
    """Make and return the folder ``$XDG_CACHE_HOME/linepipe/engines`` (``~/.cache`` by default).

    Files in it are named by digests, so they fit no other model; they may be deleted at any time. Raises ``LinepipeError`` if the
    folder cannot be made.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
        folder = base / "linepipe" / "engines"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as exc:
        raise LinepipeError(f"converted models cannot be kept ({exc}); name a folder that can be written in XDG_CACHE_HOME") from exc
    return folder


def _gpu() -> str:
    torch = sys.modules.get("torch")  # an engine that uses the GPU has imported it
    return f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""


if TYPE_CHECKING:
    from ilcs_model.data.dataset import Dataset
    from ilcs_model.evaluation.metrics import Figures
    from ilcs_model.evaluation.robustness import Robustness
    from ilcs_model.info import ModelInfo, TileRecipe
    from nodes.infer.engines.golden_tiles import Engine
    from nodes.offline.eval_report import Speed
    from pipeline.core.tiles import Pixels

BATCH = 16  # what ``infer.max_batch`` is by default
TIMED = 5  # batches measured at least; the speed is their median
Progress = Callable[[int], None]


@click.command("eval")
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--split", help="A split of the data, or all. Default: test, or all if the data names no split.")
@click.option("--corrupt", is_flag=True, help="Also judge each image with 7 kinds of corruption in 5 strengths: 36 times the work.")
@click.option("--boxes", is_flag=True, help="Also compare the places of defects with annotated boxes, by the float32 network.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES.names()),
    default="eager",
    show_default=True,
    help="The engine that runs the model, as infer.engine of a line; eager is the float32 reference.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything.")
def evaluate(model: str, data: Path, split: str | None, corrupt: bool, boxes: bool, engine: str, as_json: bool) -> None:
    """Measure how well MODEL (a shipped model's name, or a file) judges the labelled images in the folder DATA.

    Example: linepipe eval ilcs-neu neu-det --corrupt --engine openvino
    """
    from ilcs_model.errors import DataError, ModelFileError
    from nodes.offline.eval_report import show

    try:
        report = _evaluate(find_model(model), data, split, corrupt, boxes, engine)
    except (DataError, ModelFileError) as exc:
        raise click.UsageError(str(exc)) from exc
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        show(report)


def _evaluate(path: Path, root: Path, split: str | None, corrupt: bool, boxes: bool, kind: str) -> Any:
    """The report; everything that can be wrong is checked before the long part begins."""
    from ilcs_model.data.check import check_images
    from ilcs_model.data.dataset import open_dataset
    from ilcs_model.errors import DataError
    from ilcs_model.evaluation.robustness import CASES
    from ilcs_model.files import load_model
    from ilcs_model.info import digest, read_info
    from nodes.infer.engines.load import open_engine
    from nodes.offline.eval_report import Report
    from nodes.offline.locate import box_scores, refuse_without_boxes

    info, data = read_info(path), open_dataset(root, for_training=False)
    if info.recipe.decode == "rgb" and kind != "eager":
        raise DataError(f"{path} is a colour model, which only --engine eager runs: lines judge grey tiles")
    split, chosen = choose(data, split)
    labels = labels_of(data, info.classes)[chosen]
    check_images(data, chosen)
    files = [data.files[i] for i in chosen]
    if boxes:
        refuse_without_boxes(data, chosen)
    engine = open_engine(kind, path, engines_cache(), BATCH)
    run = _Run(engine, files, labels, info.recipe)
    with _progress(len(files) * (1 + CASES * corrupt)) as progress:
        figures, speed = run.measure(info.classes, progress)
        corruption = run.spoil(progress) if corrupt else None
        places = box_scores(*load_model(path), data, chosen) if boxes else None
    return Report(
        model=info.name,
        digest=digest(path),
        engine=engine.name,
        machine=machine(),
        data=root.resolve().name,
        split=split,
        images=len(files),
        seen_in_training=seen_in_training(data, chosen, info),
        speed=speed,
        figures=figures,
        corruption=corruption,
        boxes=places,
    )


def choose(data: "Dataset", split: str | None) -> tuple[str, list[int]]:
    """The name of the split to evaluate, and the indices of its images. ``split``: None for the default.

    Raises ``DataError`` if it has no images.
    """
    from ilcs_model.errors import DataError

    name = split or ("test" if data.names_split else "all")
    chosen = list(range(len(data.files))) if name == "all" else data.split(name)
    if not chosen:
        there = ", ".join(f"{s} ({n} images)" for s, n in sorted(Counter(data.splits).items()))
        raise DataError(f"{data.root}: no image in split {name!r}; there is {there}; --split all takes everything")
    return name, chosen


def labels_of(data: "Dataset", classes: tuple[str, ...]) -> NDArray[np.int64]:
    """For each image of ``data`` the column of its class in the model's scores: int64 (images,).

    ``classes``: the model's. Raises ``DataError`` if the data has a class that the model lacks.
    """
    from ilcs_model.errors import DataError

    if foreign := [c for c in data.classes if c not in classes]:
        others = [c for c in classes if c not in data.classes]
        raise DataError(
            f"{data.root}: the model does not know: {', '.join(foreign)}; it knows what the data lacks: {', '.join(others) or 'nothing'}."
            " Give the classes the model's names, or choose a model that was trained on them"
        )
    columns = np.array([classes.index(c) for c in data.classes])
    return np.asarray(columns[list(data.labels)], np.int64)


def seen_in_training(data: "Dataset", chosen: list[int], info: "ModelInfo") -> int | None:
    """How many of the ``chosen`` images the model was trained on; None if it was not trained on the data of this folder."""
    if data.summary()["train_rows"] != info.data.get("train_rows"):
        return None
    return sum(data.splits[i] == "train" for i in chosen)


class _Run:
    """Runs one engine on one list of images. They are read again for each pass, as they may not all fit into memory."""

    def __init__(self, engine: "Engine", files: list[Path], labels: NDArray[np.int64], recipe: "TileRecipe") -> None:
        self._engine, self._files, self._labels, self._recipe = engine, files, labels, recipe

    def measure(self, classes: tuple[str, ...], progress: Progress) -> tuple["Figures", "Speed"]:
        """Figures on the unchanged images, and the speed. Raises ``LinepipeError`` if the engine fails or scores are not finite."""
        from ilcs_model.evaluation.metrics import measure
        from nodes.offline.eval_report import Speed

        scores, rates, full = [], [], min(BATCH, len(self._files))
        for tiles, _ in self._batches():
            began = time.perf_counter()
            scores.append(self._judge(tiles))
            if len(tiles) == full:
                rates.append(full / (time.perf_counter() - began))
                last = tiles
            progress(len(tiles))
        found = np.concatenate(scores)
        if not (sound := np.isfinite(found).all(axis=1)).all():
            raise LinepipeError(f"the model gives scores that are not finite: {self._files[int(sound.argmin())]}. Train it again")
        while len(rates) < TIMED:
            began = time.perf_counter()
            self._judge(last)
            rates.append(full / (time.perf_counter() - began))
        speed = Speed(images_per_s=round(statistics.median(rates), 2), batch=full, batches=len(rates))
        return measure(found, self._labels, classes), speed

    def spoil(self, progress: Progress) -> "Robustness":
        """Top-1 on the corrupted images. Raises ``LinepipeError`` if the engine fails."""
        from ilcs_model.evaluation.robustness import robustness

        return robustness(self._batches(), self._judge, progress=progress)

    def _judge(self, tiles: "Sequence[Pixels]") -> NDArray[np.float32]:
        from nodes.infer.engines.contract import softmax

        try:
            return softmax(self._engine(self._engine.gather(tiles)).logits)
        except RuntimeError as exc:  # torch's or OpenVINO's own: no memory, a broken driver
            raise LinepipeError(f"the engine {self._engine.name} failed: {exc}") from exc

    def _batches(self) -> "Iterator[tuple[list[Pixels], NDArray[np.int64]]]":
        from ilcs_model.data.images import read_image, to_tile

        for start in range(0, len(self._files), BATCH):
            part = slice(start, start + BATCH)
            yield [to_tile(read_image(file, self._recipe.decode), self._recipe) for file in self._files[part]], self._labels[part]


@contextmanager
def _progress(images: int) -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("images judged"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=images)
        yield lambda count: bar.advance(task, count)
