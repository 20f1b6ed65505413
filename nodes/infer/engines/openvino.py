"""OpenVINO on the CPU, bfloat16 where the processor has it."""

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nodes.infer.engines.contract import Output, stack
from nodes.infer.engines.golden import Golden, golden_tiles
from pipeline.errors import NodeError
from pipeline.stage import Pixels


class OpenVinoEngine:
    """A converted model is kept under ``cache`` with its golden answers, by digest of weights and code and by version.

    Converting needs torch and takes seconds, and a node that was killed must be back sooner than that. One that cannot
    be read or answers wrongly is made anew, once; then ``NodeError``.
    """

    gather = staticmethod(stack)

    def __init__(self, path: Path, sha: str, side: int, cache: Path) -> None:
        from ilcs_model.info import code_digest
        from ilcs_model.silent import import_openvino

        ov = import_openvino()
        self._core = ov.Core()
        bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.name = "openvino-bf16" if bf16 else "openvino-f32"
        self._settings = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "PERFORMANCE_HINT": "LATENCY"}
        made_by = f"{sha} {code_digest()} {ov.__version__} ".encode() + golden_tiles(side).tobytes()
        folder = cache / hashlib.sha256(made_by).hexdigest()[:24]
        try:
            self._open(folder, side)
        except (OSError, EOFError, ValueError, RuntimeError, NodeError) as exc:
            if folder.exists():
                logging.getLogger(__name__).warning("the converted model in %s is damaged and made anew: %s", folder, exc)
            shutil.rmtree(folder, ignore_errors=True)
            _convert(path, folder)
            self._open(folder, side)

    def _open(self, folder: Path, side: int) -> None:
        self.golden = Golden(side, np.load(folder / "golden.npy"))
        self._request: Any = self._core.compile_model(folder / "model.xml", "CPU", self._settings).create_infer_request()
        self.golden.check(self, len(self.golden.tiles))

    def __call__(self, batch: Pixels) -> Output:
        self._request.infer({0: batch[:, None]}, share_inputs=True)
        found = [np.array(tensor.data, np.float32) for tensor in self._request.output_tensors]
        return Output(found[0], found[1] if len(found) > 1 else None)


def _convert(path: Path, folder: Path) -> None:
    """Model file -> OpenVINO's own format and golden answers in ``folder``, which appears whole or not at all."""
    from ilcs_model.export import to_openvino
    from nodes.infer.engines.eager import EagerEngine

    golden = EagerEngine(path).golden
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        to_openvino(path, part / "model.xml")
        np.save(part / "golden.npy", golden.scores)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
