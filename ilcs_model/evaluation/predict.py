"""A network's judgement of labelled tiles, in float32."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@torch.inference_mode()
def predict(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities (N, K) and labels (N,) of batches of tiles, uint8 (n, C, S, S), and labels, int64 (n,).

    For ``ilcs_model.evaluation.metrics.measure``. The network is in evaluation mode, on any device; there is at least one
    batch.
    """
    device = next(network.parameters()).device
    found = [(logits_of(network(tiles.to(device))).float().softmax(1).cpu(), labels) for tiles, labels in batches]
    probabilities, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return probabilities.numpy(), labels.numpy()


def top1(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of tiles (0..1) whose best class is the true one (Algorithm 2 with k = 1). Takes what ``predict`` does."""
    probabilities, labels = predict(network, batches)
    return float((probabilities.argmax(1) == labels).mean())


def logits_of(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """A network's logits, whether or not it gives a map beside them."""
    return output[0] if isinstance(output, tuple) else output
