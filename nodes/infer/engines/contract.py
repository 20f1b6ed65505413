"""What every engine is: tiles gathered into a batch, a batch into scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.tiles import Pixels


class Output(NamedTuple):
    """What the network says of N tiles."""

    logits: NDArray[np.float32]
    """(N, K), a column for each class."""
    maps: NDArray[np.float32] | None
    """(N, h, w) from a network that locates, else None."""


class Network(Protocol):
    """A network that runs."""

    name: str
    """What runs, and in which precision: ``openvino-bf16``."""

    def gather(self, tiles: Sequence[Any]) -> Any:
        """Tiles, each uint8 (S, S) in host memory or a torch tensor on the GPU -> a batch for ``__call__``.

        The caller keeps the tiles until the batch has its answer. Any thread.
        """
        ...

    def __call__(self, batch: Any) -> Output:
        """The network's answer for 1 to ``max_batch`` tiles. Blocks; one call at a time."""
        ...


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, K) -> (N, K), rows sum to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def stack(tiles: Sequence[Any]) -> Pixels:
    """The ``gather`` of engines that work in host memory: uint8 (N, S, S)."""
    return np.stack([tile if isinstance(tile, np.ndarray) else tile.cpu().numpy() for tile in tiles])
