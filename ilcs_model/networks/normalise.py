"""How tiles enter a network: normalised; a grey tile counts as three equal channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = 0.4, 0.2  # of pixel / 255; the paper's "variance 0.2" acts as the divisor


def normalise(tiles: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32 ``(pixel / 255 - MEAN) / STD``."""
    return (tiles.float() / 255 - MEAN) / STD


def standardise(tiles: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32, each tile with mean 0 and deviation 1; a faint one with less, see ``standards``."""
    centre, scale, rest = standards(levels := tiles.float())
    return (levels - centre) * scale + rest


def standards(levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``centre``, ``scale`` and ``rest``, each (N, 1, 1, 1), from float grey levels 0..255 (N, C, H, W).

    ``(levels - centre) * scale + rest`` brings each tile to mean 0 and deviation 1. ``centre`` is a whole number. The noise of a
    tile that shows almost nothing is not magnified: a variance of 4 is added to its own.
    """
    centre = levels.mean((1, 2, 3), keepdim=True).round()
    # Moments about a near whole number: an engine that runs bfloat16 has no fractions at the mean itself, and a faint tile
    # would be moved by half a grey level.
    about = levels - centre
    mean = about.mean((1, 2, 3), keepdim=True)
    scale = torch.rsqrt(about.square().mean((1, 2, 3), keepdim=True) - mean.square() + 4)
    return centre, scale, -mean * scale


class FirstConvolution(nn.Conv2d):
    """A convolution of three channels that also takes one: (N, 1 or 3, H, W) -> (N, C, h, w).

    Three equal channels are never made: the kernel's input channels are summed, which is the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return F.conv2d(x, self.weight.sum(1, keepdim=True), self.bias, self.stride, self.padding)
        return super().forward(x)
