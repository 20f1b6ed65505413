"""The ILCS network (Pei et al. 2022): three LCS blocks, MIAM, two linear layers.

Where the paper is silent (place of the pooling, CA before it, order convolution - BN - SA - ReLU6, hidden width 6,
biases) we chose what reproduces Table 3: 2.24 M parameters (here exactly 2,235,886 at six classes) and
4.26 G multiply-accumulates for a batch of 16 at 224 x 224.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ilcs_model.networks.attention import MIAM, ChannelAttention, SpatialAttention
from ilcs_model.networks.normalise import MEAN, STD, normalise, standardise, standards

SIZE_PX = 300  # side of the square input; the first linear layer fixes it
WIDTHS = ((3, 32, 64), (64, 64, 128), (128, 128, 256))  # (input, Conv1..3, Conv4) of each block, Table 1
HIDDEN = 6  # width between the two linear layers: follows from the parameter count


class LCSBlock(nn.Module):
    """One lightweight convolution structure, Figure 2 and Table 1: (N, c_in, H, W) -> (N, c_out, H // 2, W // 2)."""

    def __init__(self, c_in: int, c: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.ca1 = nn.Conv2d(c_in, c, 1), nn.BatchNorm2d(c), ChannelAttention(c)
        self.conv2, self.bn2, self.sa2 = _depthwise(c, (1, 3)), nn.BatchNorm2d(c), SpatialAttention()
        self.conv3, self.bn3, self.sa3 = _depthwise(c, (3, 1)), nn.BatchNorm2d(c), SpatialAttention()
        self.conv4, self.bn4, self.ca4 = nn.Conv2d(c, c_out, (1, 2)), nn.BatchNorm2d(c_out), ChannelAttention(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.head(x))

    def head(self, x: Tensor) -> Tensor:
        """Conv1, CA and the pooling: (N, c_in, H, W) -> (N, c, H // 2, W // 2)."""
        x = F.relu6(self.bn1(self.conv1(x)))
        # CA's weights are positive and constant over a map, so pooling first gives the same and touches a quarter.
        return F.max_pool2d(x, 2) * self.ca1(x)

    def tail(self, x: Tensor) -> Tensor:
        """Conv2 to Conv4: (N, c, H, W) -> (N, c_out, H, W)."""
        x = self.bn2(self.conv2(x))
        x = F.relu6(x * self.sa2(x))
        x = self.bn3(self.conv3(x))
        x = F.relu6(x * self.sa3(x))
        x = F.relu6(self.bn4(self.conv4(F.pad(x, (0, 1)))))  # one column on the right keeps the size
        return x * self.ca4(x)


class GreyHead(nn.Module):
    """The first block's head for one grey uint8 channel, without its full-size 32-channel maps. Exact, no parameters.

    With the grey level v = pixel - centre the head is per channel ``relu6(a v + b)``: Conv1's three input channels summed,
    normalisation and BN folded in. ReLU6 is monotone, so 2x2 max pooling is ``relu6(a max(v) + b)`` where a > 0 and
    ``relu6(a min(v) + b)`` elsewhere: a 1x1 convolution of the window's maximum and minimum. BN's batch statistics
    follow from mean and variance of v. CA's mean is a sum over the tile's 256-bin histogram.

    v is a whole number from -255 to 255, which bfloat16 holds exactly; pixel / 255 it would round.
    """

    def __init__(self, invariant: bool) -> None:
        super().__init__()
        self.invariant = invariant

    def forward(self, tiles: Tensor, block: LCSBlock) -> Tensor:
        """uint8 (N, 1, H, W) -> (N, c, H // 2, W // 2), float32."""
        grey = tiles.float()
        centre, scale, rest = standards(grey) if self.invariant else (255 * MEAN, 1 / (255 * STD), 0.0)
        v = grey - centre  # the network's input is v * scale + rest
        a, b = self._fold(v * scale + rest, block)

        high = F.max_pool2d(v, 2)
        low = -F.max_pool2d(-v, 2)
        kernel = torch.stack([a.clamp(min=0), a.clamp(max=0)], 1)[:, :, None, None]  # (c, 2, 1, 1)
        a, b = a[:, None, None], b[:, None, None]
        if self.invariant:
            pooled = F.relu6(F.conv2d(torch.cat([high, low], 1), kernel) * scale + (a * rest + b))
        else:
            pooled = F.relu6(F.conv2d(torch.cat([high, low], 1), kernel * scale, b.flatten()))

        levels = ((torch.arange(256, device=v.device) - centre) * scale + rest).reshape(-1, 1, 1, 256)  # N tiles, or 1 for all
        response = F.relu6(levels * a + b)[:, :, 0]  # (N or 1, c, 256): to each grey level
        mean = (response * histogram(tiles)[:, None]).sum(2)
        brightest, darkest = (v.amax((2, 3), True) * scale + rest) * a, (v.amin((2, 3), True) * scale + rest) * a
        maximum = F.relu6(torch.maximum(brightest, darkest) + b).flatten(1)  # (N, c, 1, 1) -> (N, c)
        return pooled * block.ca1.weigh(mean, maximum)

    @staticmethod
    def _fold(x: Tensor, block: LCSBlock) -> tuple[Tensor, Tensor]:
        """Slope and offset (c,) of BN(Conv1(x)) as a line in the normalised grey tile x (N, 1, H, W)."""
        conv, bn = block.conv1, block.bn1
        assert conv.bias is not None and bn.num_batches_tracked is not None
        assert bn.running_mean is not None and bn.running_var is not None
        slope, offset = conv.weight.float().sum(1).flatten(), conv.bias.float()  # (c, 3, 1, 1) -> (c,)
        if bn.training:
            var_x, mean_x = torch.var_mean(x, unbiased=False)
            mean, var = slope * mean_x + offset, slope.square() * var_x
            with torch.no_grad():
                bn.num_batches_tracked.add_(1)
                momentum = 1 / bn.num_batches_tracked if bn.momentum is None else bn.momentum  # None: the plain mean, as in torch
                bn.running_mean.lerp_(mean, momentum)
                bn.running_var.lerp_(var * (x.numel() / (x.numel() - 1)), momentum)
        else:
            mean, var = bn.running_mean, bn.running_var
        gain = bn.weight * torch.rsqrt(var + bn.eps)
        return gain * slope, gain * (offset - mean) + bn.bias


def histogram(tiles: Tensor) -> Tensor:
    """Share of each grey level: uint8 (N, 1, H, W) -> float32 (N, 256), rows sum to 1."""
    flat = tiles.flatten(1).long()
    # Counted in integers: an engine that runs floating point as bfloat16 would stop counting at 256.
    counts = torch.zeros(flat.shape[0], 256, device=tiles.device, dtype=torch.int32)
    return counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.int32)).float() / flat.shape[1]


class ILCS(nn.Module):
    """ILCS, Algorithm 1: uint8 tiles (N, 1 or 3, 300, 300) -> logits (N, num_classes).

    Normalisation is part of the network. One grey channel takes the exact short cut of ``GreyHead``; three channels
    take the network as the paper draws it, and a grey tile repeated three times gives the same logits.

    Two options are ours. With ``invariant`` light and place have no effect: each tile is brought to mean 0 and deviation 1, and
    the first linear layer sees means over the map, as if its weights were the same at every place; so it has 256 inputs instead
    of 350,464, and tiles may be squares of any size from 16 pixels. With ``locate`` (257 more parameters, a 1x1 convolution
    beside MIAM) it also says where the defect is: the result is (logits, map), map (N, 37, 37) a logit for each 8 x 8 pixels.
    """

    def __init__(self, num_classes: int = 6, *, invariant: bool = False, locate: bool = False) -> None:
        super().__init__()
        self.invariant = invariant
        self.blocks = nn.ModuleList(LCSBlock(*w) for w in WIDTHS)
        self.grey = GreyHead(invariant)
        self.miam = MIAM(WIDTHS[-1][-1])
        side = 1 if invariant else SIZE_PX // 2 // 2 // 2
        self.fc1 = nn.Linear(WIDTHS[-1][-1] * side * side, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, num_classes)
        self.locate = nn.Conv2d(WIDTHS[-1][-1], 1, 1) if locate else None

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.features(tiles)
        logits = self.classify(x)
        return logits if self.locate is None else (logits, self.locate(x)[:, 0])

    def classify(self, x: Tensor) -> Tensor:
        """The map of ``features`` -> logits (N, num_classes). Raises ``ValueError`` if the map is not square."""
        x = self.miam(x)
        logits: Tensor = self.fc2(self.fc1(x.mean((2, 3)) if self.invariant else x.flatten(1)))
        return logits

    def features(self, tiles: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, S, S) -> the map that MIAM sees, (N, 256, S // 8, S // 8); S = 300, or any with ``invariant``."""
        first = self.blocks[0]
        assert isinstance(first, LCSBlock)
        if tiles.shape[1] == 1:
            x = first.tail(self.grey(tiles, first))
        else:
            x = first(standardise(tiles) if self.invariant else normalise(tiles))
        for block in self.blocks[1:]:
            x = block(x)
        return x


def _depthwise(channels: int, kernel: tuple[int, int]) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=channels)
