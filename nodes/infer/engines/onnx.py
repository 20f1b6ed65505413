"""ONNX Runtime, float32: on an NVIDIA GPU if the installed build can use one, else on the CPU."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

from nodes.infer.engines.contract import Output, stack
from nodes.infer.engines.converted import Conversion, open_converted
from nodes.infer.engines.golden_tiles import Golden
from pipeline.core.errors import ConfigError
from pipeline.core.tiles import Pixels
from pipeline.system.cuda import has_cuda

_CUDA = "CUDAExecutionProvider"


class OnnxNetwork:
    """Runs an ONNX file with the input tiles and the outputs logits and, from a network that locates, maps.

    Constructor and call raise ``RuntimeError`` for any error of ONNX Runtime.
    """

    golden: Golden
    """Set by ``open_converted``."""
    gather = staticmethod(stack)

    def __init__(self, file: Path) -> None:
        from ilcs_model.no_telemetry import import_onnxruntime

        ort = import_onnxruntime()
        providers: list[Any] = ["CPUExecutionProvider"]
        if _CUDA in ort.get_available_providers() and has_cuda():
            providers.insert(0, (_CUDA, {"use_tf32": 0}))  # TF32 keeps 10 bits, which is not the float32 that the name promises
        try:
            self._session: Any = ort.InferenceSession(file, providers=providers)
        except Exception as exc:  # its errors have no base but Exception
            raise RuntimeError(f"ONNX Runtime: {exc}") from exc
        on_cuda = _CUDA in self._session.get_providers()
        if len(providers) > 1 and not on_cuda:
            logging.getLogger(__name__).warning("ONNX Runtime cannot use the NVIDIA GPU here; inspecting on the CPU")
        self.name = f"onnx-f32-{'cuda' if on_cuda else 'cpu'}"
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: Pixels) -> Output:
        try:
            logits, *maps = self._session.run(None, {self._input: batch[:, None]})
        except Exception as exc:
            raise RuntimeError(f"ONNX Runtime: {exc}") from exc
        return Output(logits, maps[0] if maps else None)


def open_onnx(model: Path, cache: Path, max_batch: int) -> OnnxNetwork:
    """See ``OpenEngine``. Raises what ``onnx_form`` and ``open_converted`` raise."""
    return open_converted(onnx_form(), model, cache)


def onnx_form() -> Conversion[OnnxNetwork]:
    """Conversion to ONNX. Raises ``ConfigError`` if onnx or onnxruntime is not installed."""
    if missing := [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"the engine onnx needs {' and '.join(missing)}: pip install 'linepipe[onnx]', or choose the engine openvino")
    from ilcs_model.no_telemetry import import_onnxruntime

    return Conversion("model.onnx", f"onnxruntime {import_onnxruntime().__version__}", _convert, OnnxNetwork)


def _convert(path: Path, target: Path) -> None:
    from ilcs_model.export import to_onnx  # imports torch

    to_onnx(path, target)
