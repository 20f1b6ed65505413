"""The folder of an exported model: what ``model.json`` says, and that it holds what was proven or nothing."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nodes.offline.export_proof import Proof
from pipeline.core.errors import ConfigError
from pipeline.system.user_path import is_folder, look

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
    """Engine and precision of the proof: how a line runs it on that machine."""
    settings: dict[str, str]
    """Of the library, for that."""
    files: tuple[str, ...]
    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]
    linepipe: str
    proof: Proof


def refuse_foreign(out: Path, engine: str, digest: str) -> None:
    """Raises ``ConfigError`` unless ``out`` is new, empty, or holds an earlier export of the same."""
    if (there := look(out)) is not None and not is_folder(out):
        raise ConfigError(f"{out} is a file; name a folder")
    try:
        names = {p.name for p in out.iterdir() if not p.name.startswith(".")} if there is not None else set()
    except OSError as exc:
        raise ConfigError(f"{out} cannot be listed: {exc.strerror}; name another folder") from exc
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
    """A hidden folder inside ``out`` to write and prove in; it goes, and so does ``out`` if nothing is in it then."""
    out.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=out))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()


def put(exported: Exported, part: Path, out: Path) -> None:
    """The proven files take their place, ``MARK`` last."""
    (part / MARK).write_bytes(msgspec.json.format(msgspec.json.encode(exported), indent=2) + b"\n")
    (out / MARK).unlink(missing_ok=True)
    for name in (*exported.files, MARK):
        os.replace(part / name, out / name)
