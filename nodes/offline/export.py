"""``linepipe export``: writes a model for another program, with a proof that its answers are the same."""

import pkgutil
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from nodes.infer.engines.contract import Network, Output
from nodes.infer.engines.converted import Conversion
from nodes.offline.export_folder import MARK, Exported, Part, folder_in, put, refuse_foreign
from nodes.offline.export_proof import BATCH, Compared, Named, Proof, batches, compare
from pipeline.config.model_file import find_model
from pipeline.core.errors import ConfigError, LinepipeError

if TYPE_CHECKING:
    from ilcs_model.info import ModelInfo
    from nodes.infer.engines.eager import EagerEngine

FORMS = {
    "onnx": "nodes.infer.engines.onnx:onnx_form",
    "openvino": "nodes.infer.engines.openvino:openvino_form",
    "compiled": "nodes.infer.engines.compiled:package_form",
}
SCARCE = 100_000_000
"""Bytes free below which a failed export says so."""
SHOWN = 20
"""Images named in the report; ``--json`` names all."""


class Source(NamedTuple):
    """The model to export."""

    path: Path
    digest: str
    info: "ModelInfo"
    trained: "EagerEngine"
    """Its network in float32, the reference."""


class Images(NamedTuple):
    """The images of the proof, beside golden tiles."""

    root: Path
    split: str | None
    """None: images of all splits."""
    files: tuple[Path, ...]


@click.command()
@click.argument("model")
@click.option("--engine", type=click.Choice(tuple(FORMS)), required=True, help="The engine that will run it.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the exported files; new or empty.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled images for the proof; without them, golden tiles alone.")
@click.option("--split", help="Which images of --data; default: all.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def export(model: str, engine: str, out: Path, data: Path | None, split: str | None, as_json: bool) -> None:
    """Write a model for another program, and prove that it gives the same labels.

    MODEL is a shipped model's name or a file. Exit 1, and nothing written, when an image gets another label.

    Example: linepipe export ilcs-neu --engine onnx --out exported --data neu-det --split test
    """
    source, images, out = _source(model), _images(data, split), out.resolve()
    refuse_foreign(out, engine, source.digest)
    form: Conversion[Any] = pkgutil.resolve_name(FORMS[engine])()
    try:
        with folder_in(out) as part:
            _remark(f"writing {form.file}" + (": a minute or more" if engine == "compiled" else ""))
            form.convert(source.path, part / form.file)
            network = form.open(part / form.file)
            files = tuple(sorted(file.name for file in part.iterdir()))
            exported = _describe(source, engine, form, network, files, _prove(source, network, images))
            if exported.proof.holds:
                put(exported, part, out)
    except (RuntimeError, OSError) as exc:  # torch's or OpenVINO's own, a compiler that fails, a full disk
        raise LinepipeError(f"{source.path} cannot be exported to {out} for the engine {engine}: {exc}{_space(out)}") from exc
    _report(exported, images, out, as_json)


def _space(out: Path) -> str:
    """A remark if the disk is nearly full, else an empty string: OpenVINO then says only that its stream failed."""
    free = shutil.disk_usage(next(p for p in (out, *out.parents) if p.exists())).free
    return f"; only {free / 1e6:.0f} MB are free there: make room" if free < SCARCE else ""


def _source(model: str) -> Source:
    """Raises ``ConfigError`` for a model that cannot be loaded, or takes colour."""
    from ilcs_model.info import digest, read_info
    from nodes.infer.engines.eager import EagerEngine

    path = find_model(model)
    trained = EagerEngine(path)
    info = read_info(path)
    if info.recipe.decode == "rgb":
        raise ConfigError(f"{path} is a colour model, and what is exported takes grey tiles; train it with --colour grey")
    return Source(path, digest(path), info, trained)


def _images(data: Path | None, split: str | None) -> Images | None:
    """The images of the proof, each read once: a damaged one is found before the long part. Raises ``click.UsageError``."""
    if data is None:
        if split is not None:
            raise click.UsageError("--split chooses among the images of --data; give --data too")
        return None
    from ilcs_model.data.check import check_images
    from ilcs_model.data.dataset import open_dataset
    from ilcs_model.errors import DataError

    try:
        found = open_dataset(data)
        rows = range(len(found.files)) if split is None else found.split(split)
        if not rows:
            raise DataError(f"{data}: no image in split {split!r}; there is {', '.join(sorted(set(found.splits)))}")
        check_images(found, rows)
    except DataError as exc:
        raise click.UsageError(str(exc)) from exc
    return Images(root=data, split=split, files=tuple(found.files[k] for k in rows))


def _prove(source: Source, network: Network, images: Images | None) -> Proof:
    """Compare the exported files, loaded again, with the trained network."""
    from ilcs_model.data.images import read_image, to_tile

    (_, _, info, trained), golden = source, source.trained.golden.tiles
    named = Named([f"golden tile {k}" for k in range(len(golden))], golden)
    over_golden = compare(network, trained, [named], info.classes)
    if images is None:
        return Proof(golden=over_golden, images=None, data=None, split=None)
    tiles = batches(images.files, lambda file: to_tile(read_image(file), info.recipe))
    over_images = compare(network, trained, _progress(tiles, len(images.files)), info.classes)
    return Proof(golden=over_golden, images=over_images, data=images.root.resolve().name, split=images.split)


def _describe(source: Source, engine: str, form: Conversion[Any], network: Network, files: tuple[str, ...], proof: Proof) -> Exported:
    from ilcs_model.info import code_version

    _, digest, info, trained = source
    return Exported(
        name=info.name,
        classes=info.classes,
        recipe=msgspec.to_builtins(info.recipe),
        normalisation=_normalisation(info),
        digest=digest,
        engine=engine,
        library=form.version,
        runs_as=network.name,
        settings=getattr(network, "settings", {}),
        files=files,
        inputs=(Part(name="tiles", type="uint8", shape=("N", 1, trained.side, trained.side)),),
        outputs=_outputs(trained(trained.golden.tiles[:1])),
        linepipe=code_version(),
        proof=proof,
    )


def _normalisation(info: "ModelInfo") -> dict[str, Any]:
    if info.invariant:
        return {"formula": "(pixel - mean of the tile) / sqrt(variance of the tile + 4)", "inside_the_network": True}
    return {"formula": "(pixel / 255 - mean) / std", "mean": info.mean, "std": info.std, "inside_the_network": True}


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
    """Print the result. Raises ``LinepipeError`` if the proof does not hold."""
    proof = found.proof
    if as_json:
        folder = str(out) if proof.holds else None
        click.echo(msgspec.json.encode({"proven": proof.holds, "folder": folder, **msgspec.to_builtins(found)}).decode())
    else:
        click.echo(f"{found.name} as {found.runs_as} ({found.library}) against the trained network in float32")
        click.echo(_line("golden tiles", proof.golden))
        if images is None or proof.images is None:
            click.echo("no images: give --data to prove it on some")
        else:
            click.echo(_line(f"images of {images.root}, {f'split {images.split}' if images.split else 'all splits'}", proof.images))
            for one in proof.images.labels_that_differ[:SHOWN]:
                click.echo(
                    f"  {one.file}: trained {one.trained}, exported {one.exported}, which the trained network scores {one.margin:.3f} lower"
                )
            if (more := len(proof.images.labels_that_differ) - SHOWN) > 0:
                click.echo(f"  and {more} more; --json lists all")
    if not proof.holds:
        advice = "" if found.engine == "onnx" else "; --engine onnx computes in float32, where near ties stay as they were"
        raise LinepipeError(f"what was exported does not answer as the trained network does; nothing was written to {out}{advice}")
    if not as_json:
        click.echo(f"proven; written to {out}: {', '.join((*found.files, MARK))}")


def _line(what: str, found: Compared) -> str:
    text = f"{what}: {found.tiles}; labels that differ {len(found.labels_that_differ)}, largest difference of a probability"
    cells = "" if found.cells_that_differ is None else f", map cells that differ {found.cells_that_differ:.3%}"
    return f"  {text} {found.largest_difference:.6f}{cells}"
