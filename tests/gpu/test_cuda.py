"""On a CUDA machine: the network gives there what it gives here, and learns there."""

import pytest
import torch

from ilcs_model import create
from ilcs_model.files import load_model
from pipeline.model_file import find_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_the_shipped_model_gives_the_same_on_cuda() -> None:
    model, _ = load_model(find_model("ilcs-neu"))
    torch.manual_seed(0)
    tiles = torch.randint(0, 256, (8, 1, 300, 300), dtype=torch.uint8)

    with torch.inference_mode():
        here = model(tiles)
        there = model.cuda()(tiles.cuda())

    assert (here[0].softmax(1) - there[0].softmax(1).cpu()).abs().max() < 1e-2
    assert (here[1] - there[1].cpu()).abs().max() < 0.1


def test_one_step_in_bfloat16_has_finite_gradients() -> None:
    model = create("ilcs", 6).cuda().train()
    tiles = torch.randint(0, 256, (8, 1, 300, 300), dtype=torch.uint8, device="cuda")

    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(tiles)
    torch.nn.functional.cross_entropy(logits.float(), torch.zeros(8, dtype=torch.long, device="cuda")).backward()

    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
