"""OpenVINO and ONNX Runtime without their usage reports. Each must be the process's first import of its library."""

import os
import sys
from typing import Any


def import_openvino() -> Any:
    """The module ``openvino``, without the reports that its converter sends to its makers. Raises ``ImportError`` without it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: importing it fails
    import openvino

    return openvino


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``, without its reports. Raises ``ImportError`` without it.

    From 1.29 on it reports sessions and models to its makers, and keeps an id of the machine.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime
