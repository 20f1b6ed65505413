"""Plain PyTorch, float32, on the CPU: the reference that other engines are held against."""

from pathlib import Path
from typing import Any

import numpy as np

from nodes.infer.engines.contract import Output, softmax, stack
from nodes.infer.engines.golden_tiles import Golden, golden_tiles
from pipeline.core.errors import ConfigError
from pipeline.core.tiles import Pixels


class EagerEngine:
    """Raises ``ConfigError`` for a model file that cannot be loaded."""

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
    """See ``OpenEngine``; nothing is kept."""
    return EagerEngine(model)


def planes(batch: Pixels) -> Pixels:
    """Tiles (N, S, S), or (N, S, S, 3) of a colour model, as a network takes them: (N, 1 or 3, S, S)."""
    return batch[:, None] if batch.ndim == 3 else np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def parts(found: Any) -> tuple[Any, Any]:
    """Logits and maps of what a network returned: both, or logits alone."""
    return found if isinstance(found, tuple) else (found, None)
