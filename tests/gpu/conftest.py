"""Tests that take ``device`` run on the CPU too, so that what they ask is known to work before there is a GPU."""

import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found: str = request.param
    return found
