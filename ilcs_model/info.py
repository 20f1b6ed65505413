"""What a model file says of itself, in its safetensors metadata. Needs no torch."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open

from ilcs_model.errors import ModelFileError

METADATA_KEY = "linepipe"


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image becomes a tile; training and the running line build their preprocessing from this record."""

    decode: str = "grey"  # one channel, ITU-R 601 luma
    size_px: int = 300  # side of the square tile
    resize: str = "bilinear"  # without antialiasing, result rounded to uint8


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model file says of itself."""

    name: str
    architecture: str
    classes: tuple[str, ...]
    recipe: Recipe
    mean: float  # normalisation, part of the network: (pixel / 255 - mean) / std
    std: float
    data: dict[str, Any]  # training data: name, split, images per class, digest of the file list
    training: dict[str, Any]  # recipe and hardware of the training run
    accuracy: dict[str, float]  # Top-1 by split, 0..1, of the float32 network
    code_version: str
    miam: bool = False  # whether MIAM stands before the head; ``ilcs`` has it either way
    locate: bool = False  # whether the network also gives a map of where the defect lies


def code_version() -> str:
    """Version of the installed linepipe, or ``"unknown"`` when it runs from a bare source tree."""
    try:
        return version("linepipe")
    except PackageNotFoundError:
        return "unknown"


def read_info(path: Path) -> ModelInfo:
    """Metadata of a model file. Raises ``ModelFileError``."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        return msgspec.json.decode(metadata[METADATA_KEY], type=ModelInfo)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such model file") from None
    except (OSError, SafetensorError) as exc:
        raise ModelFileError(f"{path}: not a readable safetensors file ({exc}); train or copy it again") from exc
    except (KeyError, msgspec.MsgspecError) as exc:
        raise ModelFileError(f"{path}: its metadata is not that of a linepipe model ({exc})") from exc


def digest(path: Path) -> str:
    """``sha256:<hex>`` of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def code_digest() -> str:
    """Digest of this package's source: what is made from a model file is stale once the code that made it changed."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
