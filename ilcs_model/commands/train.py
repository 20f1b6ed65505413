"""``linepipe train``"""

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ilcs_model import architectures

if TYPE_CHECKING:
    from ilcs_model.training.settings import Settings

UNITS = {"s": 1, "m": 60, "h": 3600}
RESUMED = {"data", "out", "resume", "tensorboard"}  # options that may be given with --resume; the others are in the run folder


class Budget(click.ParamType):  # type: ignore[type-arg]
    """A length of time as an option: ``90s``, ``10m``, ``2h``. Its value is seconds, more than 0."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(value))
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is not a length of time; write 90s, 10m or 2h", param, ctx)
        return float(found[1]) * UNITS[found[2]]


def _finite(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number", ctx, param)
    return value


def _plain(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[\w.+-]+", value):
        raise click.BadParameter(f"{value!r}: only letters, digits and . + - _ are allowed", ctx, param)
    return value


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder of class sub-folders, or with split.csv, or a VOC or COCO set.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder: checkpoints, metrics, the model, its card.")
@click.option("--model", type=click.Choice(architectures()), default="ilcs", show_default=True, help="Network to train.")
@click.option("--miam", is_flag=True, help="Put the paper's attention module before the head (ilcs always has it).")
@click.option("--recipe", type=click.Choice(("full", "paper")), default="full", show_default=True, help="paper: as published; full: ours.")
@click.option("--name", callback=_plain, help="Name the model carries; default: the run folder's.")
@click.option("--epochs", type=click.IntRange(1), default=60, show_default=True)
@click.option("--budget", type=Budget(), help="Train for this long instead: 10m, 2h. Judging comes on top.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    default=3e-3,
    show_default=True,
    help="Peak of the one-cycle schedule.",
)
@click.option("--batch", type=click.IntRange(2), default=16, show_default=True, help="Tiles in a step of one process.")
@click.option("--colour", type=click.Choice(("auto", "grey", "rgb")), default="auto", show_default=True, help="A line gives grey tiles.")
@click.option("--init", help="Model whose weights to start from: a shipped one's name, or a file.")
@click.option("--loader", type=click.Choice(("auto", "opencv", "dali")), default="auto", show_default=True, help="Makes the tiles.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; costs at most one epoch. Give --data if it has moved.")
@click.option("--tensorboard", is_flag=True, help="Also write events for TensorBoard into the run folder.")
@click.pass_context
def train(ctx: click.Context, /, data: Path | None, out: Path, resume: bool, tensorboard: bool, **options: Any) -> None:
    """Train a model from labelled images. Several GPUs: torchrun --nproc-per-node N -m pipeline train ...

    Example: linepipe train --data neu-det --out runs/neu
    """
    from ilcs_model.data.dataset import open_dataset
    from ilcs_model.errors import DataError
    from ilcs_model.training.run import train as run

    if resume:
        _refuse_settings(ctx)
    elif data is None:
        raise click.UsageError("Missing option '--data'.")
    elif options["budget"] is not None and ctx.get_parameter_source("epochs") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--epochs and --budget both say how long to train; give one")
    progress = _Progress()
    try:
        settings = _resumed(out) if resume else _settings(out, options)
        report = _with_tensorboard(progress, out) if tensorboard else progress
        path = run(open_dataset(data or _data_of(out)), out, settings, resume=resume, report=report)
    except DataError as exc:
        raise click.UsageError(str(exc)) from exc
    finally:
        progress.close()
    click.echo(f"model written to {path}")


def _settings(out: Path, options: dict[str, Any]) -> "Settings":
    from ilcs_model.training.settings import Settings

    budget, init, name = (options.pop(key) for key in ("budget", "init", "name"))
    if budget is not None:
        options["epochs"] = None
    return Settings(name=name or out.resolve().name, budget_s=budget, init=init and _model_file(init), **options)


def _refuse_settings(ctx: click.Context) -> None:
    given = [k for k in ctx.params if k not in RESUMED and ctx.get_parameter_source(k) is click.core.ParameterSource.COMMANDLINE]
    if given:
        names = ", ".join(f"--{name}" for name in given)
        raise click.UsageError(f"{names} cannot be changed by --resume: the run goes on with the settings in its folder")


def _resumed(out: Path) -> "Settings":
    from ilcs_model.training.settings import read_settings

    return read_settings(out / "settings.json")


def _data_of(out: Path) -> Path:
    """The data folder of an earlier run. Raises ``DataError`` if the run does not say, or the folder is not there any more."""
    import json

    from ilcs_model.data.rows import is_folder
    from ilcs_model.errors import DataError

    try:
        found = Path(json.loads((out / "environment.json").read_text())["data"])
    except (OSError, ValueError, KeyError) as exc:
        raise DataError(f"{out / 'environment.json'}: does not say where the data is ({exc}); give --data") from exc
    if not is_folder(found):
        raise DataError(f"{found}: the run's data is not there any more; give --data")
    return found


def _model_file(name: str) -> str:
    """Path of a shipped model by name; another name is taken as a path. Raises ``click.UsageError`` if there is no such file."""
    from ilcs_model.data.rows import is_file

    shipped = Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
    if is_file(shipped):
        return str(shipped)
    if not is_file(Path(name)):
        names = ", ".join(sorted(p.stem for p in shipped.parent.glob("*.safetensors")))
        raise click.UsageError(f"--init {name}: no such file, and no shipped model; shipped are {names}")
    return name


def _with_tensorboard(progress: "_Progress", out: Path) -> Any:
    from ilcs_model.errors import DataError

    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as exc:
        raise DataError(f"--tensorboard: {exc}; pip install tensorboard") from exc
    writer = SummaryWriter(str(out / "tensorboard"))

    def report(record: dict[str, Any]) -> None:
        progress(record)
        for key in ("loss", "accuracy", "images_per_s", "judged_accuracy", "judged_loss"):
            if key in record and "done" not in record:
                writer.add_scalar(key, record[key], record["epoch"])
        writer.flush()

    return report


class _Progress:
    """Shows the records of ``run.train``: a bar on a terminal, elsewhere one line for each epoch."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}  {task.fields[images_per_s]:.1f} images/s"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._bar.start()
        self._task = self._bar.add_task("train", total=1.0, epoch=0, loss=0.0, accuracy=0.0, images_per_s=0.0)

    def __call__(self, record: dict[str, Any]) -> None:
        if "remark" in record:
            click.echo(record["remark"])
        elif "done" in record:
            self._bar.update(self._task, completed=record["done"], **{k: v for k, v in record.items() if k != "done"})
        else:
            click.echo(_line(record))

    def close(self) -> None:
        self._bar.stop()


def _line(r: dict[str, Any]) -> str:
    text = f"epoch {r['epoch']}: loss {r['loss']:.4f}, accuracy {r['accuracy']:.2%}, {r['images_per_s']:.1f} images/s"
    return text + (f"; {r['judged']} {r['judged_accuracy']:.2%}" if "judged" in r else "")
