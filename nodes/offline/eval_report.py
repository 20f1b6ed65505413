"""The results of ``linepipe eval``, as a record and as tables."""

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from ilcs_model.data.corrupt import HELD_OUT
from ilcs_model.evaluation.boxes import BoxScore, BoxScores
from ilcs_model.evaluation.metrics import Accepting, ErrorCurve, Figures, MissCurve, Missing
from ilcs_model.evaluation.robustness import Accuracy, Robustness
from pipeline.config import Infer

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 80
MOST_COLUMNS = 12
"""Most classes whose confusion matrix fits the width; with more, the pairs confused most often are shown."""
MOST_PAIRS = 15
AT_NONE = "at none from 0.001 to 0.999"


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Speed of the engine alone, from tiles in memory to their scores, without reading and resizing the images."""

    images_per_s: float
    """Median over ``batches`` of ``batch`` images."""
    batch: int
    batches: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``linepipe eval --json`` prints."""

    model: str
    digest: str
    engine: str
    machine: str
    data: str
    split: str
    images: int
    seen_in_training: int | None
    """How many of the images the model was trained on; None if it was not trained on the data of this folder."""
    speed: Speed
    figures: Figures
    corruption: Robustness | None
    """None without ``--corrupt``."""
    boxes: BoxScores | None
    """None without ``--boxes``."""


def show(report: Report) -> None:
    """Print tables, ``WIDTH`` characters wide at most; without lines and colours if stdout is no terminal."""
    from rich.console import Console

    console = Console(width=WIDTH, highlight=False, markup=False, emoji=False)
    for part in _parts(report):
        console.print(part)


def _parts(report: Report) -> list[Any]:
    figures = report.figures
    parts = [_head(report), *_classes(figures), *_confusion(figures)]
    parts += _misses(figures.curve) if isinstance(figures.curve, MissCurve) else _errors(figures.curve)
    if report.corruption is not None:
        parts += _corruption(report.corruption, figures.top1)
    return parts if report.boxes is None else [*parts, *_boxes(report.boxes)]


def _head(report: Report) -> str:
    figures, speed = report.figures, report.speed
    lines = [
        f"{report.model} on {report.data}, split {report.split}: {report.images} images, engine {report.engine}",
        f"  Top-1 {figures.top1:.2%}, Top-5 {figures.top5:.2%}, calibration error {figures.calibration.error:.2%}",
        f"  {speed.images_per_s} images/s, tiles in memory to scores (median of {speed.batches} batches of {speed.batch})",
        f"  {report.digest}",
        f"  {report.machine}",
    ]
    if report.seen_in_training:
        lines.append(f"  ! the model was trained on {report.seen_in_training} of these images: their figures say nothing about new ones")
    if absent := [c.name for c in figures.classes if not c.support]:
        lines.append(f"  no image of: {', '.join(absent)}")
    return "\n".join(lines)


def _table(*columns: str) -> "Table":
    """An empty table: first column left-aligned, the others right-aligned."""
    from rich import box
    from rich.table import Table

    plain = not sys.stdout.isatty()
    table = Table(box=None if plain else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        table.add_column(name, justify="right")
    return table


def _classes(figures: Figures) -> list[Any]:
    table = _table("class", "images", "precision %", "recall %", "F1 %")
    for c in figures.classes:
        table.add_row(c.name, str(c.support), _percent(c.precision), _percent(c.recall), _percent(c.f1))
    return ["", table]


def _confusion(figures: Figures) -> list[Any]:
    names = [c.name for c in figures.classes]
    if len(names) > MOST_COLUMNS:
        table = _table("true class", "called", "images")
        pairs = [(n, i, j) for i, row in enumerate(figures.confusion) for j, n in enumerate(row) if n and i != j]
        for n, i, j in sorted(pairs, reverse=True)[:MOST_PAIRS]:
            table.add_row(names[i], names[j], str(n))
        return ["\nConfused most often", table]
    table = _table("", *(str(k + 1) for k in range(len(names))))
    for k, row in enumerate(figures.confusion):
        table.add_row(f"{k + 1} {names[k]}", *(str(n) if n else "." for n in row))
    return ["\nConfusion: the true class by row, what it is called by column", table]


def _misses(found: MissCurve) -> list[Any]:
    table = _table("min_score", "misses", "of defects %", "false alarms", "of ok %")
    for p in _telling(found.points):
        table.add_row(_score(p), str(p.misses), _percent(p.miss_share), str(p.false_alarms), _percent(p.false_alarm_share))
    low, high = found.no_miss, found.no_false_alarm
    no_miss = f"up to {low.min_score}, with {low.false_alarms} false alarms" if low else _none(found.points[0].miss_share)
    no_alarm = f"from {high.min_score} on, with {high.misses} misses" if high else _none(found.points[0].false_alarm_share)
    title = (
        "\nChoosing infer.min_score: misses (defects with 1 - p(ok) below it) against"
        "\nfalse alarms (tiles of ok with 1 - p(ok) not below it)"
    )
    return [title, table, f"  no miss: {no_miss}\n  no false alarm: {no_alarm}"]


def _none(share: float | None) -> str:
    """The text in place of a threshold if none is right."""
    return "not known: the data has no such tile" if share is None else AT_NONE


def _errors(found: ErrorCurve) -> list[Any]:
    table = _table("min_score", "accepted", "coverage %", "wrong", "of accepted %")
    for p in _telling(found.points):
        table.add_row(_score(p), str(p.accepted), _percent(p.coverage), str(p.wrong), _percent(p.error))
    best = found.no_error
    text = f"from {best.min_score} on, with a coverage of {best.coverage:.2%}" if best else AT_NONE
    title = (
        "\nChoosing infer.min_score: coverage against errors. The model has no class ok:"
        "\na tile is accepted if its best score reaches min_score, else the line is silent"
    )
    return [title, table, f"  no accepted tile is wrong: {text}"]


def _telling(points: tuple[Any, ...]) -> list[Any]:
    """The points where a count changes, both ends, and the default threshold."""
    kept, preset = [points[0]], Infer(model="").min_score
    for point in points[1:]:
        if _counts(point) != _counts(kept[-1]) or point is points[-1] or point.min_score == preset:
            kept.append(point)
    return kept


def _counts(point: Missing | Accepting) -> tuple[int, int]:
    return (point.misses, point.false_alarms) if isinstance(point, Missing) else (point.accepted, point.wrong)


def _corruption(found: Robustness, clean: float) -> list[Any]:
    table = _table("kind", "1", "2", "3", "4", "5", "mean")

    def add(name: str, accuracy: Accuracy) -> None:
        table.add_row(name, *(_percent(a) for a in accuracy.strengths), _percent(accuracy.mean))

    for kind, accuracy in found.kinds.items():
        add(f"{kind} *" if kind in HELD_OUT else kind, accuracy)
    table.add_section()
    add("mean of *", found.held_out)
    add("mean of the others", found.trained)
    add("mean of all", found.all)
    return [f"\nTop-1 % by strength of corruption (none: {100 * clean:.2f}); * never drawn in training", table]


def _boxes(found: BoxScores) -> list[Any]:
    table = _table("class", "images", "pointing %", "smoothed %", "centre %", "IoU %", "best IoU %")

    def add(name: str, s: BoxScore) -> None:
        shares = (s.pointing, s.pointing_smoothed, s.centre, s.iou, s.best_iou)
        table.add_row(name, str(s.images), *(_percent(share) for share in shares))

    for name, score in found.classes.items():
        add(name, score)
    table.add_section()
    add("all", found.overall)
    return ["\nWhere it sees them: pointing into an annotated box (centre: the image's centre), overlap", table]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _score(point: Missing | Accepting) -> str:
    return f"{point.min_score:.3f}".removesuffix("0")
