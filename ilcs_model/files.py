"""Model files: safetensors weights with the metadata of ``ilcs_model.info``."""

import hashlib
import os
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ilcs_model import create
from ilcs_model.errors import ModelFileError
from ilcs_model.info import METADATA_KEY, ModelInfo, read_info

DIGEST_KEY = "weights"


def save_model(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write a model file: the network's weights in the types that they have, their digest, and the metadata.

    The file appears whole or not at all, by way of ``path`` with the suffix .part, but is not synced: a power loss may take it.
    Every user may read it, as far as the umask allows. Raises ``OSError`` if it cannot be written.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    part = path.with_suffix(".part")
    # Not save_file: its files are readable by their owner alone, and a line runs as another user than who trained.
    part.write_bytes(save(tensors, metadata={METADATA_KEY: msgspec.json.encode(info).decode(), DIGEST_KEY: _digest(tensors)}))
    os.replace(part, path)


def load_model(path: Path) -> tuple[nn.Module, ModelInfo]:
    """The network with its weights, on the CPU and in evaluation mode, and its metadata.

    Raises ``ModelFileError`` naming the file if it is missing, damaged or not of linepipe, if the weights do not fit the network
    that the metadata names or are not finite, or if that network cannot be built.
    """
    info = read_info(path)
    try:
        model = create(info.architecture, len(info.classes), **info.options)
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, torch.Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            written = file.metadata().get(DIGEST_KEY)
    except (OSError, ValueError, SafetensorError) as exc:
        raise ModelFileError(f"{path}: {exc}") from exc
    if problem := _misfit(model.state_dict(), tensors):
        what = f"{info.architecture!r} with {len(info.classes)} classes"
        raise ModelFileError(f"{path}: its weights are not those of {what}, which its metadata names: {problem}; train or copy it again")
    if written is not None and written != _digest(tensors):  # files of older versions have none
        raise ModelFileError(f"{path}: its weights are not those that were written (their digest differs): copy or train it again")
    model.load_state_dict(tensors)
    return model.eval(), info


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """Digest of the weights' names and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].numpy().tobytes())
    return f"sha256:{found.hexdigest()}"


def _misfit(wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> str:
    """The first reason why weights do not fit a network; an empty string if they fit."""
    for name in sorted(wanted.keys() ^ found.keys()):
        return f"{name} is {'missing' if name in wanted else 'too many'}"
    for name, tensor in found.items():
        if (tensor.shape, tensor.dtype) != (wanted[name].shape, wanted[name].dtype):
            return f"{name} is {_kind(tensor)} and should be {_kind(wanted[name])}"
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"{name} has values that are no numbers"
    return ""


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
