"""Which preprocess runs, by ``preprocess.device`` and by what works here."""

import logging
from typing import Literal

from nodes.preprocess.opencv import OpenCvPreprocess
from pipeline.config import Config
from pipeline.config.model_file import TileRecipe
from pipeline.core.errors import ConfigError
from pipeline.core.tiles import Preprocess
from pipeline.system.cuda import driver

_CUDA_ENGINES = ("auto", "compiled")


def make_preprocess(config: Config, recipe: TileRecipe, log: logging.Logger) -> Preprocess:
    """Make the preprocess of a line, ready to work. Logs which one it is, and why it is not the GPU's although there is one.

    ``auto`` takes the GPU if there is one and the engine may run on it, else OpenCV. Raises ``ConfigError`` if
    ``preprocess.device`` names one that does not work here.
    """
    device = config.preprocess.device
    found: Preprocess | None = None
    if device in ("gpu", "dali"):
        found = _dali(config, recipe, log, "gpu" if device == "gpu" else "cpu")
    elif device == "auto" and config.infer.engine in _CUDA_ENGINES:
        try:
            if driver() is not None:
                found = _dali(config, recipe, log, "gpu")
        except (ConfigError, RuntimeError) as exc:
            log.warning("this machine has a CUDA driver, but preprocess runs on the CPU: %s", exc)
    found = found or OpenCvPreprocess(config, recipe)
    log.info("preprocess %s", found.name)
    return found


def _dali(config: Config, recipe: TileRecipe, log: logging.Logger, backend: Literal["cpu", "gpu"]) -> Preprocess:
    """Import DALI only when it is needed: it takes seconds, and torch with it on a GPU. Raises ``ConfigError``."""
    try:
        from nodes.preprocess.dali import DaliPreprocess

        return DaliPreprocess(config, recipe, log, backend)
    except ImportError as exc:
        why, remedy = str(exc), "install nvidia-dali-cuda130 (x86_64 only)"
    except (RuntimeError, AssertionError) as exc:  # torch asserts that it was built with CUDA
        why, remedy = str(exc).strip().splitlines()[0], "install a CUDA driver and a torch built for CUDA"
    what = "DALI" if backend == "cpu" else "DALI on a CUDA device"
    raise ConfigError(f"preprocess.device: {what} does not work here ({why}); {remedy}, or set preprocess.device to cpu")
