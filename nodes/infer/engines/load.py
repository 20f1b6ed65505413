"""The configured model in the configured engine, tried on golden tiles before a line relies on it."""

import logging
from pathlib import Path

from nodes.infer.engines.code_cache import clear
from nodes.infer.engines.golden_tiles import Engine, OpenEngine, WrongAnswerError
from pipeline.config import Config
from pipeline.config.model_file import Model, model_of_line, read_model
from pipeline.config.plugins import ENGINES
from pipeline.core.errors import ConfigError, NodeError
from pipeline.core.frame import ModelId
from pipeline.system.cuda import has_cuda


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
    """The engine of that name on a model file, tried on golden tiles as ``load_engine`` says.

    What an engine makes of the file is kept under ``cache``, where it finds it again. Raises what ``load_engine`` does.
    """
    from ilcs_model.errors import ModelFileError

    open_: OpenEngine = ENGINES.load(kind)
    try:
        engine = open_(path, cache, max_batch)
        for count in (1, max_batch):
            engine.golden.check(engine, count)
    except ModelFileError as exc:
        raise ConfigError(str(exc)) from exc
    except WrongAnswerError:
        clear(cache)  # what is kept there may be why: the next start makes it anew
        raise
    except RuntimeError as exc:  # torch's or OpenVINO's own: no memory, a broken driver, a compiler that fails
        raise NodeError(f"the model does not run here: {exc}. Look at the device, or choose another infer.engine") from exc
    return engine


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
