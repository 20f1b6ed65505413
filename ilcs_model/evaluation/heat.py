"""Where in a tile a network sees what it names: heat maps, and pictures of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

EDGE = 0.15
"""Grad-CAM's heat from which on a pixel counts as part of the defect: the value that Selvaraju et al. use for boxes."""


class Look(NamedTuple):
    """What a network says of N tiles, and where it sees it."""

    scores: NDArray[np.float32]
    """(N, K), rows sum to 1."""
    heat: NDArray[np.float32]
    """(N, S, S), 0..1."""
    cells: NDArray[np.float32]
    """(N, h, w), above 0 where the defect is; boxes are made from it. Logits of the map, or (h = w = S) heat less ``EDGE``."""
    method: str
    """``map``: from a network that locates; ``grad-cam``: from any other, for each tile's best class."""


def look(network: nn.Module, tiles: Tensor, *, locate: bool) -> Look:
    """Run a network in evaluation mode on tiles, uint8 (N, 1 or 3, S, S) on any device, and find where it sees what it names.

    ``locate``: whether the network gives (logits, map); the heat is then the map's sigmoid. Any other network must have
    ``features`` and ``classify``, see ``grad_cam``.
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
    """Logits (N, K), and where the network's last map speaks for each tile's best class, (N, h, w) in 0..1.

    ``tiles`` are uint8 (N, 1 or 3, S, S) on the network's device; the network is in evaluation mode and is not changed.

    Selvaraju et al. 2017, equations 1 and 2: the map's channels weighted by the mean gradient of the class's logit, and what
    speaks against the class cut off; then divided by its maximum. All 0 where nothing speaks for the class.
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
    # 37 cells are of 8 pixels each, not of 300 / 37: drawn to the tile's edge they would be up to 4 pixels off.
    h, w = (n * max(1, round(side / n)) for n in cells.shape[1:])
    wide = F.interpolate(cells[:, None].float(), (h, w), mode="bilinear", align_corners=False)[:, :, :side, :side]
    return F.pad(wide, (0, side - wide.shape[3], 0, side - wide.shape[2]), mode="replicate")[:, 0]


Picture = NDArray[np.uint8]
"""Given to a function here: (H, W), or (H, W, 3) in the order R, G, B. Returned: (H, W, 3) in the order B, G, R, for ``imwrite``."""

SIDE_PX = (300, 1200)  # a picture's longer side: small images are drawn larger, large ones smaller
CAPTION_PX = 24
THUMB_PX = 150
PER_CLASS = 4  # images in a row of the contact sheet
GAP_PX = 6
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


class Shown(NamedTuple):
    """One image for the contact sheet, uint8 (THUMB_PX, THUMB_PX, 3), BGR."""

    image: Picture
    overlay: Picture
    """The image under its heat."""


def overlay(image: Picture, heat: NDArray[np.float32]) -> Picture:
    """An image under its heat, half and half: blue is cold, red is hot.

    ``image`` is uint8 (H, W), or (H, W, 3) in the order R, G, B; ``heat`` is float32 of any size, 0..1. Returns uint8 (H, W, 3)
    in the order B, G, R, as ``cv2.imwrite`` takes it.
    """
    h, w = image.shape[:2]
    warm = cv2.resize(heat, (w, h), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * warm.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_JET)
    return np.asarray(cv2.addWeighted(_bgr(image), 0.5, colours, 0.5, 0), np.uint8)


def side_by_side(image: Picture, heat: NDArray[np.float32], boxes: Sequence[tuple[int, int, int, int]], caption: str) -> Picture:
    """An image, beside it the same under its heat with the boxes, and a caption above.

    Takes image and heat as ``overlay`` does, and boxes (x, y, w, h) in pixels of the image. Returns uint8 BGR; the image in it is
    scaled to a longer side of at least 300 and at most 1200 pixels.
    """
    h, w = image.shape[:2]
    scale = float(np.clip(1, SIDE_PX[0] / max(h, w), SIDE_PX[1] / max(h, w)))
    size = max(1, round(w * scale)), max(1, round(h * scale))
    larger = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8)
    hot = overlay(larger, heat)
    for x, y, bw, bh in boxes:
        corners = [(round(px * scale), round(py * scale)) for px, py in ((x, y), (x + bw - 1, y + bh - 1))]
        cv2.rectangle(hot, corners[0], corners[1], BLACK, 3)
        cv2.rectangle(hot, corners[0], corners[1], WHITE, 1)
    gap = np.full((size[1], GAP_PX, 3), 255, np.uint8)
    row = np.hstack([_bgr(larger), gap, hot])
    return np.vstack([_text(caption, row.shape[1]), row])


def thumbs(image: Picture, heat: NDArray[np.float32]) -> Shown:
    """An image, and the image under its heat, both small, for ``contact_sheet``. Takes what ``overlay`` takes."""
    small = np.asarray(cv2.resize(image, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA), np.uint8)
    return Shown(_bgr(small), overlay(small, heat))


def contact_sheet(rows: dict[str, list[Shown]]) -> Picture:
    """A sheet as the paper's Figure 9: a row for each label, in it each image beside its heat; uint8 BGR.

    The caller gives up to ``PER_CLASS`` images a label; there must be at least one label, and one image.
    """
    place = 2 * THUMB_PX + 2 * GAP_PX
    columns = max(len(shown) for shown in rows.values())
    lines = []
    for label, shown in rows.items():
        line = np.full((THUMB_PX + GAP_PX, columns * place, 3), 255, np.uint8)
        for k, one in enumerate(shown):
            line[:THUMB_PX, k * place : k * place + 2 * THUMB_PX] = np.hstack(one)
        lines += [_text(label, columns * place), line]
    return np.vstack(lines)


def labelled_sheet(shown: Sequence[tuple[Picture, str]], columns: int = 5) -> Picture:
    """Images of any sizes, uint8 (H, W) or (H, W, 3) RGB, each small under its caption, in rows of ``columns``; uint8 BGR.

    There must be at least one image.
    """
    places = []
    for image, caption in shown:
        small = np.asarray(cv2.resize(image, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA), np.uint8)
        place = np.vstack([_text(caption, THUMB_PX), _bgr(small)])
        places.append(cv2.copyMakeBorder(place, 0, GAP_PX, 0, GAP_PX, cv2.BORDER_CONSTANT, value=WHITE))
    places += [np.full_like(places[0], 255)] * (-len(places) % columns)
    return np.vstack([np.hstack(places[k : k + columns]) for k in range(0, len(places), columns)])


def _bgr(image: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR), np.uint8)


def _text(text: str, width: int) -> Picture:
    """One line of text, as wide as asked, made smaller until it fits."""
    strip = np.full((CAPTION_PX, width, 3), 255, np.uint8)
    scale = 0.5
    (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, (width - 8) / max(1, wide))
    cv2.putText(strip, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, scale, BLACK, 1, cv2.LINE_AA)
    return strip
