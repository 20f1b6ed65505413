"""MobileNetV2 (Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", Table 2), width 1.

2,231,558 parameters at six classes (Table 3 of the ILCS paper: 2.23 M), 3,504,872 at 1,000.
"""

from torch import Tensor, nn

from ilcs_model.networks.attention import MIAM, PLUGGED_HIDDEN
from ilcs_model.networks.normalise import FirstConvolution, normalise

FIRST, CHANNELS = 32, 1280
STAGES = (  # (expansion, output channels, blocks, stride of the first), the columns t, c, n, s of Table 2
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def unit(conv: nn.Conv2d) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Widen by 1x1, 3x3 for each channel, narrow by 1x1.

    (N, c_in, H, W) -> (N, c_out, H / stride, W / stride), rounded up.
    """

    def __init__(self, c_in: int, c_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = c_in * expansion
        widen = unit(nn.Conv2d(c_in, wide, 1, bias=False)) if expansion > 1 else nn.Sequential()
        self.body = nn.Sequential(
            *widen,
            *unit(nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False)),
            nn.Conv2d(wide, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """uint8 tiles (N, 1 or 3, S, S) of any size -> logits (N, num_classes).

    With ``miam`` it has MIAM before the last layer, and tiles whose last map is not square raise ``ValueError``; without it they
    need not be square.
    """

    def __init__(self, num_classes: int, *, miam: bool = False) -> None:
        super().__init__()
        self.stem = unit(FirstConvolution(3, FIRST, 3, stride=2, padding=1, bias=False))
        blocks, c_in = [], FIRST
        for expansion, c_out, count, stride in STAGES:
            for number in range(count):
                blocks.append(InvertedResidual(c_in, c_out, expansion, stride if number == 0 else 1))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.last = unit(nn.Conv2d(c_in, CHANNELS, 1, bias=False))
        self.miam = MIAM(CHANNELS, PLUGGED_HIDDEN) if miam else nn.Identity()
        self.fc = nn.Linear(CHANNELS, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, tiles: Tensor) -> Tensor:
        return self.classify(self.features(tiles))

    def features(self, tiles: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, S, S) -> the last map, (N, 1280, S / 32, S / 32), each side rounded up."""
        x: Tensor = self.last(self.blocks(self.stem(normalise(tiles))))
        return x

    def classify(self, x: Tensor) -> Tensor:
        """The map of ``features`` -> logits (N, num_classes)."""
        logits: Tensor = self.fc(self.miam(x).mean((2, 3)))
        return logits
