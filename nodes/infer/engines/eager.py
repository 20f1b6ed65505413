"""Plain PyTorch, float32, on the CPU: the reference with which other engines are compared."""

from pathlib import Path
from typing import Any

import numpy as np

from nodes.infer.engines.contract import Output, softmax, stack
from nodes.infer.engines.golden_tiles import Golden, golden_tiles
from pipeline.core.errors import ConfigError
from pipeline.core.tiles import Pixels


class EagerEngine:
    """The network of a model file, and its golden answers. Raises ``ConfigError`` for a file that cannot be loaded."""

    name = "eager-f32"
    gather = staticmethod(stack)

    def __init__(self, path: Path) -> None:
        import torch

        from ilcs_model.errors import ModelFileError
        from ilcs_model.files import load_model

        self._torch = torch
        try:
            self.network, info = load_model(path)
        except ModelFileError as exc:
            raise ConfigError(str(exc)) from exc
        self.side = info.recipe.size_px
        self.golden = Golden(self.side, softmax(self(golden_tiles(self.side)).logits))

    def __call__(self, batch: Pixels) -> Output:
        with self._torch.inference_mode():
            logits, maps = parts(self.network(self._torch.from_numpy(planes(batch))))
        return Output(logits.numpy(), None if maps is None else maps.numpy())


def open_eager(model: Path, cache: Path, max_batch: int) -> EagerEngine:
    """See ``OpenEngine``; writes nothing to ``cache``."""
    return EagerEngine(model)


def planes(batch: Pixels) -> Pixels:
    """Tiles, uint8 (N, S, S), or (N, S, S, 3) for a colour model, as a network takes them: uint8 (N, 1 or 3, S, S)."""
    return batch[:, None] if batch.ndim == 3 else np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def parts(found: Any) -> tuple[Any, Any]:
    """(logits, maps) of what a network returned; maps are None if it returned logits alone."""
    return found if isinstance(found, tuple) else (found, None)
