"""Compiled code in one file: the network as ``engine: compiled`` runs it, for programs that are not linepipe."""

import tempfile
from pathlib import Path
from typing import Any

from nodes.infer.engines.compiled import cpu_has_bf16, need_compiler
from nodes.infer.engines.contract import Output, stack
from nodes.infer.engines.converted import Conversion
from pipeline.core.tiles import Pixels


class PackageNetwork:
    """What ``ilcs_model.export.to_package`` wrote on this machine."""

    gather = staticmethod(stack)

    def __init__(self, file: Path) -> None:
        import torch

        self._torch = torch
        self._device, bf16 = _here()
        self.name = f"compiled-{'bf16' if bf16 else 'f32'}-{self._device}"
        self._run: Any = torch._inductor.aoti_load_package(str(file))

    def __call__(self, batch: Pixels) -> Output:
        with self._torch.inference_mode():
            found = self._run(self._torch.from_numpy(batch[:, None]).to(self._device))
        logits, *maps = (part.cpu().numpy() for part in (found if isinstance(found, (tuple, list)) else (found,)))
        return Output(logits, maps[0] if maps else None)


def package_form() -> Conversion[PackageNetwork]:
    """Code for this kind of processor or GPU. Raises ``ConfigError`` without a compiler."""
    import torch

    need_compiler()
    return Conversion("model.pt2", f"torch {torch.__version__}", _convert, PackageNetwork)


def _convert(path: Path, target: Path) -> None:
    from ilcs_model.export import to_package

    with tempfile.TemporaryDirectory() as cache:
        to_package(path, target, *_here(), Path(cache))


def _here() -> tuple[str, bool]:
    """Device, and whether it computes in bfloat16: what a line would take."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.is_bf16_supported(including_emulation=False)
    return "cpu", cpu_has_bf16()
