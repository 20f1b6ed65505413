"""What a model file says about itself, in its safetensors metadata. Needs no torch."""

import hashlib
import unicodedata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open

from ilcs_model.errors import ModelFileError

METADATA_KEY = "linepipe"
MAX_CLASSES = 10_000
MAX_NAME_BYTES = 100  # of a class; it becomes the name of a folder


class TileRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image becomes a tile; training and the running line build their preprocessing from this record."""

    decode: str = "grey"  # grey: one channel, ITU-R 601 luma; rgb: three
    size_px: int = 300  # side of the square tile
    resize: str = "bilinear"  # without antialiasing, result rounded to uint8


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model file says about itself."""

    name: str
    architecture: str
    classes: tuple[str, ...]
    recipe: TileRecipe
    mean: float  # normalisation, part of the network: (pixel / 255 - mean) / std
    std: float
    data: dict[str, Any]  # training data: name, split, images per class, digest of the file list
    training: dict[str, Any]  # recipe and hardware of the training run
    accuracy: dict[str, float]  # Top-1 by split, 0..1, of the float32 network
    code_version: str
    miam: bool = False  # whether MIAM comes before the head; ``ilcs`` always has it
    invariant: bool = False  # whether light and place have no effect (``ILCS``); each tile's own mean and deviation replace mean and std
    locate: bool = False  # whether the network also gives a map of where the defect is

    @property
    def options(self) -> dict[str, bool]:
        """The options with which ``create`` builds this network."""
        return options(self.architecture, miam=self.miam, invariant=self.invariant, locate=self.locate)


def options(architecture: str, **wanted: bool) -> dict[str, bool]:
    """The wanted options as ``create`` takes them; ``miam`` is left out for ``ilcs``, which always has it."""
    return {name: True for name, on in wanted.items() if on and (architecture, name) != ("ilcs", "miam")}


def code_version() -> str:
    """Version of the installed linepipe, or ``"unknown"`` when it runs from a bare source tree."""
    try:
        return version("linepipe")
    except PackageNotFoundError:
        return "unknown"


def read_info(path: Path) -> ModelInfo:
    """Metadata of a model file, checked: a network can be built from it. The weights are not read.

    Raises ``ModelFileError`` naming the file if it is missing, unreadable, not of linepipe, or says something impossible.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        info = msgspec.json.decode(metadata[METADATA_KEY], type=ModelInfo)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such model file") from None
    except (OSError, SafetensorError) as exc:
        if _is_checkpoint(path):
            what = "a checkpoint of torch, which may run code when it is opened; give the model.safetensors that training writes"
            raise ModelFileError(f"{path}: {what}") from exc
        raise ModelFileError(f"{path}: not a readable safetensors file ({exc}); train or copy it again") from exc
    except KeyError:
        raise ModelFileError(
            f"{path}: safetensors, but not of linepipe: its metadata names no classes; give a file that training wrote"
        ) from None
    except (RecursionError, ValueError, msgspec.MsgspecError) as exc:
        raise ModelFileError(f"{path}: its metadata is not that of a linepipe model ({exc})") from exc
    if problem := _problem(info):
        raise ModelFileError(f"{path}: its metadata cannot be right: {problem}")
    return info


def _problem(info: ModelInfo) -> str:
    """What is impossible in the metadata; an empty string if nothing is."""
    recipe, count = info.recipe, len(info.classes)
    if not 2 <= count <= MAX_CLASSES or len(set(info.classes)) < count:
        return f"{count} classes; there must be 2 to {MAX_CLASSES}, all different"
    if bad := [f"class {name[:MAX_NAME_BYTES]!r} {problem}" for name in info.classes if (problem := class_problem(name))]:
        return bad[0]
    if recipe.decode not in ("grey", "rgb") or recipe.resize != "bilinear" or not 16 <= recipe.size_px <= 4096:
        return f"{recipe}; decode is grey or rgb, resize bilinear, size_px 16 to 4096"
    return "" if info.std > 0 else f"std is {info.std}"


def class_problem(name: str) -> str:
    """Why ``name`` cannot be a class, which must also be possible as the name of a folder; an empty string if it can."""
    if not name.isprintable() or name != name.strip() or not name:
        return "is empty, or has characters that cannot be seen"
    if name.startswith(".") or "/" in name or "\\" in name:
        return "cannot be the name of a folder: it begins with a dot, or has a slash"
    if not unicodedata.is_normalized("NFC", name):
        return "is not in Unicode's composed form (NFC), so it differs from names that look the same"
    return f"is longer than {MAX_NAME_BYTES} bytes" if len(name.encode()) > MAX_NAME_BYTES else ""


def _is_checkpoint(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return False
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"))  # torch's zip, or a pickle


def digest(path: Path) -> str:
    """``sha256:<hex>`` of a file's content. Raises ``OSError`` if it cannot be read."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def code_digest() -> str:
    """SHA-256 of this package's source, hexadecimal: what is made from a model file is stale once the code that made it changed."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
