"""A network that is converted and compiled in a moment. Tests find it as linepipe finds any installed package's."""

from torch import Tensor, nn


class Tiny(nn.Module):
    """uint8 (N, 1, S, S) -> logits (N, classes), and with ``locate`` maps (N, S / 4, S / 4)."""

    def __init__(self, num_classes: int, *, locate: bool = False) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 4, stride=4), nn.Linear(8, num_classes)
        self.locate = locate

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.conv(tiles.float() / 255).relu()
        logits = self.fc(x.mean((2, 3)))
        return (logits, x.mean(1)) if self.locate else logits
