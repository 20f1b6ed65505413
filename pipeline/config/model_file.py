"""What a line must know of a model before it loads one: the path of its file, its classes, its tile recipe. No torch."""

import hashlib
import importlib.util
import io
import json
import struct
from pathlib import Path
from typing import Any

import msgspec

from pipeline.core.errors import ConfigError, NodeError, told_as
from pipeline.system.user_path import is_file, is_folder

MAX_HEADER_BYTES = 16 << 20


class TileRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How an image becomes a tile; the model was trained with exactly this."""

    decode: str
    """``grey`` or ``rgb``; a line judges grey tiles only."""
    size_px: int
    """Side of a tile, in pixels."""
    resize: str
    """Interpolation: ``bilinear``."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a model file's metadata that the pipeline reads."""

    name: str
    classes: tuple[str, ...]
    recipe: TileRecipe


def find_model(name: str) -> Path:
    """Path of the model file for ``infer.model``: a path (with ``/`` or ending in ``.safetensors``), or the name of a shipped model.

    The file is not read. Raises ``ConfigError`` if there is no such file or model, or it cannot be seen; the text names no file
    and line of the configuration.
    """
    shipped = _shipped_folder()
    if name.endswith(".safetensors") or "/" in name:
        path = Path(name)
        if is_folder(path):
            raise ConfigError(f"{name} is a folder; name the model file in it")
        if not is_file(path):
            raise ConfigError(f"no model file {name}; name an existing .safetensors file or one of {_names(shipped)}")
        return path
    path = shipped / f"{name}.safetensors"
    if not is_file(path):
        raise ConfigError(f"no shipped model {name!r}; there is {_names(shipped)}, or give the path of a .safetensors file")
    return path


def read_model(path: Path) -> Model:
    """Read a model file's header; the weights are not read.

    Raises ``ConfigError`` if the file cannot be read, is no linepipe model, is a colour model, or has a tile recipe that this
    version does not know; the text names no file and line of the configuration.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            header: Any = json.loads(file.read(size))
        model = msgspec.json.decode(header["__metadata__"]["linepipe"], type=Model)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, msgspec.MsgspecError) as exc:
        raise ConfigError(f"{path} is not a linepipe model ({exc}); train one with `linepipe train`") from exc
    if model.recipe.decode == "rgb":
        raise ConfigError(f"{path} is a colour model, and a line judges grey tiles; train a grey model from the same images: --colour grey")
    if model.recipe.decode != "grey" or model.recipe.resize != "bilinear" or not 16 <= model.recipe.size_px <= 4096:
        raise ConfigError(f"{path} asks for preprocessing that this version does not know: {model.recipe}")
    return model


def digest(path: Path) -> str:
    """``sha256:<hex>`` of a file's content. Raises ``ConfigError`` if it cannot be read."""
    with told_as(ConfigError, f"{path} cannot be read"), path.open("rb") as file:
        return digest_of(file)


def digest_of(file: io.BufferedReader | io.BytesIO) -> str:
    """``sha256:<hex>`` of an open file, from its position to its end. Raises ``OSError`` if it cannot be read."""
    return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def model_of_line(name: str, began_with: str | None) -> tuple[Path, str]:
    """Path and digest of the model with which a node judges. ``name`` is ``infer.model``.

    ``began_with`` is the digest of the model with which the line began; None for a node that is run by itself, which takes any.
    Raises ``ConfigError`` if ``began_with`` is None and there is no model. Raises ``NodeError`` if the model that is there is not
    the one with which the line began, or cannot be read: the line writes its copy again, and the node is started again.
    """
    try:
        path = find_model(name)
        found = digest(path)
    except ConfigError as exc:
        if began_with is None:
            raise
        raise NodeError(f"the line's own copy of its model: {exc}") from exc
    if began_with not in (None, found):
        raise NodeError(f"{path} is not the model with which the line began: its digest is {found}, the line judges with {began_with}")
    return path, found


def _shipped_folder() -> Path:
    spec = importlib.util.find_spec("ilcs_model")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "weights"


def _names(folder: Path) -> str:
    return ", ".join(sorted(p.stem for p in folder.glob("*.safetensors"))) or "none"
