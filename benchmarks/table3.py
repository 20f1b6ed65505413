"""What networks cost, and the rows of the paper's Table 3."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ilcs_model import create
from ilcs_model.info import options
from ilcs_model.networks.ilcs import ILCS

BATCH = 16  # tiles to which the paper's "FLOPs" refer


class Cost(NamedTuple):
    """What one call of a network computes, for the whole batch."""

    convolutions: int
    """Multiply-accumulates of ``Conv2d`` layers."""
    linears: int
    """Multiply-accumulates of ``Linear`` layers."""
    normalised: int
    """Values that go through a ``BatchNorm2d``."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both kinds of layer."""
        return self.convolutions + self.linears


class Row(NamedTuple):
    """A model of Table 3, ours beside the paper's. "G": 1e9 for a batch of 16 tiles."""

    model: str
    classes: int
    parameters: int
    paper_params_m: float
    """Millions."""
    size_px: int
    """Side of the tiles to which the paper's count refers, as far as its figures show it."""
    macs_g: float
    """Multiply-accumulates of convolutions and linear layers at that size; of ILCS without its classifier."""
    with_norms_g: float
    """The same and two operations for each value that is normalised."""
    paper_flops_g: float
    macs_300_g: float
    """Multiply-accumulates at 300 x 300, whole: the size at which the paper trains, and the same for all rows."""


PAPER = (  # model, MIAM, classes, side of the tile, Params (M), FLOPs (G)
    ("resnet50", False, 1000, 224, 25.56, 65.78),
    ("resnet50", True, 1000, 224, 25.57, 65.79),
    ("mobilenet_v2", False, 6, 224, 2.23, 4.70),
    ("mobilenet_v2", True, 6, 224, 2.24, 4.71),
    ("effnet", False, 6, 300, 2.21, 8.35),
    ("effnet", True, 6, 300, 2.22, 8.36),
    ("ilcs", False, 6, 224, 2.24, 4.26),
)


def parameters(network: nn.Module) -> int:
    """How many numbers are learned: all values of ``network.parameters()``, not the running statistics of batch norms."""
    return sum(p.numel() for p in network.parameters())


def cost(network: nn.Module, tiles: Tensor, run: Callable[[Tensor], Any] | None = None) -> Cost:
    """Run ``run(tiles)``, by default the whole network, and count its layers; ``tiles`` are uint8 (N, 3, S, S).

    Network and tiles must be on the same device; on ``meta`` nothing is computed and no memory is used. Tiles must have three
    channels: the short cut for grey tiles is not made of layers, so it would not be counted. What ``run`` raises passes through.
    """
    found = {nn.Conv2d: 0, nn.Linear: 0, nn.BatchNorm2d: 0}

    def count(module: nn.Module, _: Any, out: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d):
            found[nn.BatchNorm2d] += out.numel()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            kind = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
            found[kind] += out.numel() * module.weight[0].numel()  # weight[0]: all that one output value sums

    hooks = [m.register_forward_hook(count) for m in network.modules()]
    try:
        with torch.inference_mode():
            (run or network)(tiles)
    finally:
        for hook in hooks:
            hook.remove()
    return Cost(found[nn.Conv2d], found[nn.Linear], found[nn.BatchNorm2d])


def table3_rows() -> list[Row]:
    """Table 3, its rows in the paper's order. Takes a few seconds: the networks are built on ``meta`` and nothing is computed."""
    return [_row(*row) for row in PAPER]


def _row(name: str, miam: bool, classes: int, size: int, params_m: float, flops_g: float) -> Row:
    with torch.device("meta"):
        network = create(name, classes, **options(name, miam=miam)).eval()
        tiles, large = (torch.zeros(BATCH, 3, side, side, dtype=torch.uint8) for side in (size, 300))
    # ILCS's classifier takes 300 pixels alone; to its last map the network takes any size.
    at_size = cost(network, tiles, (lambda x: network.miam(network.features(x))) if isinstance(network, ILCS) else None)
    return Row(
        model=f"{name}+miam" if miam else name,
        classes=classes,
        parameters=parameters(network),
        paper_params_m=params_m,
        size_px=size,
        macs_g=at_size.macs / 1e9,
        with_norms_g=(at_size.macs + 2 * at_size.normalised) / 1e9,
        paper_flops_g=flops_g,
        macs_300_g=cost(network, large).macs / 1e9,
    )
