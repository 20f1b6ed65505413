"""Judging a network on labelled tiles."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.inference_mode()
def top1(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of tiles (0..1) whose best class is the true one (Algorithm 2 with k = 1), in float32."""
    device = next(model.parameters()).device
    right = total = 0
    for tiles, labels in batches:
        right += int((logits_of(model(tiles.to(device))).argmax(1).cpu() == labels).sum())
        total += len(labels)
    return right / total


def logits_of(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """A network's logits, whether or not it gives a map beside them."""
    return output[0] if isinstance(output, tuple) else output
