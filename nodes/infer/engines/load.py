"""The configured model in the configured engine, tried on golden tiles before a line relies on it."""

import logging
from pathlib import Path

from nodes.infer.engines.code_cache import clear, with_kept_code
from nodes.infer.engines.golden_tiles import Engine, WrongAnswerError
from pipeline.config import Config
from pipeline.config.model_file import Model, model_of_line, read_model
from pipeline.core.errors import ConfigError, NodeError
from pipeline.core.frame import ModelId
from pipeline.system.cuda import has_cuda

KEPT = "inductor"
"""Folder of compiled code under ``cache``."""


class Loaded:
    """An engine with what the line must say of its model."""

    def __init__(self, engine: Engine, model: Model, digest: str) -> None:
        self.engine, self.model = engine, model
        self.id = ModelId(name=model.name, digest=digest)


def load_engine(config: Config, began_with: str | None = None) -> Loaded:
    """Load, run the smallest and the largest batch, and compare with the known answers.

    ``began_with``: digest of the model with which the line began; None: any will do. Raises ``ConfigError`` for a model
    that cannot be used, ``NodeError`` for another one than that, or an engine that does not work here.
    """
    path, sha = model_of_line(config.infer.model, began_with)
    model = read_model(path)
    kind = config.infer.engine if config.infer.engine != "auto" else _best()
    return Loaded(open_engine(kind, path, config.state / "engines", config.infer.max_batch), model, sha)


def open_engine(kind: str, path: Path, cache: Path, max_batch: int) -> Engine:
    """The engine ``eager``, ``openvino``, ``onnx`` or ``compiled`` on a model file, tried on golden tiles as ``load_engine`` says.

    What an engine makes of the file is kept under ``cache``, where it finds it again. Raises what ``load_engine`` does.
    """
    from ilcs_model.errors import ModelFileError
    from ilcs_model.info import digest, read_info

    def make() -> Engine:
        try:
            engine = _open(kind, path, digest(path), read_info(path).recipe.size_px, cache, max_batch)
        except ModelFileError as exc:
            raise ConfigError(str(exc)) from exc
        for count in (1, max_batch):
            engine.golden.check(engine, count)
        return engine

    try:
        return with_kept_code(cache / KEPT, make, _forget_compiled) if kind == "compiled" else make()
    except WrongAnswerError:
        clear(cache)  # what is kept there may be why: the next start makes it anew
        raise
    except RuntimeError as exc:  # torch's or OpenVINO's own: no memory, a broken driver, a compiler that fails
        raise NodeError(f"the model does not run here: {exc}. Look at the device, or choose another infer.engine") from exc


def _forget_compiled() -> None:
    import torch

    torch._dynamo.reset()
    torch._inductor.utils.clear_caches()  # libraries that are loaded, by name


def _open(kind: str, path: Path, sha: str, side: int, cache: Path, max_batch: int) -> Engine:
    if kind == "eager":
        from nodes.infer.engines.eager import EagerEngine

        return EagerEngine(path)
    if kind == "openvino":
        from nodes.infer.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(path, sha, side, cache)
    if kind == "onnx":
        from nodes.infer.engines.onnx import OnnxEngine

        return OnnxEngine(path, sha, side, cache)
    return _compiled(path, cache, max_batch)


def _best() -> str:
    """``compiled`` on CUDA, else ``openvino``, which needs no compiler. Looks before it imports torch: that takes a second."""
    if not has_cuda():
        return "openvino"
    import torch

    if torch.cuda.is_available():
        return "compiled"
    logging.getLogger(__name__).warning(
        "there is an NVIDIA GPU, but the installed torch %s cannot use it; inspecting on the CPU."
        " Install a torch for CUDA, or write infer.engine: openvino",
        torch.__version__,
    )
    return "openvino"


def _compiled(path: Path, cache: Path, max_batch: int) -> Engine:
    import torch

    from nodes.infer.engines.compiled import CompiledEngine
    from nodes.infer.engines.cuda import CudaEngine

    return CudaEngine(path, cache, max_batch) if torch.cuda.is_available() else CompiledEngine(path, cache)
