"""The DALI loader makes the training tiles that the OpenCV loader makes."""

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from ilcs_model.data.dali_loader import dali_batches
from ilcs_model.data.dataset import Dataset, open_dataset
from ilcs_model.data.loader import Epoch, train_batches
from ilcs_model.errors import DataError
from ilcs_model.info import TileRecipe
from ilcs_model.training.run import train
from ilcs_model.training.settings import Settings


def write_images(folder: Path, count: int) -> None:
    """Noise of several sizes in two classes. Each edge is two pixels of one grey level: beyond it, OpenCV mirrors and DALI repeats."""
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        (folder / label).mkdir(parents=True)
        for k in range(count):
            inner = rng.integers(0, 256, ((60, 60), (86, 86), (40, 120))[k % 3], np.uint8)
            cv2.imwrite(str(folder / label / f"{k:03}.png"), cv2.copyMakeBorder(inner, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=99))


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    write_images(tmp_path / "data", 20)
    return open_dataset(tmp_path / "data")


def test_a_seed_gives_the_tiles_of_the_other_loader(data: Dataset) -> None:
    """All that is drawn is drawn alike; grey levels differ by rounding only."""
    pairs = zip(
        train_batches(data, Epoch(TileRecipe(), 8, (3, 1))), dali_batches(data, Epoch(TileRecipe(), 8, (3, 1)), device="cpu"), strict=True
    )

    for (tiles, labels, _), (found, found_labels, _) in pairs:
        assert found.shape == tiles.shape == (8, 1, 300, 300)
        assert found.dtype == torch.uint8
        assert torch.equal(found_labels, labels)
        assert (found.int() - tiles.int()).abs().max() <= 2


def test_an_epoch_is_the_same_for_the_same_seed_and_another_for_another(data: Dataset) -> None:
    def tiles(seed: tuple[int, int]) -> torch.Tensor:
        return torch.cat([batch.tiles for batch in dali_batches(data, Epoch(TileRecipe(), 8, seed), device="cpu")])

    assert torch.equal(tiles((0, 1)), tiles((0, 1)))
    assert not torch.equal(tiles((0, 1)), tiles((0, 2)))


def test_a_damaged_image_is_named(data: Dataset) -> None:
    path = data.files[data.split("train")[5]]
    jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (80, 80), np.uint8))[1].tobytes()
    path.write_bytes(jpeg[:1000] + b"\xff\xd9")

    with pytest.raises(DataError, match=path.name):
        list(dali_batches(data, Epoch(TileRecipe(), 8, (0, 0)), device="cpu"))


def test_training_uses_the_loader_that_is_named_and_says_so(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 2)
    said: list[str] = []
    settings = Settings(epochs=1, batch=4, norm_images=4, loader="dali")

    train(open_dataset(tmp_path / "data"), tmp_path / "run", settings, report=lambda record: said.append(str(record.get("remark", ""))))

    assert any("tiles by DALI" in text for text in said)
    assert '"loader": "dali"' in (tmp_path / "run" / "settings.json").read_text()
    assert msgspec.json.decode((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1
