"""OpenVINO without its usage reports."""

import sys
from typing import Any


def import_openvino() -> Any:
    """The module ``openvino``. Its converter reports each use to its makers unless told otherwise; here it is told.

    Must be the process's first import of openvino.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: importing it fails
    import openvino

    return openvino
