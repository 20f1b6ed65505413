"""How many tiles are still judged rightly once a production line has spoiled them: each kind of corruption, each strength."""

import zlib
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ilcs_model.data.corrupt import HELD_OUT, KINDS, STRENGTHS, TRAINED, Tile

Judge = Callable[[Sequence[Tile]], NDArray[np.float32]]
"""N tiles -> probabilities or logits (N, K)."""
CASES = len(KINDS) * len(STRENGTHS)
"""How often each tile is judged."""


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Top-1, 0..1."""

    strengths: tuple[float, ...]
    """At strengths 1 to 5."""
    mean: float


class Robustness(msgspec.Struct, frozen=True, kw_only=True):
    """Top-1 under each kind of corruption, and the means over all kinds, those that training may use, and the others."""

    seed: int
    kinds: dict[str, Accuracy]
    all: Accuracy
    trained: Accuracy
    held_out: Accuracy


def corrupted(tile: Tile, kind: str, strength: int, seed: int = 0) -> Tile:
    """The tile, uint8 (H, W) or (H, W, 3), spoiled by one of ``KINDS`` at a strength of 1 to 5; same shape and type.

    What is random depends only on the seed (not negative), the tile's pixels, the kind and the strength, not on the order of
    tiles. Raises ``KeyError`` for an unknown kind and ``ValueError`` for an unknown strength.
    """
    stream = (seed, zlib.crc32(tile.tobytes()), zlib.crc32(kind.encode()), strength)
    return KINDS[kind](tile, strength, np.random.default_rng(stream))


def robustness(
    batches: Iterable[tuple[Sequence[Tile], NDArray[np.int64]]],
    judge: Judge,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Robustness:
    """Top-1 of a classifier on corrupted tiles: each tile is judged ``CASES`` times, once for each kind and strength.

    A batch is N tiles, uint8 (S, S) or (S, S, 3), and their labels (N,), columns of what ``judge`` returns. ``judge`` is called
    ``CASES`` times a batch with N tiles; after each call ``progress`` is called with N. The same seed gives the same result.
    Raises ``ValueError`` if there are no tiles; what ``batches`` and ``judge`` raise passes through.
    """
    right, images = dict.fromkeys(KINDS, np.zeros(len(STRENGTHS))), 0
    for tiles, labels in batches:
        images += len(tiles)
        for kind in KINDS:
            hits = []
            for strength in STRENGTHS:
                found = judge([corrupted(tile, kind, strength, seed) for tile in tiles])
                hits.append(int((found.argmax(axis=1) == labels).sum()))
                progress(len(tiles))
            right[kind] = right[kind] + hits
    if not images:
        raise ValueError("no tiles")
    return _summary({kind: counts / images for kind, counts in right.items()}, seed)


def _summary(shares: dict[str, NDArray[np.float64]], seed: int) -> Robustness:
    def mean(kinds: Iterable[str]) -> Accuracy:
        strengths = np.mean([shares[kind] for kind in kinds], axis=0)
        return Accuracy(strengths=tuple(strengths.tolist()), mean=float(strengths.mean()))

    return Robustness(
        seed=seed, kinds={kind: mean([kind]) for kind in KINDS}, all=mean(KINDS), trained=mean(TRAINED), held_out=mean(HELD_OUT)
    )
