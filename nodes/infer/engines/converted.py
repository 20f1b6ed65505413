"""Models converted to another library's format, kept in a folder together with their golden answers."""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from nodes.infer.engines.code_cache import alone
from nodes.infer.engines.contract import Network
from nodes.infer.engines.golden_tiles import Engine, Golden, golden_tiles
from pipeline.core.errors import NodeError

N = TypeVar("N", bound=Network)
E = TypeVar("E", bound=Engine)


class Conversion(NamedTuple, Generic[N]):
    """A format that a library can run."""

    file: str
    """Name of the file to write."""
    version: str
    """Name and version of the library."""
    convert: Callable[[Path, Path], None]
    """Model file -> file of this format. Needs torch."""
    open: Callable[[Path], N]
    """File of this format -> the network, ready to run."""


def open_converted(form: Conversion[E], path: Path, cache: Path) -> E:
    """The model ``path`` converted to ``form``, with its golden tiles, of which one was checked. A later call needs no torch.

    Kept under ``cache`` by digest of weights and code and by version: converting takes seconds, and a node that was killed
    must be back sooner than that. A kept one that cannot be read or answers wrongly is logged and converted again, once.
    Waits, without a time limit, while another process converts in ``cache``. Raises, also from the second attempt:
    ``ConfigError`` or ``ModelFileError`` for a model that cannot be loaded, ``WrongAnswerError`` for a wrong answer,
    ``OSError`` if ``cache`` cannot be used, ``RuntimeError``, ``ValueError`` or ``EOFError`` if the library or a file fails.
    """
    from ilcs_model.info import code_digest, digest, read_info

    side = read_info(path).recipe.size_px
    made_by = f"{form.file} {form.version} {digest(path)} {code_digest()} ".encode() + golden_tiles(side).tobytes()
    folder = cache / hashlib.sha256(made_by).hexdigest()[:24]
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache):  # another process may be converting the same
        try:
            return _open(form, folder, side)
        except (OSError, EOFError, ValueError, RuntimeError, NodeError) as exc:
            if folder.exists():
                logging.getLogger(__name__).warning("the converted model in %s is damaged and is converted again: %s", folder, exc)
            shutil.rmtree(folder, ignore_errors=True)
            _convert(form, path, folder)
            return _open(form, folder, side)


def _open(form: Conversion[E], folder: Path, side: int) -> E:
    golden = Golden(side, np.load(folder / "golden.npy"))
    engine = form.open(folder / form.file)
    engine.golden = golden
    golden.check(engine, 1)  # the caller tries all of them, in the largest batch
    return engine


def _convert(form: Conversion[N], path: Path, folder: Path) -> None:
    """Write the converted model and golden answers to ``folder``, which appears complete or not at all."""
    from nodes.infer.engines.eager import EagerEngine

    golden = EagerEngine(path).golden
    part = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        form.convert(path, part / form.file)
        np.save(part / "golden.npy", golden.scores)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
