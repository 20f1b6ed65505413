"""``linepipe train``"""

import sys
from pathlib import Path
from typing import Any

import click

from ilcs_model import ARCHITECTURES


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with split.csv, or with one sub-folder a class.")
@click.option("--model", type=click.Choice(ARCHITECTURES), default="ilcs", show_default=True, help="Network to train.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder: checkpoints, metrics, the model.")
@click.option("--name", default=None, help="Name the model carries; default: the run folder's.")
@click.option("--epochs", type=click.IntRange(1), default=28, show_default=True)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=3e-3, show_default=True, help="Peak rate of the one-cycle schedule."
)
@click.option("--init", help="Model whose weights to start from: a shipped one's name, or a file.")
@click.option(
    "--loader",
    type=click.Choice(("auto", "opencv", "dali")),
    default="auto",
    show_default=True,
    help="Makes the tiles; auto: dali on CUDA.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; costs at most one epoch.")
def train(
    data: Path, model: str, out: Path, name: str | None, epochs: int, rate: float, init: str | None, loader: str, seed: int, resume: bool
) -> None:
    """Train a model from labelled images.

    Example: linepipe train --data neu-det --model ilcs --out runs/neu
    """
    from ilcs_model.data.dataset import open_dataset
    from ilcs_model.errors import DataError
    from ilcs_model.training.train import Settings
    from ilcs_model.training.train import train as run

    settings = Settings(
        model=model,
        name=name or out.resolve().name,
        epochs=epochs,
        rate=rate,
        seed=seed,
        loader=loader,
        init=None if init is None else _model_file(init),
    )
    progress = _Progress()
    try:
        path = run(open_dataset(data), out, settings, resume=resume, report=progress)
    except DataError as exc:
        raise click.UsageError(str(exc)) from exc
    finally:
        progress.close()
    click.echo(f"model written to {path}")


def _model_file(name: str) -> str:
    """Path of a shipped model by name; what names none is a path."""
    shipped = Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
    if shipped.is_file():
        return str(shipped)
    if not Path(name).is_file():
        names = ", ".join(sorted(p.stem for p in shipped.parent.glob("*.safetensors")))
        raise click.UsageError(f"--init {name}: no such file, and no shipped model; shipped are {names}")
    return name


class _Progress:
    """A bar on a terminal, a line an epoch elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn("loss {task.fields[loss]:.3f}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("train", total=None, epoch=0, loss=0.0)

    def __call__(self, record: dict[str, Any]) -> None:
        if "remark" in record:
            click.echo(record["remark"])
        elif "images_per_s" in record:
            click.echo(f"epoch {record['epoch']}: loss {record['loss']:.4f}, {record['images_per_s']:.1f} images/s")
        elif self._bar is not None:
            self._bar.update(self._task, completed=record["step"], total=record["steps"], epoch=record["epoch"], loss=record["loss"])

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
