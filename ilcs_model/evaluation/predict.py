"""A network's judgement of labelled tiles, in float32."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@torch.inference_mode()
def predict(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run a network on batches of tiles, uint8 (n, C, S, S), with labels, int64 (n,): all probabilities (N, K), all labels (N,).

    The network must be in evaluation mode; it may be on any device. The result is what ``metrics.measure`` takes. Raises
    ``ValueError`` without any batch; what ``batches`` raises passes through.
    """
    device = next(network.parameters()).device
    found = [(logits_of(network(tiles.to(device))).float().softmax(1).cpu(), labels) for tiles, labels in batches]
    probabilities, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return probabilities.numpy(), labels.numpy()


def top1(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of tiles (0..1) whose best class is the true one (Algorithm 2 with k = 1). Takes and raises what ``predict`` does."""
    probabilities, labels = predict(network, batches)
    return float((probabilities.argmax(1) == labels).mean())


def logits_of(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """The logits (N, K) in what a network returns: logits alone, or (logits, map)."""
    return output[0] if isinstance(output, tuple) else output


@torch.inference_mode()
def form_problem(network: nn.Module, side: int, channels: int, classes: int) -> str:
    """Why a network of another package cannot be trained, seen on two black tiles; an empty string if none is known.

    Leaves it in evaluation mode. Never raises.
    """
    try:
        found = logits_of(network.eval()(torch.zeros(2, channels, side, side, dtype=torch.uint8)))
        shape = tuple(found.shape)
    except Exception as exc:
        return f"it fails on tiles of {side} px: {type(exc).__name__}: {exc}"
    return "" if shape == (2, classes) else f"it gives scores of shape {shape} for 2 tiles and {classes} classes"
