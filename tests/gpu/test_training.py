"""On a CUDA machine: training runs there, compiled and fed by DALI, and what it writes answers alike on the CPU."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from ilcs_model import ARCHITECTURES
from ilcs_model.data.dataset import open_dataset
from ilcs_model.files import load_model
from ilcs_model.training.run import train
from ilcs_model.training.settings import Settings

QUICK = Settings(name="tiny", epochs=2, batch=4, norm_images=8)
pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"), pytest.mark.timeout(600)]


@pytest.fixture
def folder(tmp_path: Path, make_images: Callable[..., list[Path]]) -> Path:
    """Two classes of ten small images."""
    for label in ("dark", "light"):
        make_images(tmp_path / "data" / label, 10)
    return tmp_path / "data"


def run(folder: Path, out: Path, **other: Any) -> tuple[Path, list[str]]:
    """A run: its model, and its remarks."""
    said: list[str] = []
    path = train(open_dataset(folder), out, msgspec.structs.replace(QUICK, **other), report=lambda r: said.append(str(r.get("remark", ""))))
    return path, said


@pytest.mark.parametrize("model", ARCHITECTURES)
@pytest.mark.parametrize("recipe", ["full", "paper"])
def test_every_network_trains_here_and_answers_alike_on_the_cpu(folder: Path, tmp_path: Path, model: str, recipe: str) -> None:
    path, said = run(folder, tmp_path / "run", model=model, recipe=recipe)

    assert any(text.startswith("cuda, bfloat16") for text in said)
    network, _ = load_model(path)
    tiles = torch.randint(0, 256, (4, 1, 300, 300), dtype=torch.uint8)
    with torch.inference_mode():
        here, there = network(tiles), network.cuda()(tiles.cuda()).cpu()
    assert torch.isfinite(here).all()
    assert torch.allclose(here.softmax(1), there.softmax(1), atol=0.02)


@pytest.mark.parametrize("loader", ["dali", "opencv"])
def test_either_loader_feeds_it(folder: Path, tmp_path: Path, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")

    _, said = run(folder, tmp_path / "run", loader=loader)

    assert any(f"tiles by {'DALI' if loader == 'dali' else 'OpenCV'}" in text for text in said)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_a_long_run_is_compiled_and_its_loss_falls(folder: Path, tmp_path: Path) -> None:
    _, said = run(folder, tmp_path / "run", epochs=40)

    assert any("compiled" in text for text in said)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_a_run_goes_on_where_it_was_cut(folder: Path, tmp_path: Path) -> None:
    def interrupt(record: dict[str, Any]) -> None:
        if record.get("epoch") == 2:
            raise KeyboardInterrupt

    data = open_dataset(folder)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", QUICK, report=interrupt)

    path = train(data, tmp_path / "run", QUICK, resume=True)

    assert load_model(path)[1].training["epochs_done"] == 2
