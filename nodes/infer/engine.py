"""What executes the model: the only place that knows ``ilcs_model``. Loads, warms up, infers."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.errors import ConfigError, NodeError
from pipeline.frame import ModelId
from pipeline.model_file import Model, find_model, read_model
from pipeline.stage import Pixels


class Engine(Protocol):
    """A loaded model."""

    name: str
    """What runs, and in which precision: ``openvino-bf16``."""

    def __call__(self, tiles: Pixels) -> NDArray[np.float32]:
        """uint8 (N, S, S) -> logits (N, K), any N from 1. Blocks; may be called from one thread only."""
        ...


class Loaded:
    """An engine with what the line must say of its model."""

    def __init__(self, engine: Engine, model: Model, digest: str) -> None:
        self.engine, self.model = engine, model
        self.id = ModelId(name=model.name, digest=digest)


def load_engine(config: Config) -> Loaded:
    """Load the configured model into the configured engine and run it once.

    Raises ``ConfigError`` for a model that cannot be used, ``NodeError`` for an engine that does not work here.
    """
    from ilcs_model.info import digest

    path = find_model(config.infer.model)
    model, sha = read_model(path), digest(path)
    if config.infer.engine == "eager":
        engine: Engine = EagerEngine(path)
    else:
        engine = OpenVinoEngine(path, sha, config.state / "engines")
    side = model.recipe.size_px
    for count in (1, config.infer.max_batch):
        logits = engine(np.zeros((count, side, side), np.uint8))
        if logits.shape != (count, len(model.classes)) or not np.isfinite(logits).all():
            raise NodeError(f"{path}: the engine {engine.name} gives {logits.shape} scores, not finite ({count}, {len(model.classes)})")
    return Loaded(engine, model, sha)


class EagerEngine:
    """Plain PyTorch, float32, on the CPU: the reference that other engines are held against."""

    name = "eager-f32"

    def __init__(self, path: Path) -> None:
        import torch

        from ilcs_model.errors import ModelFileError
        from ilcs_model.files import load_model

        self._torch = torch
        try:
            self._model, _ = load_model(path)
        except ModelFileError as exc:
            raise ConfigError(str(exc)) from exc

    def __call__(self, tiles: Pixels) -> NDArray[np.float32]:
        with self._torch.inference_mode():
            logits: NDArray[np.float32] = self._model(self._torch.from_numpy(tiles)[:, None]).numpy()
        return logits


class OpenVinoEngine:
    """OpenVINO on the CPU, bfloat16 where the processor has it.

    The converted model is kept under ``cache``, by digest of weights and code and by version: converting needs torch
    and takes seconds, and a node that was killed must be back sooner than that.
    """

    def __init__(self, path: Path, sha: str, cache: Path) -> None:
        from ilcs_model.info import code_digest
        from ilcs_model.silent import import_openvino

        ov = import_openvino()
        core = ov.Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.name = "openvino-bf16" if bf16 else "openvino-f32"
        made_by = f"{sha} {code_digest()} {ov.__version__}"
        folder = cache / hashlib.sha256(made_by.encode()).hexdigest()[:24]
        settings = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "PERFORMANCE_HINT": "LATENCY"}
        try:
            model = core.read_model(folder / "model.xml")
        except RuntimeError:  # not converted yet, or damaged
            shutil.rmtree(folder, ignore_errors=True)
            _convert(path, folder)
            model = core.read_model(folder / "model.xml")
        self._compiled: Any = core.compile_model(model, "CPU", settings)
        self._request: Any = self._compiled.create_infer_request()

    def __call__(self, tiles: Pixels) -> NDArray[np.float32]:
        self._request.infer({0: tiles[:, None]}, share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data, np.float32)


def _convert(path: Path, folder: Path) -> None:
    """Model file -> OpenVINO's own format in ``folder``, which appears whole or not at all."""
    from ilcs_model.errors import ModelFileError
    from ilcs_model.export import to_openvino

    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        to_openvino(path, part / "model.xml")
        part.rename(folder)
    except ModelFileError as exc:
        raise ConfigError(str(exc)) from exc
    finally:
        shutil.rmtree(part, ignore_errors=True)
