"""Every network that can be trained can be deployed: through its file, in every engine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ilcs_model import create
from ilcs_model.errors import ModelFileError
from ilcs_model.export import fold_norms, to_openvino
from ilcs_model.files import load_model, save_model
from ilcs_model.info import ModelInfo, TileRecipe
from ilcs_model.networks.normalise import MEAN, STD
from ilcs_model.no_telemetry import import_openvino
from nodes.infer.engines.eager import EagerEngine
from nodes.infer.engines.golden_tiles import golden_tiles

SIDE = 64


def write(path: Path, name: str, *, miam: bool, said: bool | None = None) -> nn.Module:
    """A model file of an untrained network with the batch-norm statistics of the golden tiles, and that network."""
    torch.manual_seed(0)
    network = create(name, 3, miam=miam).train()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        network(torch.from_numpy(golden_tiles(SIDE))[:, None])
    info = ModelInfo(
        name="test",
        architecture=name,
        classes=("a", "b", "c"),
        recipe=TileRecipe(size_px=SIDE),
        mean=MEAN,
        std=STD,
        data={},
        training={},
        accuracy={},
        code_version="test",
        miam=miam if said is None else said,
    )
    save_model(path, network, info)
    return network.eval()


@pytest.mark.parametrize(("name", "miam"), [("resnet50", False), ("mobilenet_v2", True)])
def test_a_model_comes_back_from_its_file_and_runs_in_every_form(tmp_path: Path, name: str, miam: bool) -> None:
    network = write(path := tmp_path / "m.safetensors", name, miam=miam)
    tiles = golden_tiles(SIDE)
    with torch.inference_mode():
        right = network(torch.from_numpy(tiles)[:, None]).numpy()
        folded = fold_norms(load_model(path)[0])(torch.from_numpy(tiles)[:, None]).numpy()
    scale = np.abs(right).max()

    found = EagerEngine(path)(tiles).logits
    to_openvino(path, tmp_path / "m.xml")
    ov = import_openvino()
    compiled = ov.Core().compile_model(tmp_path / "m.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    converted = compiled(tiles[:, None])[0]

    assert (found == right).all()
    for other in (folded, converted):
        assert np.abs(other - right).max() < 1e-3 * scale
        assert (other.argmax(1) == right.argmax(1)).all()


def test_a_file_that_is_silent_about_its_miam_is_refused(tmp_path: Path) -> None:
    write(path := tmp_path / "m.safetensors", "mobilenet_v2", miam=True, said=False)

    with pytest.raises(ModelFileError, match=r"(?s)m\.safetensors.*mobilenet_v2.*miam"):
        load_model(path)
