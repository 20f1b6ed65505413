"""ResNet-50 (He et al. 2015, "Deep Residual Learning for Image Recognition", Table 1).

In a block that halves the map the 3x3 convolution has the stride, not the first 1x1 as in the paper: the form known as
V1.5, which every current implementation has. 25,557,032 parameters at 1,000 classes, 23,520,326 at six.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ilcs_model.networks.attention import MIAM, PLUGGED_HIDDEN
from ilcs_model.networks.normalise import FirstConvolution, normalise

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # (width, blocks, stride of the first) of conv2_x to conv5_x
EXPANSION = 4  # output channels of a block, as a multiple of its width
CHANNELS = STAGES[-1][0] * EXPANSION


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the shortcut: (N, c_in, H, W) -> (N, 4 width, H / stride, W / stride), rounded up."""

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = width * EXPANSION
        self.body = nn.Sequential(
            nn.Conv2d(c_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.around = nn.Sequential()
        if stride > 1 or c_in != c_out:
            self.around = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.around(x))


class ResNet50(nn.Module):
    """uint8 tiles (N, 1 or 3, S, S) of any size -> logits (N, num_classes).

    With ``miam`` it has MIAM before the last layer, and tiles whose last map is not square raise ``ValueError``; without it they
    need not be square.
    """

    def __init__(self, num_classes: int, *, miam: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            FirstConvolution(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        )
        blocks, c_in = [], 64
        for width, count, stride in STAGES:
            for number in range(count):
                blocks.append(Bottleneck(c_in, width, stride if number == 0 else 1))
                c_in = width * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.miam = MIAM(CHANNELS, PLUGGED_HIDDEN) if miam else nn.Identity()
        self.fc = nn.Linear(CHANNELS, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, tiles: Tensor) -> Tensor:
        return self.classify(self.features(tiles))

    def features(self, tiles: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, S, S) -> the last map, (N, 2048, S / 32, S / 32), each side rounded up."""
        x: Tensor = self.blocks(self.stem(normalise(tiles)))
        return x

    def classify(self, x: Tensor) -> Tensor:
        """The map of ``features`` -> logits (N, num_classes)."""
        logits: Tensor = self.fc(self.miam(x).mean((2, 3)))
        return logits
