"""A network small enough to convert and compile in seconds, which also locates."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ilcs_model.files import save_model
from ilcs_model.info import ModelInfo, TileRecipe

SIDE = 32


class Locating(nn.Module):
    """uint8 (N, 1, S, S) -> logits (N, classes) and maps (N, S / 4, S / 4)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 4, stride=4), nn.Linear(8, classes)

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(tiles.float() / 255).relu()
        return self.fc(x.mean((2, 3))), x.mean(1)


def write_locating_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file of the architecture ``tiny``, which ``create`` knows for the rest of the test."""
    monkeypatch.setattr("ilcs_model.files.create", lambda name, classes, **_: Locating(classes))
    torch.manual_seed(0)
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
    )
    save_model(path := folder / "tiny.safetensors", Locating(3), info)
    return path
