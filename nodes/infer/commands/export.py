"""``linepipe export``"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from nodes.infer.commands.proof import BATCH, Compared, Named, Proof, batches, compare
from nodes.infer.engines.contract import Output
from nodes.infer.engines.converted import Form
from pipeline.errors import ConfigError, LinepipeError
from pipeline.model_file import find_model

ENGINES = ("onnx", "openvino", "compiled")
SHOWN = 20
MARK = "model.json"
"""Written last: a folder without it holds no export."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output."""

    name: str
    type: str
    shape: tuple[str | int, ...]


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """``model.json``: all that another program must know. Probabilities are the softmax of the logits."""

    name: str
    classes: tuple[str, ...]
    recipe: dict[str, Any]
    """How an image becomes a tile."""
    normalisation: dict[str, Any]
    """The network's first line, not the caller's: it takes the tile as it is."""
    digest: str
    """Of the model file that was exported."""
    engine: str
    library: str
    runs_as: str
    """Engine, precision and device of the proof: how a line runs it on that machine."""
    settings: dict[str, str]
    """Of the library, for that."""
    files: tuple[str, ...]
    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]
    linepipe: str
    proof: Proof


class Images(msgspec.Struct, frozen=True, kw_only=True):
    """What the proof looks at beside golden tiles."""

    root: Path
    split: str | None
    files: tuple[Path, ...]


@click.command()
@click.argument("model")
@click.option("--engine", type=click.Choice(ENGINES), required=True, help="What shall run it.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the exported files; new or empty.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled images to prove it on; without, golden tiles alone.")
@click.option("--split", help="Which images of --data; default: all.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def export(model: str, engine: str, out: Path, data: Path | None, split: str | None, as_json: bool) -> None:
    """Write a model for another program, and prove that it gives the same labels.

    MODEL is a shipped model's name or a file. Exit 1, and nothing written, when an image gets another label.

    Example: linepipe export ilcs-neu --engine onnx --out exported --data neu-det --split test
    """
    from ilcs_model.info import digest

    path = find_model(model)
    sha = digest(path)
    images = _images(data, split)
    out = out.resolve()
    _refuse_foreign(out, engine, sha)
    form = _form(engine)
    try:
        with _folder_in(out) as part:
            _remark(f"writing {form.file}" + (": a minute or more" if engine == "compiled" else ""))
            form.convert(path, part / form.file)
            found = _prove(form, part, path, sha, engine, images)
            if found.proof.holds:
                (part / MARK).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
                _move(part, out)
    except (RuntimeError, OSError) as exc:  # torch's or OpenVINO's own, a compiler that fails, a full disk
        raise LinepipeError(f"{path} cannot be exported to {out} for the engine {engine}: {exc}") from exc
    _report(found, images, out, as_json)


def _images(data: Path | None, split: str | None) -> Images | None:
    """The images of the proof, each read once: a damaged one is found before the long part. Raises ``click.UsageError``."""
    if data is None:
        if split is not None:
            raise click.UsageError("--split chooses among the images of --data; give --data too")
        return None
    from ilcs_model.data.dataset import open_dataset
    from ilcs_model.data.images import read_image
    from ilcs_model.errors import DataError

    try:
        found = open_dataset(data)
        chosen = found.files if split is None else tuple(found.files[k] for k in found.split(split))
        if not chosen:
            raise DataError(f"{data}: no image in split {split!r}; there is {', '.join(sorted(set(found.splits)))}")
        for file in chosen:
            read_image(file)
    except DataError as exc:
        raise click.UsageError(str(exc)) from exc
    return Images(root=data, split=split, files=chosen)


def _refuse_foreign(out: Path, engine: str, sha: str) -> None:
    """Raises ``ConfigError`` unless ``out`` is new, empty, or holds an earlier export of the same."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder")
    names = {p.name for p in out.iterdir() if not p.name.startswith(".")} if out.exists() else set()
    if not names:
        return
    try:
        old = msgspec.json.decode((out / MARK).read_bytes(), type=Exported)
    except (OSError, msgspec.MsgspecError):
        raise ConfigError(f"{out} holds other files; choose another folder or empty it") from None
    if (old.engine, old.digest) != (engine, sha):
        raise ConfigError(f"{out} holds {old.name} ({old.digest}) for {old.engine}; choose another folder or remove it")
    if foreign := names - {MARK, *old.files}:
        raise ConfigError(f"{out} holds other files ({', '.join(sorted(foreign))}); choose another folder or remove them")


def _form(engine: str) -> Form[Any]:
    if engine == "onnx":
        from nodes.infer.engines.onnx import onnx_form

        return onnx_form()
    if engine == "openvino":
        from nodes.infer.engines.openvino import openvino_form

        return openvino_form()
    from nodes.infer.engines.package import package_form

    return package_form()


@contextmanager
def _folder_in(out: Path) -> Iterator[Path]:
    """A hidden folder inside ``out`` to write and prove in; it goes, and so does ``out`` if nothing is in it then."""
    out.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=out))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()


def _move(part: Path, out: Path) -> None:
    """What was proven takes its place, ``MARK`` last."""
    (out / MARK).unlink(missing_ok=True)
    for file in sorted(part.iterdir(), key=lambda file: file.name == MARK):
        os.replace(file, out / file.name)


def _prove(form: Form[Any], part: Path, path: Path, sha: str, engine: str, images: Images | None) -> Exported:
    """Load what was written, hold it against the float32 network, and put down everything known of it."""
    from ilcs_model.data.images import read_image, to_tile
    from ilcs_model.info import code_version, read_info
    from nodes.infer.engines.eager import EagerEngine

    info, trained, network = read_info(path), EagerEngine(path), form.open(part / form.file)
    golden = trained.golden.tiles
    named = Named([f"golden tile {k}" for k in range(len(golden))], golden)
    compared: Compared | None = None
    over_golden = compare(network, trained, [named], info.classes)
    if images is not None:
        tiles = batches(images.files, lambda file: to_tile(read_image(file), info.recipe))
        compared = compare(network, trained, _progress(tiles, len(images.files)), info.classes)
    return Exported(
        name=info.name,
        classes=info.classes,
        recipe=msgspec.to_builtins(info.recipe),
        normalisation={"formula": "(pixel / 255 - mean) / std", "mean": info.mean, "std": info.std, "inside_the_network": True},
        digest=sha,
        engine=engine,
        library=form.version,
        runs_as=network.name,
        settings=getattr(network, "settings", {}),
        files=tuple(sorted(p.name for p in part.iterdir())),
        inputs=(Part(name="tiles", type="uint8", shape=("N", 1, trained.side, trained.side)),),
        outputs=_outputs(trained(golden)),
        linepipe=code_version(),
        proof=Proof(
            golden=over_golden,
            images=compared,
            data=None if images is None else images.root.resolve().name,
            split=None if images is None else images.split,
        ),
    )


def _outputs(found: Output) -> tuple[Part, ...]:
    parts = {"logits": found.logits, "maps": found.maps}
    return tuple(Part(name=n, type="float32", shape=("N", *part.shape[1:])) for n, part in parts.items() if part is not None)


def _remark(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(text, err=True)


def _progress(tiles: Iterator[Named], count: int) -> Iterator[Named]:
    """The same batches, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    yield from track(tiles, "comparing", total=-(-count // BATCH), console=Console(stderr=True), disable=not sys.stderr.isatty())


def _report(found: Exported, images: Images | None, out: Path, as_json: bool) -> None:
    """Say how it went. Raises ``LinepipeError`` if the proof does not hold."""
    proof = found.proof
    if as_json:
        folder = str(out) if proof.holds else None
        click.echo(msgspec.json.encode({"proven": proof.holds, "folder": folder, **msgspec.to_builtins(found)}))
    else:
        click.echo(f"{found.name} as {found.runs_as} ({found.library}) against the trained network in float32")
        click.echo(_line("golden tiles", proof.golden))
        if images is None or proof.images is None:
            click.echo("no images: give --data to prove it on some")
        else:
            click.echo(_line(f"images of {images.root}, {f'split {images.split}' if images.split else 'all splits'}", proof.images))
            for one in proof.images.labels_that_differ[:SHOWN]:
                click.echo(f"  {one.file}: trained {one.trained}, exported {one.exported}")
            if (more := len(proof.images.labels_that_differ) - SHOWN) > 0:
                click.echo(f"  and {more} more; --json lists all")
    if not proof.holds:
        raise LinepipeError(f"what was exported does not answer as the trained network does; nothing was written to {out}")
    if not as_json:
        click.echo(f"proven; written to {out}: {', '.join((*found.files, MARK))}")


def _line(what: str, found: Compared) -> str:
    text = f"{what}: {found.tiles}; labels that differ {len(found.labels_that_differ)}, largest difference of a probability"
    cells = "" if found.cells_that_differ is None else f", map cells that differ {found.cells_that_differ:.3%}"
    return f"  {text} {found.largest_difference:.6f}{cells}"
