"""What a line must know of a model before it loads one: where its file lies, its classes, its recipe. No torch."""

import hashlib
import importlib.util
import io
import json
import struct
from pathlib import Path
from typing import Any

import msgspec

from pipeline.core.errors import ConfigError, NodeError
from pipeline.system.user_path import is_file, is_folder

MAX_HEADER_BYTES = 16 << 20


class TileRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How an image becomes a tile; the model was trained with exactly this."""

    decode: str
    size_px: int
    resize: str


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a model file's metadata that the pipeline reads."""

    name: str
    classes: tuple[str, ...]
    recipe: TileRecipe


def find_model(name: str) -> Path:
    """Path of a shipped model by name, or of a file by path. Raises ``ConfigError`` (without a place)."""
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
    """Read a model file's header. Raises ``ConfigError`` (without a place) if it is not a linepipe model."""
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
    """``sha256:<hex>`` of a file. Raises ``ConfigError`` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return digest_of(file)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc


def digest_of(file: io.BufferedReader | io.BytesIO) -> str:
    """The same of what is still to be read of an open file. Raises ``OSError``."""
    return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def model_of_line(name: str, began_with: str | None) -> tuple[Path, str]:
    """Path and digest of the model that a line judges with.

    ``began_with``: digest of the one with which the line began; None: any will do, and ``ConfigError`` is raised if there is none.
    Raises ``NodeError`` if that one is not there, for another would judge otherwise: the line writes its copy anew.
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
