"""Attention blocks of the ILCS paper: channel (CA), spatial (SA), interactive, and their mix (MIAM).

Equation numbers are those of Pei et al. 2022, "ILCS: An Improved Lightweight Convolution Structure and Mixed
Interactive Attention for Steel Surface Defect Classification".
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CA_REDUCTION = 16  # not stated in the paper; 16 reproduces Table 3's parameter count of ILCS
PLUGGED_HIDDEN = 4
"""Units between W0 and W1 of a MIAM after another network's features: the only number that reproduces Table 3.

The table adds 0.01 M to each of three networks: 2048 channels (4 units: 16,402 parameters), 1280 (10,258), 256 (2,066).
Three units are too few for EffNet's 2.22 M, five too many for ResNet's 25.57 M; a sixteenth of the channels would add
0.52 M and 0.20 M to ResNet and MobileNet.
"""


class ChannelAttention(nn.Module):
    """Channel weights, eq. 6-7: ``sigmoid(W1 W0 avgpool(F) + W1 W0 maxpool(F))``; no biases, nothing between W0 and W1.

    Called with a feature map (N, C, H, W) it returns weights (N, C, 1, 1). ``hidden``: units between W0 and W1; None: a
    sixteenth of the channels, at least 1.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(1, channels // CA_REDUCTION)
        self.w0 = nn.Linear(channels, hidden, bias=False)
        self.w1 = nn.Linear(hidden, channels, bias=False)

    def forward(self, f: Tensor) -> Tensor:
        # max by index, not amax: amax's gradient looks for elements equal to the maximum, finds none when a compiler
        # rounds the two differently (bfloat16), and divides 0 by 0. The same holds in SpatialAttention.
        return self.weigh(f.mean((2, 3)), F.adaptive_max_pool2d(f, 1).flatten(1))

    def weigh(self, mean: Tensor, maximum: Tensor) -> Tensor:
        """Channel means and maxima, both (N, C) -> weights (N, C, 1, 1)."""
        # The two branches share one linear map, so their sum goes through it once.
        return torch.sigmoid(self.w1(self.w0(mean + maximum)))[:, :, None, None]


class SpatialAttention(nn.Module):
    """Spatial weights, eq. 4: ``sigmoid(conv3x3([mean over channels; max over channels]))``, no bias.

    Called with a feature map (N, C, H, W) it returns weights (N, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, f: Tensor) -> Tensor:
        pooled = torch.cat([f.mean(1, keepdim=True), f.max(1, keepdim=True).values], 1)  # (N, C, H, W) -> (N, 2, H, W)
        return torch.sigmoid(self.conv(pooled))


def interact(f: Tensor) -> Tensor:
    """Interactive attention, eq. 8: ``F . F^T``, element by element; ^T swaps height and width.

    Takes and returns (N, C, S, S). Raises ``ValueError`` if the map is not square.
    """
    if f.shape[-1] != f.shape[-2]:
        height, width = f.shape[-2:]
        raise ValueError(f"interactive attention (MIAM) needs square tiles: their map is {height} x {width}, which has no transpose")
    return f * f.transpose(-1, -2)


class MIAM(nn.Module):
    """Mixed interactive attention, eq. 8-11: ``F1 = CA(F) F; F2 = SA(F1) F1; F3 = F2 + F . F^T``.

    (N, C, S, S) -> (N, C, S, S); goes after the feature extractor of any CNN whose last map is square, another one raises
    ``ValueError``. ``hidden``: as in ``ChannelAttention``.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, hidden)
        self.spatial = SpatialAttention()

    def forward(self, f: Tensor) -> Tensor:
        f1 = self.channel(f) * f
        f2 = self.spatial(f1) * f1
        return f2 + interact(f)
