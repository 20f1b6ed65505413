"""How tiles enter a network: normalised, and a grey one counts as three equal channels."""

import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = 0.4, 0.2  # of pixel / 255; the paper's "variance 0.2" acts as the divisor


def normalise(tiles: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32 ``(pixel / 255 - MEAN) / STD``."""
    return (tiles.float() / 255 - MEAN) / STD


class FirstConvolution(nn.Conv2d):
    """A convolution of three channels that also takes one: (N, 1 or 3, H, W) -> (N, C, h, w).

    Three equal channels are never made: the kernel's input channels are summed, which is the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return F.conv2d(x, self.weight.sum(1, keepdim=True), self.bias, self.stride, self.padding)
        return super().forward(x)
