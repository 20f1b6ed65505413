"""EffNet (Freeman et al. 2018, "EffNet: An Efficient Structure for Convolutional Neural Networks").

The original three blocks, on a tile of 300 pixels, with one linear layer on the flattened map of 37 x 37 x 256: exactly
2,212,966 parameters at six classes. Both of Table 3's figures follow: 2.21 M, and 8.35 G for a batch of 16 at 300 x 300
with two operations for each normalised value (``benchmarks.table3.Row.with_norms_g``). ILCS's blocks are derived
from these.
"""

from torch import Tensor, nn

from ilcs_model.networks.attention import MIAM, PLUGGED_HIDDEN
from ilcs_model.networks.normalise import FirstConvolution, normalise

SIZE_PX = 300  # side of the square input; the linear layer fixes it
WIDTHS = ((3, 32, 64), (64, 64, 128), (128, 128, 256))  # (input, width, output) of each block
SLOPE = 0.3  # of the leaky ReLU below 0


def unit(conv: nn.Conv2d) -> nn.Sequential:
    """Convolution, leaky ReLU, batch norm: the order that implementations of EffNet have in common; Table 3 cannot confirm it."""
    return nn.Sequential(conv, nn.LeakyReLU(SLOPE), nn.BatchNorm2d(conv.out_channels))


def block(c_in: int, c: int, c_out: int) -> nn.Sequential:
    """Layers for (N, c_in, H, W) -> (N, c_out, H // 2, W // 2): pooling halves the height, the last convolution the width."""
    first = FirstConvolution if c_in == 3 else nn.Conv2d
    return nn.Sequential(
        unit(first(c_in, c, 1, bias=False)),
        unit(nn.Conv2d(c, c, (1, 3), padding=(0, 1), groups=c, bias=False)),
        nn.MaxPool2d((2, 1)),
        unit(nn.Conv2d(c, c, (3, 1), padding=(1, 0), groups=c, bias=False)),
        unit(nn.Conv2d(c, c_out, (1, 2), stride=(1, 2), bias=False)),
    )


class EffNet(nn.Module):
    """uint8 tiles (N, 1 or 3, 300, 300) -> logits (N, num_classes). ``miam``: with MIAM before the last layer.

    ``fc`` has 350,464 inputs a unit, like ``fc1`` of ILCS, and like it needs a much smaller learning rate than the rest.
    """

    def __init__(self, num_classes: int, *, miam: bool = False) -> None:
        super().__init__()
        channels, side = WIDTHS[-1][-1], SIZE_PX // 2 // 2 // 2
        self.blocks = nn.Sequential(*(block(*w) for w in WIDTHS))
        self.miam = MIAM(channels, PLUGGED_HIDDEN) if miam else nn.Identity()
        self.fc = nn.Linear(channels * side * side, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, a=SLOPE, mode="fan_out")

    def forward(self, tiles: Tensor) -> Tensor:
        return self.classify(self.features(tiles))

    def features(self, tiles: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, 300, 300) -> the last map, (N, 256, 37, 37)."""
        x: Tensor = self.blocks(normalise(tiles))
        return x

    def classify(self, x: Tensor) -> Tensor:
        """The map of ``features`` -> logits (N, num_classes)."""
        logits: Tensor = self.fc(self.miam(x).flatten(1))
        return logits
