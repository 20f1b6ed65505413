"""The folder of an exported model: the content of ``model.json``, and how proven files get there, complete or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nodes.offline.export_proof import Proof
from pipeline.core.errors import ConfigError, told_as
from pipeline.system.user_path import is_folder, look

MARK = "model.json"
"""Written last: a folder without it has no complete export."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output of the network. ``type``: dtype of the array; ``shape``: ``"N"`` stands for the batch."""

    name: str
    type: str
    shape: tuple[str | int, ...]


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """``model.json``: everything that another program must know. Probabilities are the softmax of the logits."""

    name: str
    classes: tuple[str, ...]
    recipe: dict[str, Any]
    """How an image becomes a tile."""
    normalisation: dict[str, Any]
    """The network's first step, not the caller's: the input is the unchanged tile."""
    digest: str
    """SHA-256 of the model file that was exported."""
    engine: str
    library: str
    """Name and version of the library for which it was written."""
    runs_as: str
    """Engine and precision of the proof: how a line runs it on that machine."""
    settings: dict[str, str]
    """Settings of the library in the proof."""
    files: tuple[str, ...]
    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]
    linepipe: str
    """Version of linepipe."""
    proof: Proof


def refuse_foreign(out: Path, engine: str, digest: str) -> None:
    """Raises ``ConfigError`` unless ``out`` is new, empty, or has an earlier export of the same model for the same engine only.

    ``digest``: of the model file.
    """
    if (there := look(out)) is not None and not is_folder(out):
        raise ConfigError(f"{out} is a file; name a folder")
    with told_as(ConfigError, f"{out} cannot be listed", "name another folder"):
        names = {p.name for p in out.iterdir() if not p.name.startswith(".")} if there is not None else set()
    if not names:
        return
    try:
        old = msgspec.json.decode((out / MARK).read_bytes(), type=Exported)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        raise ConfigError(f"{out} holds other files; choose another folder or empty it") from None
    if (old.engine, old.digest) != (engine, digest):
        raise ConfigError(f"{out} holds {old.name} ({old.digest}) for {old.engine}; choose another folder or remove it")
    if foreign := names - {MARK, *old.files}:
        raise ConfigError(f"{out} holds other files ({', '.join(sorted(foreign))}); choose another folder or remove them")


@contextmanager
def folder_in(out: Path) -> Iterator[Path]:
    """A hidden folder inside ``out``, to write and prove an export in, for the block.

    It is removed afterwards, and ``out`` too if it is empty then. Raises ``OSError`` if it cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=out))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()


def put(exported: Exported, part: Path, out: Path) -> None:
    """Move the proven files from ``part`` to ``out``, ``MARK`` last, replacing an earlier export. Raises ``OSError``."""
    (part / MARK).write_bytes(msgspec.json.format(msgspec.json.encode(exported), indent=2) + b"\n")
    (out / MARK).unlink(missing_ok=True)
    for name in (*exported.files, MARK):
        os.replace(part / name, out / name)
