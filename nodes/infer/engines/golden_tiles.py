"""Golden tiles: tiles whose answer is known, by which an engine that has gone wrong is found.

They are noise of a seed, in grains and contrasts for which `ilcs-neu` gives every class, with probabilities far from 0
and 1, where they move most when something is wrong, and a flat one. Their answer is that of the float32 network.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nodes.infer.engines.contract import Network, softmax
from pipeline.core.errors import NodeError
from pipeline.core.tiles import Pixels

TOLERANCE = 0.1
"""How far a probability may lie from the reference's. bfloat16 moves those of the golden tiles by up to 0.01, those of
NEU's images by up to 0.04, and none that was tried by 0.1."""
_NOISE = ((75, 0, 256), (300, 100, 140), (20, 150, 152), (60, 0, 256), (15, 100, 140), (12, 100, 140), (8, 150, 152), (1, 150, 151))
"""Grains along a tile's side, and the range of grey levels."""


class WrongAnswerError(NodeError):
    """An engine gives a golden tile another answer than the reference."""


class Golden:
    """The golden tiles of one model with their answer; ``scores``: (G, K), from the float32 network."""

    def __init__(self, side: int, scores: NDArray[np.float32]) -> None:
        self.tiles, self.scores = golden_tiles(side), scores
        self._next = 0

    def check(self, engine: Network, count: int) -> None:
        """Have ``engine`` judge the next ``count`` of them in one batch. Raises ``WrongAnswerError``."""
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
    """What the table of engines names."""

    def __call__(self, model: Path, cache: Path, max_batch: int) -> Engine:
        """The network of the model file ``model``, ready for batches of 1 to ``max_batch`` tiles.

        ``cache``: a folder for what takes long to make; it may be emptied at any time. Raises ``ConfigError`` if the model
        cannot be used, or something must be installed; ``RuntimeError`` if the device does not work. The caller tries it on
        its golden tiles.
        """
        ...


def golden_tiles(side: int) -> Pixels:
    """uint8 (G, side, side), the same in every process."""
    rng = np.random.default_rng(7)
    return np.stack([_noise(rng, side, *kind) for kind in _NOISE])


def _noise(rng: np.random.Generator, side: int, grains: int, darkest: int, brightest: int) -> Pixels:
    grain = -(-side // grains)
    levels = rng.integers(darkest, brightest, (grains, grains), np.uint8)
    return levels.repeat(grain, axis=0).repeat(grain, axis=1)[:side, :side]


def _text(row: NDArray[np.float32]) -> str:
    return "[" + " ".join(f"{value:.2f}" for value in row) + "]"
