"""Golden tiles: tiles whose answer is known. They show whether an engine answers correctly.

They are noise from a fixed seed, and one flat tile. Grains and contrasts are such that `ilcs-neu` gives every class, with
probabilities far from 0 and 1, which change most when something is wrong. Their answer is that of the float32 network.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nodes.infer.engines.contract import Network, softmax
from pipeline.core.errors import NodeError
from pipeline.core.tiles import Pixels

TOLERANCE = 0.1
"""Largest allowed difference of a probability from the reference. bfloat16 moves those of golden tiles by up to 0.01, those of
NEU's images by up to 0.04, and none of those tried by 0.1."""
_NOISE = ((75, 0, 256), (300, 100, 140), (20, 150, 152), (60, 0, 256), (15, 100, 140), (12, 100, 140), (8, 150, 152), (1, 150, 151))
"""Grains along a tile's side, and the range of grey levels (end exclusive)."""


class WrongAnswerError(NodeError):
    """An engine gives a golden tile another answer than the reference."""


class Golden:
    """The golden tiles of one model, ``side`` px wide, with their answer ``scores``: float32 (G, K), from the float32 network."""

    def __init__(self, side: int, scores: NDArray[np.float32]) -> None:
        self.tiles, self.scores = golden_tiles(side), scores
        self._next = 0

    def check(self, engine: Network, count: int) -> None:
        """Have ``engine`` judge the next ``count`` golden tiles, in turn, in one batch.

        Raises ``WrongAnswerError`` if a probability differs by more than ``TOLERANCE``, and what ``engine`` raises.
        """
        chosen = [(self._next + k) % len(self.tiles) for k in range(count)]
        self._next = (self._next + count) % len(self.tiles)
        logits = engine(engine.gather(list(self.tiles[chosen]))).logits
        right = self.scores[chosen]
        if logits.shape != right.shape:
            raise WrongAnswerError(f"the engine {engine.name} gives scores of shape {logits.shape}, not {right.shape}")
        found = softmax(logits)
        wrong = ~(np.abs(found - right).max(axis=1) <= TOLERANCE)  # also where it is not a number
        if wrong.any():
            k = int(wrong.argmax())
            raise WrongAnswerError(
                f"the engine {engine.name} answers wrongly: golden tile {chosen[k]}, in a batch of {count}, has the probabilities"
                f" {_text(right[k])}; it says {_text(found[k])}. If this comes back after a restart, the device or its memory is"
                " at fault: check it, or choose another infer.engine"
            )


class Engine(Network, Protocol):
    """A network that runs, with golden tiles that show whether its answers are right."""

    golden: Golden
    """Tiles whose answer is known."""


class OpenEngine(Protocol):
    """A function that opens an engine, as the table of engines names it."""

    def __call__(self, model: Path, cache: Path, max_batch: int) -> Engine:
        """The network of the model file ``model``, ready for batches of 1 to ``max_batch`` tiles.

        ``cache``: a folder for files that take long to make; it may be emptied at any time. Raises ``ConfigError`` or
        ``ModelFileError`` if the model cannot be used or something must be installed, ``RuntimeError`` if the device does not
        work, ``WrongAnswerError`` for a wrong answer. The caller checks the engine with its golden tiles.
        """
        ...


def golden_tiles(side: int) -> Pixels:
    """The golden tiles: uint8 (G, side, side), the same in every process."""
    rng = np.random.default_rng(7)
    return np.stack([_noise(rng, side, *kind) for kind in _NOISE])


def _noise(rng: np.random.Generator, side: int, grains: int, darkest: int, brightest: int) -> Pixels:
    grain = -(-side // grains)
    levels = rng.integers(darkest, brightest, (grains, grains), np.uint8)
    return levels.repeat(grain, axis=0).repeat(grain, axis=1)[:side, :side]


def _text(row: NDArray[np.float32]) -> str:
    return "[" + " ".join(f"{value:.2f}" for value in row) + "]"
