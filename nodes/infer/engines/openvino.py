"""OpenVINO on the CPU, in bfloat16 if the processor has it."""

from pathlib import Path
from typing import Any

import numpy as np

from nodes.infer.engines.contract import Output, stack
from nodes.infer.engines.converted import Conversion, open_converted
from nodes.infer.engines.golden_tiles import Golden
from pipeline.core.tiles import Pixels


class OpenVinoNetwork:
    """Runs the file that ``ilcs_model.export.to_openvino`` wrote, as a line does. Raises ``RuntimeError`` if it cannot be loaded."""

    golden: Golden
    """Set by ``open_converted``."""
    gather = staticmethod(stack)

    def __init__(self, file: Path) -> None:
        from ilcs_model.no_telemetry import import_openvino

        core = import_openvino().Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.name = "openvino-bf16" if bf16 else "openvino-f32"
        self.settings = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "PERFORMANCE_HINT": "LATENCY"}
        self._request: Any = core.compile_model(file, "CPU", self.settings).create_infer_request()

    def __call__(self, batch: Pixels) -> Output:
        self._request.infer({0: batch[:, None]}, share_inputs=True)
        found = [np.array(tensor.data, np.float32) for tensor in self._request.output_tensors]
        return Output(found[0], found[1] if len(found) > 1 else None)


def open_openvino(model: Path, cache: Path, max_batch: int) -> OpenVinoNetwork:
    """See ``OpenEngine``. Also raises what ``open_converted`` raises."""
    return open_converted(openvino_form(), model, cache)


def openvino_form() -> Conversion[OpenVinoNetwork]:
    """Conversion to OpenVINO's own format."""
    from ilcs_model.no_telemetry import import_openvino

    return Conversion("model.xml", f"openvino {import_openvino().__version__}", _convert, OpenVinoNetwork)


def _convert(path: Path, target: Path) -> None:
    from ilcs_model.export import to_openvino  # imports torch

    to_openvino(path, target)
