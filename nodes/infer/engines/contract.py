"""What every engine does: gathers tiles into a batch, turns a batch into scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.tiles import Pixels


class Output(NamedTuple):
    """The network's answer for N tiles, in host memory."""

    logits: NDArray[np.float32]
    """(N, K), a column for each class."""
    maps: NDArray[np.float32] | None
    """(N, h, w), above 0 where the defect is; None from a network that does not locate."""


class Network(Protocol):
    """A network that is loaded and ready to run."""

    name: str
    """Library and precision: ``openvino-bf16``."""

    def gather(self, tiles: Sequence[Any]) -> Any:
        """Tiles, each uint8 (S, S) in host memory or a torch tensor on the GPU -> a batch for ``__call__``.

        The caller must keep the tiles until the batch has its answer. May be called from any thread.
        """
        ...

    def __call__(self, batch: Any) -> Output:
        """The network's answer for 1 to ``max_batch`` tiles. Blocks; one call at a time. Raises ``RuntimeError`` if the device fails."""
        ...


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits, float32 (N, K), -> probabilities, float32 (N, K); each row sums to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def stack(tiles: Sequence[Any]) -> Pixels:
    """The ``gather`` of engines that work in host memory: N tiles, at least one, -> uint8 (N, S, S)."""
    return np.stack([tile if isinstance(tile, np.ndarray) else tile.cpu().numpy() for tile in tiles])
