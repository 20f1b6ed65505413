"""What a person reads after a run: curves, confusion matrix, report, misclassified images, model card."""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from ilcs_model.data.dataset import Dataset
from ilcs_model.data.images import read_image
from ilcs_model.errors import DataError
from ilcs_model.evaluation.heat import labelled_sheet
from ilcs_model.evaluation.metrics import Figures
from ilcs_model.info import ModelInfo, TileRecipe

MOST_WRONG = 60  # misclassified images shown; the report names all
DPI = 110


def need_matplotlib() -> None:
    """Raise ``DataError`` if matplotlib is missing: better now than after the last epoch. Sets MPLBACKEND if it is not set."""
    os.environ.setdefault("MPLBACKEND", "agg")
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise DataError(f"the curves need matplotlib ({exc}); install linepipe with its dependencies") from exc


def write_all(
    run: Path,
    data: Dataset,
    recipe: TileRecipe,
    model: Path,
    info: ModelInfo,
    figures: dict[str, Figures],
    wrong: Sequence[tuple[int, int]],
) -> None:
    """Write the run's report into ``run``, in which ``metrics.jsonl`` already is.

    That is ``accuracy.png``, ``loss.png``, ``report.json``, for each split in ``figures`` a ``confusion-SPLIT.png``, ``model.md``,
    and ``misclassified.png`` if any image is. ``wrong`` has two numbers for each misclassified image: its index in ``data``, and
    the class that it got. Raises ``OSError`` if a file cannot be written, ``DataError`` naming an image that cannot be read.
    """
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curves(run, records)
    report = {split: msgspec.to_builtins(found) for split, found in figures.items()}
    named = [{"file": str(data.files[i]), "split": data.splits[i], "class": _name(data, i), "called": data.classes[c]} for i, c in wrong]
    (run / "report.json").write_text(json.dumps({"splits": report, "wrong": named}, indent=1))
    for split, found in figures.items():
        confusion(run / f"confusion-{split}.png", found, f"{info.name} on {split}")
    if wrong:
        shown = [(read_image(data.files[i], recipe.decode), f"{_name(data, i)}: {data.classes[c]}") for i, c in wrong[:MOST_WRONG]]
        (run / "misclassified.png").write_bytes(cv2.imencode(".png", labelled_sheet(shown))[1].tobytes())
    (run / "model.md").write_text(card(model, info, figures))


def curves(run: Path, records: list[dict[str, Any]]) -> None:
    """Draw ``accuracy.png`` and ``loss.png`` into ``run``: over the epochs, as the paper's Figures 7 and 8.

    ``records`` are the lines of ``metrics.jsonl``: of augmented training tiles and, where it was judged, of the split that was
    watched. Raises ``OSError``.
    """
    from matplotlib.figure import Figure

    judged = [r for r in records if "judged" in r]
    for what in ("accuracy", "loss"):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([r["epoch"] for r in records], [r[what] for r in records], label="train, augmented")
        if judged:
            axes.plot([r["epoch"] for r in judged], [r[f"judged_{what}"] for r in judged], marker="o", label=judged[-1]["judged"])
        axes.set(xlabel="epoch", ylabel="Top-1" if what == "accuracy" else "cross-entropy")
        axes.grid(alpha=0.3)
        axes.legend()
        _save(figure, run / f"{what}.png")


def confusion(path: Path, found: Figures, title: str) -> None:
    """Draw the confusion matrix of ``found`` as PNG into the file ``path``. Raises ``OSError``.

    Rows are the true classes, columns those that the model gave. The numbers are images, the colour is their share of the row.
    """
    from matplotlib.figure import Figure

    names = [c.name for c in found.classes]
    counts = np.array(found.confusion)
    side = min(24.0, 3 + 0.6 * len(names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(1, counts.sum(1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="called", ylabel="is", title=title)
    for (i, j), n in np.ndenumerate(counts):
        if n:
            axes.text(j, i, str(n), ha="center", va="center", color="white" if n > counts[i].sum() / 2 else "black", fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        # Class names in a script that the font lacks are drawn as boxes; the report has them as they are.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(path, dpi=DPI)


def card(model: Path, info: ModelInfo, figures: dict[str, Figures]) -> str:
    """The model card as Markdown, for a person to complete. Raises ``OSError`` if the file ``model`` is not there."""
    training, images = info.training, info.data["images"]
    form = ", ".join(
        w for w, on in (("invariant to light and place", info.invariant), ("with MIAM", info.miam), ("locates", info.locate)) if on
    )
    how = (
        f"{training['epochs_done']} epochs in {training['trained_s'] / 60:.0f} minutes on {training['hardware']}, torch {training['torch']}"
    )
    normalised = "by each tile's own mean and deviation" if info.invariant else f"({info.mean:g}, {info.std:g})"
    rows = [
        ("Network", f"{info.architecture}{f' ({form})' if form else ''}, {model.stat().st_size / 1e6:.1f} MB"),
        (
            "Input",
            f"{info.recipe.decode}, {info.recipe.size_px} x {info.recipe.size_px}, uint8; {info.recipe.resize}; normalised {normalised}",
        ),
        ("Classes", ", ".join(info.classes)),
        ("Data", "; ".join(f"{split} {sum(n.values())}" for split, n in images.items()) + f" images of {info.data['name']}"),
        ("Top-1", ", ".join(f"{split} {found.top1:.2%}" for split, found in figures.items()) or "not judged: the data has no split for it"),
        ("Training", f"recipe {training['recipe']}, seed {training['seed']}, {how}"),
        ("Made by", f"linepipe {info.code_version}"),
    ]
    parts = [f"# {info.name}\n", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    for split, found in figures.items():
        parts += [
            f"\n## On {split}: {sum(c.support for c in found.classes)} images\n",
            "| class | images | precision | recall | F1 |",
            "|---|---|---|---|---|",
        ]
        parts += [f"| {c.name} | {c.support} | {_share(c.precision)} | {_share(c.recall)} | {_share(c.f1)} |" for c in found.classes]
        parts.append(f"\nTop-5 {found.top5:.2%}, calibration error {found.calibration.error:.2%}.")
    parts.append(
        "\n## Limits\n\nThe figures hold for images like these: other material, cameras and light give other ones. Judge it on your own"
        " images (`linepipe eval`) before a line relies on it. The weights inherit the terms of the images.\n"
    )
    return "\n".join(parts)


def _name(data: Dataset, index: int) -> str:
    return data.classes[data.labels[index]]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
