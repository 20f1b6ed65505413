"""Where in a tile a network sees what it names."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

EDGE = 0.15
"""Grad-CAM's heat from which on something counts as seen: what Selvaraju et al. use for boxes."""


class Look(NamedTuple):
    """What a network says of N tiles, and where it sees it."""

    scores: NDArray[np.float32]
    """(N, K), rows sum to 1."""
    heat: NDArray[np.float32]
    """(N, S, S), 0..1."""
    cells: NDArray[np.float32]
    """(N, h, w), above 0 where the defect is: what boxes are made from."""
    method: str
    """``map``: of a network that locates; ``grad-cam``: of any other, for each tile's best class."""


def look(network: nn.Module, tiles: Tensor, *, locate: bool) -> Look:
    """uint8 (N, 1 or 3, S, S) -> what the network sees; ``locate`` says whether it gives a map beside its logits.

    The heat of a map is its sigmoid. Any other network must have ``features`` and ``classify``.
    """
    tiles = tiles.to(next(network.parameters()).device)
    side = tiles.shape[-1]
    if locate:
        with torch.inference_mode():
            logits, cells = network(tiles)
            heat = _spread(cells.sigmoid(), side)
    else:
        logits, found = grad_cam(network, tiles)
        heat = _spread(found, side)
        cells = heat - EDGE
    scores, heat_, cells_ = (t.float().cpu().numpy() for t in (logits.softmax(1), heat, cells))
    return Look(scores, heat_, cells_, "map" if locate else "grad-cam")


def grad_cam(network: Any, tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and what speaks for each tile's best class on the network's last map, (N, h, w) in 0..1.

    Selvaraju et al. 2017, equations 1 and 2: the map's channels weighted by the mean gradient of the class's logit, and
    what speaks against the class cut off; then divided by its maximum. All 0 where nothing speaks for the class.
    """
    with torch.no_grad():
        x = network.features(tiles)
    with torch.enable_grad():
        x.requires_grad_()
        logits = network.classify(x)
        (slope,) = torch.autograd.grad(logits.max(1).values.sum(), x)
    found = F.relu((slope.mean((2, 3), keepdim=True) * x.detach()).sum(1))
    return logits.detach(), found / found.amax((1, 2), keepdim=True).clamp(min=1e-12)


def _spread(cells: Tensor, side: int) -> Tensor:
    """Bilinear, (N, h, w) -> (N, side, side); a cell stays over the pixels it came from."""
    # 37 cells are of 8 pixels each, not of 300 / 37: drawn to the tile's edge they would lie up to 4 pixels off.
    h, w = (n * max(1, round(side / n)) for n in cells.shape[1:])
    wide = F.interpolate(cells[:, None].float(), (h, w), mode="bilinear", align_corners=False)[:, :, :side, :side]
    return F.pad(wide, (0, side - wide.shape[3], 0, side - wide.shape[2]), mode="replicate")[:, 0]
