"""The network gives on a device what it gives on the CPU, and learns there."""

import torch

from ilcs_model import create
from ilcs_model.files import load_model
from pipeline.config.model_file import find_model


def test_the_shipped_model_gives_the_same_on_a_device(device: str) -> None:
    model, _ = load_model(find_model("ilcs-neu"))
    torch.manual_seed(0)
    tiles = torch.randint(0, 256, (8, 1, 300, 300), dtype=torch.uint8)

    with torch.inference_mode():
        here = model(tiles)
        there = model.to(device)(tiles.to(device))

    assert (here[0].softmax(1) - there[0].softmax(1).cpu()).abs().max() < 1e-2
    assert (here[1] - there[1].cpu()).abs().max() < 0.1


def test_one_step_in_bfloat16_has_finite_gradients(device: str) -> None:
    model = create("ilcs", 6).to(device).train()
    tiles = torch.randint(0, 256, (8, 1, 300, 300), dtype=torch.uint8, device=device)

    with torch.autocast(device, dtype=torch.bfloat16):
        logits = model(tiles)
    torch.nn.functional.cross_entropy(logits.float(), torch.zeros(8, dtype=torch.long, device=device)).backward()

    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
