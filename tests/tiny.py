"""A model of the network in ``tests/installed``: it is converted and compiled in a moment, and it locates."""

from pathlib import Path

import torch

from ilcs_model import create
from ilcs_model.files import save_model
from ilcs_model.info import ModelInfo, TileRecipe

SIDE = 32


def write_tiny_model(folder: Path) -> Path:
    """``folder/tiny.safetensors``, untrained, always the same: three classes, grey tiles of ``SIDE`` pixels."""
    torch.manual_seed(0)
    network = create("tiny", 3, locate=True)
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
    save_model(path := folder / "tiny.safetensors", network, info)
    return path
