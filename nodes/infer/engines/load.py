"""Opens the configured model in the configured engine, and checks it with golden tiles before a line relies on it."""

import logging
from pathlib import Path

from nodes.infer.engines.code_cache import clear
from nodes.infer.engines.golden_tiles import Engine, OpenEngine, WrongAnswerError
from pipeline.config import Config
from pipeline.config.model_file import Model, model_of_line, read_model
from pipeline.config.plugins import ENGINES
from pipeline.core.errors import ConfigError, LinepipeError, NodeError
from pipeline.core.frame import ModelId
from pipeline.system.cuda import has_cuda


class Loaded:
    """An engine, and the model that it runs. ``id``: name and digest of the model, as verdicts state them."""

    def __init__(self, engine: Engine, model: Model, digest: str) -> None:
        self.engine, self.model = engine, model
        self.id = ModelId(name=model.name, digest=digest)


def load_engine(config: Config, began_with: str | None = None) -> Loaded:
    """Load the line's model, run the smallest and the largest batch, and compare with the known answers.

    ``began_with``: digest of the model with which the line began; None: any model is accepted. Compiled or converted files are
    kept under ``state / "engines"``. Raises ``NodeError`` for a model other than ``began_with``, and what ``open_engine`` raises.
    """
    path, sha = model_of_line(config.infer.model, began_with)
    model = read_model(path)
    kind = config.infer.engine if config.infer.engine != "auto" else _best()
    return Loaded(open_engine(kind, path, config.state / "engines", config.infer.max_batch), model, sha)


def open_engine(kind: str, path: Path, cache: Path, max_batch: int) -> Engine:
    """Open the engine named ``kind`` on a model file, and check its answers for golden tiles in batches of 1 and ``max_batch``.

    Files that the engine makes are kept under ``cache``; after a wrong answer that folder is emptied. May take a minute or more.
    Raises ``ConfigError`` for an unknown engine, a model that cannot be used or a missing library, ``NodeError`` if the engine
    does not work here or answers wrongly, ``OSError``, ``ValueError`` or ``EOFError`` if files in ``cache`` cannot be used.
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
        clear(cache)  # the kept files may be the cause: the next start makes them again
        raise
    except RuntimeError as exc:  # torch's or OpenVINO's own: no memory, a broken driver, a compiler that fails
        raise NodeError(
            f"the model does not run here in the engine {kind}: {exc}. Look at the device, or choose another infer.engine"
        ) from exc
    except Exception as exc:
        if ENGINES.is_own(kind) or isinstance(exc, LinepipeError):
            raise
        raise NodeError(f"the engine {kind} breaks its promises ({type(exc).__name__}: {exc}); mend or remove its package") from exc
    return engine


def _best() -> str:
    """``compiled`` on CUDA, else ``openvino``, which needs no compiler. Imports torch, which takes a second, only if there is a GPU."""
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
