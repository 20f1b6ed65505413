"""The network through ``torch.compile``: what the engines for CPU and CUDA share, and the one for the CPU."""

import os
import shutil
import sysconfig
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nodes.infer.engines.code_cache import with_kept_code
from nodes.infer.engines.contract import Output, stack
from nodes.infer.engines.converted import Conversion
from nodes.infer.engines.eager import EagerEngine, parts
from nodes.infer.engines.golden_tiles import Engine
from pipeline.core.errors import ConfigError
from pipeline.core.tiles import Pixels

KEPT = "inductor"
"""Folder of compiled code under ``cache``."""
SMALLEST = 2
"""Tiles in the smallest batch that runs: torch treats a batch of one as a special case and would compile it separately."""


def open_compiled(model: Path, cache: Path, max_batch: int) -> Engine:
    """See ``OpenEngine``: on the GPU if torch can use one, else on the CPU. Compiles for a minute or more at the first start.

    The code is kept in ``cache / KEPT`` once its answers were right. Waits while another process compiles there. Also raises
    ``WrongAnswerError``, and ``OSError`` if ``cache`` cannot be written.
    """
    import torch

    def make() -> Engine:
        from nodes.infer.engines.cuda import CudaEngine

        engine: Engine = CudaEngine(model, cache, max_batch) if torch.cuda.is_available() else CompiledEngine(model, cache)
        for count in (1, max_batch):
            engine.golden.check(engine, count)
        return engine

    return with_kept_code(cache / KEPT, make, _forget)


def _forget() -> None:
    import torch

    torch._dynamo.reset()
    torch._inductor.utils.clear_caches()  # loaded libraries, which torch keeps by name


class CompiledEngine:
    """On the CPU, in bfloat16 if the processor has it. The first start takes a minute or more, later ones seconds.

    Raises ``ConfigError`` for a model file that cannot be loaded, or without a compiler.
    """

    gather = staticmethod(stack)

    def __init__(self, path: Path, cache: Path) -> None:
        import torch

        from ilcs_model.export import has_bf16

        self._torch = torch
        eager = EagerEngine(path)
        self.golden = eager.golden
        bf16 = has_bf16("cpu")
        self.name = f"compiled-{'bf16' if bf16 else 'f32'}-cpu"
        self._forward = compile_network(eager, "cpu", bf16, cache)

    def __call__(self, batch: Pixels) -> Output:
        count = len(batch)
        if count < SMALLEST:
            batch = np.repeat(batch, SMALLEST, axis=0)
        tiles = self._torch.from_numpy(batch)  # not under inference_mode: the code was compiled for a tensor made outside it
        with self._torch.inference_mode():
            logits, maps = self._forward(tiles)
        return Output(logits[:count].numpy(), None if maps is None else maps[:count].numpy())


def compile_network(eager: EagerEngine, device: str, bf16: bool, cache: Path) -> Callable[[Any], tuple[Any, Any]]:
    """Compile once for every batch size: uint8 (N, S, S), contiguous, N >= ``SMALLEST`` -> logits (N, K) and maps (N, h, w) or None.

    Both are float32 tensors on ``device``. Changes ``eager``'s network: it moves to ``device``, and batch norms are folded
    (without that, bfloat16 moves probabilities ten times as far). The code is kept under ``cache``; sets the environment
    variable ``TORCHINDUCTOR_CACHE_DIR``. Raises ``ConfigError`` without a compiler, ``RuntimeError`` if compiling fails.
    """
    import torch

    from ilcs_model.export import TYPICAL, Mixed, fold_norms

    need_compiler()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    folded = fold_norms(eager.network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = Mixed(folded, device, bf16)

    def forward(tiles: Any) -> tuple[Any, Any]:
        return parts(network(tiles[:, None]))

    compiled: Callable[[Any], tuple[Any, Any]] = torch.compile(forward, fullgraph=True)
    tiles = torch.zeros(TYPICAL, eager.side, eager.side, dtype=torch.uint8, device=device)
    torch._dynamo.mark_dynamic(tiles, 0)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on parts of its own
        compiled(tiles)
    return compiled


def need_compiler() -> None:
    """Raises ``ConfigError`` if g++ or Python's headers are missing, without which nothing can be compiled."""
    if shutil.which("g++") is None:
        lacks = "a C++ compiler (g++)"
    elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
        lacks = "Python's headers (Python.h)"
    else:
        return
    raise ConfigError(f"the engine compiled needs {lacks}; install it (Debian: apt-get install g++ python3-dev) or choose openvino")


class PackageNetwork:
    """Runs the file that ``ilcs_model.export.to_package`` wrote on this machine. Raises ``RuntimeError`` if torch cannot load it."""

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
    """Conversion to code for this kind of processor or GPU. Raises ``ConfigError`` without a compiler."""
    import torch

    need_compiler()
    return Conversion("model.pt2", f"torch {torch.__version__}", _convert, PackageNetwork)


def _convert(path: Path, target: Path) -> None:
    from ilcs_model.export import to_package

    with tempfile.TemporaryDirectory() as cache:
        to_package(path, target, *_here(), Path(cache))


def _here() -> tuple[str, bool]:
    """The device that a line would use here, and whether it computes in bfloat16."""
    import torch

    from ilcs_model.export import has_bf16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, has_bf16(device)
