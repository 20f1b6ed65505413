"""``linepipe explain``: pictures of where a model sees the defect that it names."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.config.model_file import find_model
from pipeline.console.output import printable
from pipeline.system.user_path import is_folder, look

if TYPE_CHECKING:
    from torch import nn

    from ilcs_model.data.images import Tile
    from ilcs_model.evaluation.heat import Picture, Shown
    from ilcs_model.info import ModelInfo
    from nodes.offline.locate import Seen

SHEET = "contact-sheet.png"
RECORDS = "explain.jsonl"


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the pictures; made if it does not exist.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def explain(model: str, images: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Show where in IMAGES (files, folders) MODEL (a shipped model's name, or a file) sees the defect that it names.

    Writes a picture for each image, contact-sheet.png, and explain.jsonl with labels, scores and boxes.

    Example: linepipe explain ilcs-line photos/ --out seen
    """
    from ilcs_model.errors import ModelFileError
    from ilcs_model.files import load_model

    path = find_model(model)
    files = _files(images, out)
    try:
        network, info = load_model(path)
    except ModelFileError as exc:
        raise click.UsageError(str(exc)) from exc
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise click.UsageError(f"--out {out}: cannot be made ({exc.strerror}); name a folder that can be written") from exc
    try:
        report = _explain(network, info, files, out)
    except OSError as exc:
        raise click.ClickException(f"{out}: {exc.strerror}; free some space or name another folder, and start again") from exc
    for problem in report["unreadable"]:
        click.echo(f"left out: {printable(problem)}", err=True)
    if as_json:
        click.echo(json.dumps(report))
    elif report["images"]:
        labels = ", ".join(f"{c} {n}" for c, n in report["labels"].items())
        click.echo(f"{report['images']} images explained by {report['method']}: {labels}")
        click.echo(f"pictures, {SHEET} and {RECORDS} written to {out}")
    if report["unreadable"]:
        sys.exit(1)


def _files(images: tuple[Path, ...], out: Path) -> list[Path]:
    """The image files that the arguments name, each once. Files under ``out`` were made by this command and are left out."""
    from ilcs_model.data.rows import IMAGE_SUFFIXES

    if look(out) is not None and not is_folder(out):
        raise click.UsageError(f"--out {out} is a file; name a folder")
    if missing := [path for path in images if look(path) is None]:
        raise click.UsageError(f"{missing[0]}: no such file or folder")
    target = out.resolve()
    if mixed := [path for path in images if target in (path.resolve(), path.resolve().parent)]:
        raise click.UsageError(f"--out {out}: images of {mixed[0]} would be written over; name another folder")
    found: dict[Path, Path] = {}
    for path in images:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()) if path.is_dir() else [path]
        for file in inside:
            if not file.resolve().is_relative_to(target) or not path.is_dir():
                found.setdefault(file.resolve(), file)
    if not found:
        raise click.UsageError(f"no images in {', '.join(map(str, images))}; images are {', '.join(sorted(IMAGE_SUFFIXES))}")
    return list(found.values())


def _explain(network: "nn.Module", info: "ModelInfo", files: list[Path], out: Path) -> dict[str, Any]:
    """Write all files; returns what ``--json`` prints. Raises ``OSError`` if ``out`` cannot be written."""
    from ilcs_model.evaluation.heat import PER_CLASS, contact_sheet, side_by_side, thumbs

    unreadable: list[str] = []
    names = _names(files)
    counts: Counter[str] = Counter()
    shown: defaultdict[str, list[Shown]] = defaultdict(list)
    method = "map" if info.locate else "grad-cam"
    with (out / RECORDS).open("w", encoding="utf-8") as records:
        for file, image, seen in _look_at(network, info, files, unreadable):
            label = info.classes[seen.label]
            caption = f"{label} {seen.scores[seen.label]:.3f}"
            _write(out / names[file], side_by_side(image, seen.heat, seen.boxes, caption))
            records.write(json.dumps(_record(file, names[file], info, seen)) + "\n")
            counts[label] += 1
            if len(shown[label]) < PER_CLASS:
                shown[label].append(thumbs(image, seen.heat))
    found = [c for c in info.classes if c in counts]
    if found:
        _write(out / SHEET, contact_sheet({c: shown[c] for c in found}))
    labels = {c: counts[c] for c in found}
    return {"model": info.name, "method": method, "images": counts.total(), "labels": labels, "unreadable": unreadable, "out": str(out)}


def _look_at(network: "nn.Module", info: "ModelInfo", files: list[Path], unreadable: list[str]) -> Iterator[tuple[Path, "Tile", "Seen"]]:
    """What the model sees in each file, with a bar on a terminal; files that cannot be read are added to ``unreadable``."""
    from rich.console import Console
    from rich.progress import track

    from ilcs_model.errors import DataError
    from nodes.offline.locate import BATCH, read, see

    groups = [files[k : k + BATCH] for k in range(0, len(files), BATCH)]
    for group in track(groups, "explain", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        images = {}
        for file in group:
            try:
                images[file] = read(file, info)
            except DataError as exc:
                unreadable.append(str(exc))
        if images:
            yield from zip(images, images.values(), see(network, info, list(images.values())), strict=True)


def _record(file: Path, picture: str, info: "ModelInfo", seen: "Seen") -> dict[str, Any]:
    """One line of explain.jsonl; boxes and peak in pixels of the image."""
    return {
        "file": str(file),
        "picture": picture,
        "label": info.classes[seen.label],
        "score": round(float(seen.scores[seen.label]), 6),
        "scores": {c: round(float(s), 6) for c, s in zip(info.classes, seen.scores, strict=True)},
        "boxes": seen.boxes,
        "peak": [round(v, 1) for v in seen.peak],
        "method": seen.method,
    }


def _names(files: list[Path]) -> dict[Path, str]:
    """A picture's name for each file: its own, with a number where several folders have the same."""
    taken = {SHEET}
    names = {}
    for file in files:
        name, k = f"{file.stem}.png", 1
        while name in taken:
            k += 1
            name = f"{file.stem}-{k}.png"
        taken.add(name)
        names[file] = name
    return names


def _write(path: Path, picture: "Picture") -> None:
    import cv2

    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
