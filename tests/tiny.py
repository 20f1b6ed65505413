"""A model of the network in ``tests/installed``: it is converted and compiled in a moment, and it locates."""

from pathlib import Path
from typing import Any

import msgspec
import torch

from ilcs_model import create
from ilcs_model.files import save_model
from ilcs_model.info import ModelInfo, TileRecipe

SIDE = 32


def tiny_info(**changes: Any) -> ModelInfo:
    """What the tiny model says of itself; keyword arguments change fields."""
    info = ModelInfo(
        name="tiny",
        architecture="tiny",
        classes=("a", "b", "c"),
        recipe=TileRecipe(size_px=SIDE),
        mean=0.0,
        std=1.0,
        data={},
        training={},
        accuracy={},
        code_version="test",
        locate=True,
    )
    return msgspec.structs.replace(info, **changes)


def write_tiny_model(folder: Path) -> Path:
    """``folder/tiny.safetensors``: dark tiles of ``SIDE`` pixels are ``a``, middling ones ``b``, bright ones ``c``; not black is defect."""
    network = create("tiny", 3, locate=True)
    with torch.no_grad():
        network.get_parameter("conv.weight").fill_(1 / 16)
        network.get_parameter("conv.bias").zero_()
        network.get_parameter("fc.weight").copy_(torch.tensor([-4.0, 0.0, 4.0])[:, None].expand(3, 8))
        network.get_parameter("fc.bias").copy_(torch.tensor([10.0, 0.0, -20.0]))
    save_model(path := folder / "tiny.safetensors", network, tiny_info())
    return path
