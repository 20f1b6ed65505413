"""Model files: safetensors weights with the metadata of ``ilcs_model.info``."""

import os
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ilcs_model import create
from ilcs_model.errors import ModelFileError
from ilcs_model.info import METADATA_KEY, ModelInfo, read_info


def save_model(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write weights (float32) and metadata; the file appears whole or not at all."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={METADATA_KEY: msgspec.json.encode(info).decode()})
    os.replace(part, path)


def load_model(path: Path) -> tuple[nn.Module, ModelInfo]:
    """The network with its weights in evaluation mode, and its metadata. Raises ``ModelFileError``."""
    info = read_info(path)
    try:
        model = create(info.architecture, len(info.classes), miam=info.miam, locate=info.locate)
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, torch.Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        model.load_state_dict(tensors)
    except (ValueError, RuntimeError, SafetensorError) as exc:
        raise ModelFileError(f"{path}: weights do not fit architecture {info.architecture!r}: {exc}") from exc
    return model.eval(), info
